"""The gradient of the word embedding: its mean over ranks, exchanged by the rows that they touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from harness import gloo, run_ranks
from torch.profiler import profile
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, BertConfig

from warmup.training.engines.sparse_embedding import (
    SparseEmbeddingGrad,
    add_tied_grad_by_rows,
    sparse_embedding_grad,
)

ROWS, WIDTH = 1000, 8
TOUCHED = ([0, 3, 7, 999], [3], [])  # of three ranks


def _gradient(rank: int) -> torch.Tensor:
    grad = torch.zeros(ROWS, WIDTH)
    for row in TOUCHED[rank]:
        grad[row] = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1000 * rank + row))
    return grad


def _word_embedding(grad: torch.Tensor) -> tuple[SparseEmbeddingGrad, torch.Tensor]:
    """A SparseEmbeddingGrad that holds this gradient, and its buffer."""
    weight = torch.nn.Parameter(torch.zeros_like(grad))
    sparse_grad = SparseEmbeddingGrad(weight)
    weight.grad += grad
    return sparse_grad, weight.grad


def _exchange(rank: int, max_token_ids: int) -> tuple[list, int]:
    """The gradient after the exchange, and the bytes that this rank sent for it."""
    gloo(rank)
    sent = 0
    sparse_grad, grad = _word_embedding(_gradient(rank))
    inner = {name: getattr(torch.distributed, name) for name in ("all_gather", "all_reduce")}

    def counted(name: str):
        def call(*tensors: torch.Tensor) -> None:
            nonlocal sent
            sent += tensors[-1].nbytes
            inner[name](*tensors)

        return call

    for name in inner:
        setattr(torch.distributed, name, counted(name))
    sparse_grad.reduce(np.array(TOUCHED[rank], np.int64), max_token_ids)
    reduced = grad.tolist()
    sparse_grad.clear()
    assert not grad.any()
    return reduced, sent


@pytest.mark.parametrize("max_token_ids", [4, 332, 333, 334, 5000])
def test_it_is_the_mean_over_ranks(max_token_ids: int) -> None:
    """Exchanged by rows if these are fewer than all, else as a whole: 3 * 334 rows are more than 1000."""
    ranks = run_ranks(3, _exchange, max_token_ids)
    assert [rank.error for rank in ranks] == [None] * 3
    expected = sum(_gradient(rank).double() for rank in range(3)) / 3
    reduced = [rank.value[0] for rank in ranks]
    assert reduced[0] == reduced[1] == reduced[2]  # the same bits
    torch.testing.assert_close(torch.tensor(reduced[0]).double(), expected, rtol=1e-6, atol=1e-8)
    bytes_sent = max_token_ids * (8 + 4 * WIDTH) if max_token_ids * 3 < ROWS else ROWS * WIDTH * 4
    assert [rank.value[1] for rank in ranks] == [bytes_sent] * 3


def _config() -> BertConfig:
    torch.manual_seed(0)
    return BertConfig(
        vocab_size=ROWS, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


def _classifier() -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_config(_config())


def _ids(rank: int) -> torch.Tensor:
    return torch.randint(1, ROWS, (3, 10), generator=torch.Generator().manual_seed(rank))


def _loss(model: torch.nn.Module, rank: int) -> torch.Tensor:
    return model(input_ids=_ids(rank)).logits[:, 0].sum()


def _backward(rank: int) -> dict[str, list]:
    """All gradients after two backward passes, as with accumulation, and the reduction."""
    gloo(rank)
    unwrapped_model = _classifier()
    sparse_grad = sparse_embedding_grad(unwrapped_model, torch.device("cpu"))
    model = torch.nn.parallel.DistributedDataParallel(unwrapped_model)
    for _ in range(2):  # the second time after a first
        model.zero_grad()
        sparse_grad.clear()
        with model.no_sync():
            _loss(model, rank).backward()
        _loss(model, rank + 10).backward()
        ids = np.unique(np.concatenate([_ids(number).numpy().ravel() for number in (rank, rank + 10)]))
        alone = unwrapped_model.get_input_embeddings().weight.grad.clone()
        assert sorted(alone.abs().sum(1).nonzero().flatten().tolist()) == ids.tolist()
        sparse_grad.reduce(ids, max_token_ids=60)
        assert not torch.equal(alone, unwrapped_model.get_input_embeddings().weight.grad)
    return {name: parameter.grad.tolist() for name, parameter in unwrapped_model.named_parameters()}


def test_all_gradients_are_those_of_one_rank() -> None:
    ranks = run_ranks(2, _backward)
    assert [rank.error for rank in ranks] == [None] * 2
    assert ranks[0].value == ranks[1].value
    model = _classifier()
    sum(_loss(model, number) for number in (0, 1, 10, 11)).div(2).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(torch.tensor(ranks[0].value[name]), parameter.grad, rtol=1e-4, atol=1e-6)


def test_one_rank_has_nothing_to_exchange() -> None:
    model = _classifier()
    sparse_grad = sparse_embedding_grad(model, torch.device("cpu"))
    for number in (0, 1):
        _loss(model, number).backward()
    reference = _classifier()
    sum(_loss(reference, number) for number in (0, 1)).backward()
    expected = reference.get_input_embeddings().weight.grad
    sparse_grad.reduce(np.unique(torch.cat((_ids(0), _ids(1))).numpy()), max_token_ids=60)
    torch.testing.assert_close(model.get_input_embeddings().weight.grad, expected)
    sparse_grad.clear()
    assert not model.get_input_embeddings().weight.grad.any()


def _update_after_nan(rank: int) -> tuple[list[bool], float]:
    """An engine's updates after a loss of NaN and after a right one, and the largest weight at the end."""
    from types import SimpleNamespace

    from accelerate import Accelerator

    from warmup.training.engines.ddp import DDPEngine

    model = _classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = DDPEngine(Accelerator(cpu=True), model, optimizer, SimpleNamespace(max_grad_norm=1.0))
    touched = SimpleNamespace(token_ids=lambda: np.unique(_ids(rank).numpy()), max_token_ids=30)
    applied = []
    for factor in (float("nan"), 1.0):
        engine.backward(_loss(engine.model, rank) * factor)
        engine.reduce_sparse_grads(touched)
        applied.append(engine.update(torch.zeros(1, dtype=torch.float64))[2])
    return applied, float(model.get_input_embeddings().weight.abs().max())


