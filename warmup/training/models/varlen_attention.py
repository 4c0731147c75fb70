"""Attention within packed samples, by a kernel of variable sequence length that knows where each sample begins.

Nothing is computed across samples, and no (T, T) mask is read. The kernel is FlashAttention (Dao 2023,
arXiv:2307.08691) as built into PyTorch, for bf16 on Ampere GPUs and later. PyTorch's public ways to it either have no
dropout (`varlen_attn`) or cost milliseconds of host time per layer, which leaves the GPU waiting (nested tensors).
So this calls the operator itself, after testing it on the device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "varlen"


class SequenceBounds(NamedTuple):
    """Where each of S samples begins and ends among the packed queries and keys. No sample is empty in either."""

    query_cu_seqlens: torch.Tensor
    """(S + 1,) int32, on the device: sample i has the queries from query_cu_seqlens[i] to query_cu_seqlens[i + 1]."""

    key_cu_seqlens: torch.Tensor
    """The same for keys and values."""

    max_seqlen: int
    """An upper bound of the samples' lengths."""


def kernel(
    query_nHK: torch.Tensor, key_NHK: torch.Tensor, value_NHK: torch.Tensor, bounds: SequenceBounds, dropout: float
) -> torch.Tensor:
    """Attention of the queries of each sample to the keys of the same sample.

    Args:
        query_nHK: Queries of all samples, one after another. Their number n may be smaller than that of the keys, N.
        key_NHK: Keys of all samples.
        value_NHK: Values of all samples.
        bounds: Where each sample begins and ends.
        dropout: Probability of dropping an attention weight.

    Returns:
        The outputs, (n, H, K).
    """
    return torch.ops.aten._flash_attention_forward(
        query_nHK,
        key_NHK,
        value_NHK,
        bounds.query_cu_seqlens,
        bounds.key_cu_seqlens,
        bounds.max_seqlen,
        bounds.max_seqlen,
        dropout,
        False,
        False,
    )[0]


def enable(model: PreTrainedModel) -> None:
    """Let all layers use the kernel when the model is called with `cu_seqlens` and `max_seqlen`, else SDPA as before.

    transformers forwards these keyword arguments, which it does not know, to the attention function of every layer.
    """
    AttentionInterface.register(NAME, _attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function as transformers' layers call it: query, key, value (1, H, N, K) to (1, N, H, K)."""
    cu_seqlens = kwargs.get("cu_seqlens")
    if cu_seqlens is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    # squeeze: the backward pass of [0] would fill a tensor with zeros and copy into it, three times in each layer.
    query_NHK, key_NHK, value_NHK = (tensor.transpose(1, 2).squeeze(0) for tensor in (query, key, value))
    bounds = SequenceBounds(cu_seqlens, cu_seqlens, kwargs["max_seqlen"])
    return kernel(query_NHK, key_NHK, value_NHK, bounds, kwargs.get("dropout", 0.0))[None], None


def why_unsupported(device: torch.device, precision: str, heads: int, head_size: int, compiled: bool) -> str | None:
    """Tell why the kernel cannot be used on this rank.

    Args:
        device: The rank's device.
        precision: Accelerate's mixed precision.
        heads: Attention heads per layer.
        head_size: Width of a head.
        compiled: Whether the layers will be compiled; the kernel is then tested in compiled code.

    Returns:
        The reason, or None if the kernel works.
    """
    if device.type != "cuda":
        return f"there is no kernel for {device.type}"
    if precision != "bf16":
        return f"there is no kernel for the precision {precision!r}; bf16 has one"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than Ampere"
    if head_size % 8 or head_size > 256:
        return f"heads of {head_size} are not a multiple of 8 up to 256"
    try:
        return _why_inaccurate(device, heads, head_size, compiled)
    except (RuntimeError, TypeError, AttributeError) as error:  # not built in, or another version's operator
        return f"the kernel fails: {str(error).strip().splitlines()[0]}"


def _why_inaccurate(device: torch.device, heads: int, head_size: int, compiled: bool) -> str | None:
    """Compare the kernel with masked attention, on samples of odd lengths of which only some positions are queries.

    Returns:
        What is wrong with its outputs or gradients, or None.
    """
    attend = torch.compile(kernel, dynamic=False) if compiled else kernel
    key_lengths, query_lengths = (1, 130, 7, 64), (1, 3, 7, 1)
    generator = torch.Generator().manual_seed(0)

    def random_heads(length: int) -> torch.Tensor:
        tensor = torch.randn(length, heads, head_size, generator=generator).to(device, torch.bfloat16)
        return tensor.requires_grad_()

    inputs = random_heads(sum(query_lengths)), random_heads(sum(key_lengths)), random_heads(sum(key_lengths))
    bounds = SequenceBounds(_cu_seqlens(query_lengths).to(device), _cu_seqlens(key_lengths).to(device), 130)
    output = attend(*inputs, bounds, 0.0)
    results = [output, *torch.autograd.grad(output.float().square().sum(), inputs)]
    query, key, value = (tensor.float() for tensor in inputs)
    reference = masked_attention(query, key, value, bounds, 0.0)
    expected = [reference, *torch.autograd.grad(reference.square().sum(), inputs)]
    dropped = attend(*inputs, bounds, 0.5)
    dropped_results = [dropped, *torch.autograd.grad(dropped.float().square().sum(), inputs)]
    for ours, theirs in zip(results, expected, strict=True):
        if float((ours - theirs).detach().abs().max()) > 0.05 * float(theirs.detach().abs().max()):
            return "the kernel's numbers are not those of attention with a mask"
    if torch.equal(output, dropped) or not all(tensor.isfinite().all() for tensor in dropped_results):
        return "the kernel's dropout does not work"
    return None


def masked_attention(
    query_nHK: torch.Tensor, key_NHK: torch.Tensor, value_NHK: torch.Tensor, bounds: SequenceBounds, dropout: float
) -> torch.Tensor:
    """The same as `kernel`, with a mask over all pairs of positions: slow, but works on any device."""

    def sample_ids(cu_seqlens: torch.Tensor, length: int) -> torch.Tensor:
        positions = torch.arange(length, device=cu_seqlens.device, dtype=torch.int32)
        return torch.searchsorted(cu_seqlens, positions, right=True)

    query_ids_n = sample_ids(bounds.query_cu_seqlens, len(query_nHK))
    mask_nN = query_ids_n[:, None] == sample_ids(bounds.key_cu_seqlens, len(key_NHK))
    query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query_nHK, key_NHK, value_NHK))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask_nN, dropout_p=dropout)[0].transpose(0, 1)


def _cu_seqlens(lengths: tuple[int, ...]) -> torch.Tensor:
    return F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)
