"""Classification: batches of texts and pairs, and what is kept of each prediction."""

from __future__ import annotations

import pytest
import torch
from made_samples import CLS, PAD, SEP, collate, objective, samples, targets_by_row
from transformers import BertTokenizerFast


def test_batches_of_texts_and_pairs(tokenizer: BertTokenizerFast) -> None:
    pair = [CLS, 10, 11, SEP, 12, SEP]
    rows = samples([pair, [CLS, 13, SEP], [CLS, SEP, 14, SEP]], second_start=[4, 3, 2], label=[2, 0, 1])
    batch = collate(objective("classification", tokenizer, ("a", "b", "c")), rows, [0, 1, 2])
    assert batch.inputs["input_ids"].tolist() == [pair, [CLS, 13, SEP, PAD, PAD, PAD], [CLS, SEP, 14, SEP, PAD, PAD]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0] * 6, [0, 0, 1, 1, 0, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1] * 6, [1] * 3 + [0] * 3, [1] * 4 + [0] * 2]
    assert batch.targets.tolist() == [2, 0, 1]
    assert batch.positions_N.tolist() == [0, 6, 12] and batch.sample_ids_N.tolist() == [0, 1, 2]
    assert (batch.sample_count, batch.target_count, batch.token_count) == (3, 3, 13)
    tensors = (*batch.inputs.values(), batch.targets, batch.positions_N, batch.sample_ids_N)
    assert all(tensor.dtype == torch.int64 for tensor in tensors)


def test_results_are_a_prediction_and_a_label_per_sample(tokenizer: BertTokenizerFast) -> None:
    classification = objective("classification", tokenizer, ("a", "b", "c"))
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    results = classification.results(logits, targets_by_row(torch.tensor([1, 2, 2])))
    assert results.tolist() == [[1, 1], [0, 2], [2, 2]] and results.shape[1] == classification.width
    metrics = classification.metrics(6.0, torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]))  # one class is absent
    assert metrics["f1"] == pytest.approx(2 / 3)  # the mean of 2/3 and 2/3
