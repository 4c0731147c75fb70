"""Causal language modelling: each token but the last of a sample predicts the next one."""

from __future__ import annotations

import math

import pytest
import torch
from made_samples import CLS, PAD, SEP, collate, dense_targets, objective, random_samples, samples, targets_of
from transformers import BertTokenizerFast

from warmup.training.data.samples import IGNORE_INDEX


def test_each_token_predicts_the_next(tokenizer: BertTokenizerFast) -> None:
    batch = collate(objective("clm", tokenizer), samples([[CLS, 7, 8, SEP], [CLS, 9], [5]]), range(3))
    assert batch.inputs["input_ids"].tolist() == [[CLS, 7, 8, SEP], [CLS, 9, PAD, PAD], [5, PAD, PAD, PAD]]
    assert dense_targets(batch).tolist() == [
        [7, 8, SEP, IGNORE_INDEX], [9, *[IGNORE_INDEX] * 3], [IGNORE_INDEX] * 4
    ]  # fmt: skip
    assert (batch.sample_count, batch.target_count, batch.token_count) == (3, 4, 7)
    rows = random_samples(50)
    batch = collate(objective("clm", tokenizer), rows, range(50))
    assert batch.target_count == int(rows.lengths.sum()) - 50
    ids, targets = batch.inputs["input_ids"], dense_targets(batch)
    inner = batch.inputs["attention_mask"][:, 1:] == 1
    assert (targets[:, :-1][inner] == ids[:, 1:][inner]).all() and int(inner.sum()) == batch.target_count
    assert (targets[:, :-1][~inner] == IGNORE_INDEX).all() and (targets[:, -1] == IGNORE_INDEX).all()


def test_results_are_the_counts_of_each_sample(tokenizer: BertTokenizerFast) -> None:
    clm = objective("clm", tokenizer)
    batch = collate(clm, samples([[CLS, 7, 8, SEP], [5], [CLS, 9]]), range(3))
    logits = torch.zeros(4, 10)
    logits[0, 7] = logits[1, 1] = math.log(10)  # right with 10 of 19, wrong with 1 of 19, wrong and right with 1 of 10
    logits[3, 9] = 1e-4
    results = clm.results(logits, targets_of(batch))
    assert results.tolist() == [[1, 3], [0, 0], [1, 1]] and results.shape[1] == clm.width
    loss_sum = float(clm.losses(logits, targets_of(batch)).sum())
    assert loss_sum == pytest.approx(math.log(1.9) + math.log(19) + 2 * math.log(10), abs=2e-4)
    metrics = clm.metrics(loss_sum, results)
    assert (metrics["loss"], metrics["accuracy"], metrics["targets"]) == (loss_sum / 4, 0.5, 4.0)
