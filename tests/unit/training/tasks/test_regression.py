"""Regression: targets are numbers, any number."""

from __future__ import annotations

import pytest
import torch
from made_samples import CLS, SEP, collate, objective, samples, targets_of
from transformers import BertTokenizerFast

from warmup.training.data.batching.micro_batch import zero_weight


def test_numbers_are_targets_as_they_are(tokenizer: BertTokenizerFast) -> None:
    """-100 too, which stands for no target elsewhere."""
    rows = samples([[CLS, 10, SEP], [CLS, 13, SEP], [CLS, 14, SEP]], second_start=[3] * 3, label=[2.5, -100.0, 0.1])
    regression = objective("regression", tokenizer, ("value",))
    batch = collate(regression, rows, [0, 1, 2])
    assert batch.targets.dtype == torch.float32 and batch.targets.tolist() == [2.5, -100.0, pytest.approx(0.1)]
    assert (batch.target_count, batch.token_count) == (3, 9)
    logits, targets = torch.tensor([[2.0], [-98.0], [0.1]]), targets_of(batch)
    assert float(regression.losses(logits, targets).sum()) == pytest.approx(0.25 + 4.0, rel=1e-6)
    assert regression.losses(logits.bfloat16(), targets).sum().dtype == torch.float32
    results = regression.results(logits, targets)
    assert results.tolist() == [[2.0, 2.5], [-98.0, -100.0], [pytest.approx(0.1)] * 2]
    assert results.shape == (batch.sample_count, regression.width)


def test_a_batch_of_numbers_with_zero_weight(tokenizer: BertTokenizerFast) -> None:
    rows = samples([[CLS, 10, SEP], [CLS, 13, SEP]], second_start=[3, 3], label=[-100.0, 0.0])
    regression = objective("regression", tokenizer, ("value",))
    batch = zero_weight(collate(regression, rows, [0, 1]))
    logits = torch.tensor([[2.0], [3.0]], requires_grad=True)
    loss = regression.losses(logits, targets_of(batch)).sum()
    loss.backward()
    assert (loss.item(), logits.grad.tolist(), batch.target_count) == (0.0, [[0.0], [0.0]], 0)
