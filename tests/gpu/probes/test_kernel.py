"""The kernel of variable-length attention on a real GPU: its numbers, its gradients and its dropout. Products too."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from warmup.training.models import heads, varlen_attention
from warmup.training.models.varlen_attention import SequenceBounds

HEADS, WIDTH = 12, 64


@pytest.fixture(autouse=True)
def gpu(device: str) -> None:
    if device != "cuda":
        pytest.skip("the kernel is for GPUs")


def packed_heads() -> tuple[list[torch.Tensor], SequenceBounds]:
    """Query, key and value (N, H, K) of 64 samples of up to 128 tokens, and where these begin."""
    torch.manual_seed(0)
    lengths = torch.randint(1, 129, (64,))
    size = (int(lengths.sum()), HEADS, WIDTH)
    inputs = [torch.randn(size, device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in range(3)]
    cu_seqlens = varlen_attention._cu_seqlens(tuple(lengths.tolist())).cuda()
    return inputs, SequenceBounds(cu_seqlens, cu_seqlens, 128)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_kernel_passes_its_own_check(compiled: bool) -> None:
    assert varlen_attention.why_unsupported(torch.device("cuda", 0), "bf16", HEADS, WIDTH, compiled) is None


def test_the_kernels_numbers() -> None:
    (query, key, value), bounds = packed_heads()
    output = varlen_attention.kernel(query, key, value, bounds, 0.0).double()
    wide = (tensor.detach().double() for tensor in (query, key, value))
    expected = varlen_attention.masked_attention(*wide, bounds, 0.0)
    assert float((output - expected).norm() / expected.norm()) < 1e-2  # bf16 has 8 bits


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_the_kernels_dropout(dropout: float) -> None:
    """A function of the seed; and backward drops what forward dropped: the output is linear in the values, so that its
    product with any tensor is that of the values with their gradient.
    """
    (query, key, value), bounds = packed_heads()
    factor = torch.randn_like(query).float()
    outputs = []
    for _ in range(2):
        torch.manual_seed(7)
        outputs.append(varlen_attention.kernel(query, key, value, bounds, dropout))
    assert torch.equal(*outputs)
    products = outputs[1].float() * factor
    (gradient,) = torch.autograd.grad(products.sum(), value)
    difference = products.sum() - (gradient.float() * value.float()).sum()
    assert float(difference.abs() / products.abs().sum()) < 2e-3


def milliseconds(work: Callable[[], object], times: int = 50) -> float:
    """Of one call, by the GPU's clock."""
    for _ in range(5):
        work()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(times):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / times


def test_how_fast_the_kernel_is() -> None:
    (query, key, value), bounds = packed_heads()
    gradient = torch.randn_like(query)

    def both() -> None:
        torch.autograd.grad(varlen_attention.kernel(query, key, value, bounds, 0.1), (query, key, value), gradient)

    forward = milliseconds(lambda: varlen_attention.kernel(query, key, value, bounds, 0.1))
    print(f"\nPROBE kernel, 64 samples: {forward:.3f} ms, with backward {milliseconds(both):.3f} ms")


@pytest.mark.parametrize(("rows", "outputs"), [(8192, 3072), (1216, 30522), (1216, 30528)])
def test_how_fast_products_are(rows: int, outputs: int) -> None:
    """Of a feed-forward layer, and of the head with a vocabulary that is no multiple of 64 and with one that is."""
    inputs, weight = (torch.randn(size, 768, device="cuda", dtype=torch.bfloat16) for size in (rows, outputs))
    logits = inputs @ weight.T
    works = (lambda: inputs @ weight.T, lambda: logits @ weight, lambda: logits.T @ inputs)
    rates = [2 * rows * 768 * outputs / milliseconds(work) / 1e9 for work in works]
    found = ", ".join(f"{rate:.0f}" for rate in rates)
    print(f"\nPROBE product ({rows}, 768) x (768, {outputs}), its input's and its weight's gradient: {found} TFLOP/s")
    assert min(rates) > 0


def test_aligned_rows_of_logits() -> None:
    """bert-base's output layer at 15 % of 64 * 128 tokens: the same loss and gradient, and how long each takes."""
    torch.manual_seed(0)
    plain = torch.nn.Linear(768, 30522, device="cuda")
    aligned = copy.deepcopy(plain)
    heads._multiply_aligned(aligned)
    hidden, targets = torch.randn(1216, 768, device="cuda"), torch.randint(30522, (1216,), device="cuda")

    def passes(layer: torch.nn.Linear) -> torch.Tensor:
        layer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            logits = layer(hidden)
        loss = F.cross_entropy(logits.float(), targets)
        loss.backward()
        return loss.detach()

    torch.testing.assert_close(passes(aligned), passes(plain), rtol=1e-3, atol=0)
    assert float((plain.weight.grad - aligned.weight.grad).norm() / plain.weight.grad.norm()) < 1e-2
    times = [milliseconds(lambda layer=layer: passes(layer)) for layer in (plain, aligned)]
    print(f"\nPROBE output layer and loss, both passes: {times[0]:.3f} ms, with aligned rows {times[1]:.3f} ms")
