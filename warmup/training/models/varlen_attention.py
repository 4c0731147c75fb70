"""Attention within samples that lie end to end in one row, by a kernel that is told where each begins.

Nothing is computed between samples, and there is no (T, T) mask to be read. The kernel is FlashAttention (Dao 2023,
arXiv:2307.08691) as it is built into PyTorch: for GPUs since Ampere, in bf16. PyTorch's public ways to it
either take no dropout (`varlen_attn`) or cost milliseconds of the host in each layer (nested tensors), so that the GPU
would wait; hence the operator itself, which is tried on the device before it is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "varlen"


def kernel(
    query_nHK: torch.Tensor,
    key_NHK: torch.Tensor,
    value_NHK: torch.Tensor,
    query_offsets: torch.Tensor,
    key_offsets: torch.Tensor,
    longest: int,
    dropout: float,
) -> torch.Tensor:
    """The places of `query` from query_offsets[i] to query_offsets[i + 1] look at those of `key` between its offsets.

    Offsets are int32, on the device; no sample may be empty, in neither. `longest`: at least the longest one's length.
    """
    return torch.ops.aten._flash_attention_forward(
        query_nHK, key_NHK, value_NHK, query_offsets, key_offsets, longest, longest, dropout, False, False
    )[0]


def enable(model: PreTrainedModel) -> None:
    """Let all layers attend by the kernel where they are told of `offsets`, and as before where they are not."""
    AttentionInterface.register(NAME, _forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    offsets: torch.Tensor | None = None,
    longest: int = 0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers' layers call. query, key, value: (1, H, N, K); gives (1, N, H, K)."""
    if offsets is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, **kwargs)
    flat = (tensor.transpose(1, 2)[0] for tensor in (query, key, value))
    return kernel(*flat, offsets, offsets, longest, dropout)[None], None


def why_unsupported(device: torch.device, precision: str, heads: int, head_size: int, compiled: bool) -> str | None:
    """Why the kernel cannot be used on this rank, in compiled layers if they are; None where it can."""
    if device.type != "cuda":
        return f"there is no kernel for {device.type}"
    if precision != "bf16":
        return f"there is no kernel for the precision {precision!r}; bf16 has one"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than Ampere"
    if head_size % 8 or head_size > 256:
        return f"heads of {head_size} are not a multiple of 8 up to 256"
    try:
        return _why_wrong(device, heads, head_size, compiled)
    except (RuntimeError, TypeError, AttributeError) as error:  # not built in, or another version's operator
        return f"the kernel fails: {str(error).strip().splitlines()[0]}"


def _why_wrong(device: torch.device, heads: int, head_size: int, compiled: bool) -> str | None:
    """What is wrong with the kernel's numbers, on samples of odd lengths of which a part is asked."""
    attend = torch.compile(kernel, dynamic=False) if compiled else kernel
    lengths, asked = (1, 130, 7, 64), (1, 3, 7, 1)
    numbers = torch.Generator().manual_seed(0)

    def some(places: int) -> torch.Tensor:
        tensor = torch.randn(places, heads, head_size, generator=numbers).to(device, torch.bfloat16)
        return tensor.requires_grad_()

    inputs = some(sum(asked)), some(sum(lengths)), some(sum(lengths))
    offsets = [_cu_seqlens(counts).to(device) for counts in (asked, lengths)]
    kept = attend(*inputs, *offsets, 130, 0.0)
    found = [kept, *torch.autograd.grad(kept.float().square().sum(), inputs)]
    reference = masked_attention(*(tensor.float() for tensor in inputs), *offsets, 130, 0.0)
    expected = [reference, *torch.autograd.grad(reference.square().sum(), inputs)]
    dropped = attend(*inputs, *offsets, 130, 0.5)
    found_dropped = [dropped, *torch.autograd.grad(dropped.float().square().sum(), inputs)]
    for ours, theirs in zip(found, expected, strict=True):
        if float((ours - theirs).detach().abs().max()) > 0.05 * float(theirs.detach().abs().max()):
            return "the kernel's numbers are not those of attention with a mask"
    if torch.equal(kept, dropped) or not all(tensor.isfinite().all() for tensor in found_dropped):
        return "the kernel's dropout does not work"
    return None


def masked_attention(
    query_nHK: torch.Tensor,
    key_NHK: torch.Tensor,
    value_NHK: torch.Tensor,
    query_offsets: torch.Tensor,
    key_offsets: torch.Tensor,
    longest: int,
    dropout: float,
) -> torch.Tensor:
    """As `kernel`, with a mask over all places: slow, and on any device."""

    def sample(offsets: torch.Tensor, count: int) -> torch.Tensor:
        return torch.searchsorted(offsets, torch.arange(count, device=offsets.device, dtype=torch.int32), right=True)

    mask_nN = sample(query_offsets, len(query_nHK))[:, None] == sample(key_offsets, len(key_NHK))
    query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query_nHK, key_NHK, value_NHK))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask_nN, dropout_p=dropout)[0].transpose(0, 1)


def _cu_seqlens(counts: tuple[int, ...]) -> torch.Tensor:
    return F.pad(torch.tensor(counts).cumsum(0), (1, 0)).to(torch.int32)