@pytest.mark.parametrize("world_size", [1, 2])
def test_nothing_is_left_of_a_gradient_that_is_not_finite(world_size: int) -> None:
    """Clipping by a norm of NaN spoils every row, not the touched ones alone."""
    for rank in run_ranks(world_size, _update_after_nan):
        assert rank.error is None, rank.error
        assert rank.value[0] == [False, True] and np.isfinite(rank.value[1])


def test_other_gradients_stay_dense() -> None:
    """A tied head gives every row a gradient."""
    tied, frozen, on_gpu = AutoModelForMaskedLM.from_config(_classifier().config), _classifier(), _classifier()
    frozen.get_input_embeddings().weight.requires_grad = False
    for model, device in ((tied, "cpu"), (frozen, "cpu"), (on_gpu, "cuda")):
        assert sparse_embedding_grad(model, torch.device(device)) is None
        assert not model.get_input_embeddings().sparse
        assert not hasattr(model, "_ddp_params_and_buffers_to_ignore")


def test_a_tied_gradient_is_added_to_the_output_layers_by_rows() -> None:
    """The gradients are the same, and none of the size of the vocabulary is made for the embedding."""

    def gradients(by_rows: bool) -> tuple[dict[str, torch.Tensor], set[str]]:
        model = AutoModelForMaskedLM.from_config(_config())
        if by_rows:
            add_tied_grad_by_rows(model, torch.device("cpu"))
        with profile() as profiler:
            for rank in range(2):  # the second is accumulated
                model(input_ids=_ids(rank)).logits.square().mean().backward()
        grads = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        return grads, {event.key for event in profiler.key_averages()}

    (ours, our_calls), (expected, their_calls) = gradients(True), gradients(False)
    assert "aten::embedding_dense_backward" in their_calls  # of positions and token types it is there in both
    assert "aten::embedding_sparse_backward" in our_calls - their_calls
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        assert gradient.layout == torch.strided
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-8)
