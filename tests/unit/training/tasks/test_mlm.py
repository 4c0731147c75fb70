"""Masked language modelling: how many tokens of a sample are predicted, which, and what the model sees there."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_samples import (
    CLS,
    MASK,
    PAD,
    SEP,
    UNK,
    VOCABULARY,
    collate,
    dense_targets,
    mlm,
    random_samples,
    samples,
    targets_by_row,
)
from transformers import BertTokenizerFast

from warmup.errors import UserError
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.tasks.task import evaluation_batch


def test_masks_are_80_10_10(tokenizer: BertTokenizerFast) -> None:
    """Devlin et al. 2018, section 3.1. Bounds are five standard deviations of a binomial."""
    rows = random_samples(2000)
    batch = collate(mlm(tokenizer), rows, range(2000))
    original, _, _ = rows.gather(np.arange(2000))
    original, inputs, targets = torch.from_numpy(original), batch.inputs["input_ids"], dense_targets(batch)
    chosen = targets != IGNORE_INDEX
    assert (targets[chosen] == original[chosen]).all()
    assert (inputs[~chosen] == original[~chosen]).all()
    assert int(chosen.sum()) == len(batch.targets) == batch.target_count > 8000
    assert not torch.isin(original[chosen], torch.arange(5)).any()  # special tokens are never predicted
    masked, kept = inputs[chosen] == MASK, inputs[chosen] == original[chosen]
    other = ~masked & ~kept
    assert not torch.isin(inputs[chosen][other], torch.arange(5)).any()  # nor drawn as replacements
    count = batch.target_count
    same = 0.1 / (VOCABULARY - 5)  # another token may be the same one
    for outcome, probability in ((masked, 0.8), (kept, 0.1 + same), (other, 0.1 - same)):
        deviation = math.sqrt(count * probability * (1 - probability))
        assert abs(int(outcome.sum()) - count * probability) < 5 * deviation
    # Every regular token is drawn as a replacement, about as often as any: chi-square of 195 - 1 freedom.
    drawn = np.bincount(inputs[chosen][other].numpy(), minlength=VOCABULARY)[5:]
    assert drawn.min() >= 0 and ((drawn - drawn.mean()) ** 2).sum() / drawn.mean() < 194 + 5 * math.sqrt(2 * 194)
    assert (drawn > 0).mean() > 0.95


def test_every_position_of_a_sample_is_chosen_as_often(tokenizer: BertTokenizerFast) -> None:
    rows = samples([[CLS, *range(10, 30), SEP]] * 4000)
    counts = (dense_targets(collate(mlm(tokenizer), rows, range(4000))) != IGNORE_INDEX).sum(0).numpy()
    assert counts[0] == counts[-1] == 0 and counts.sum() == 4000 * 3
    # Three of twenty without replacement: 17/19 of a chi-square of 19 freedom, beyond 40 in 0.1% of all cases.
    chi_square = ((counts[1:-1] - 600) ** 2 / 600).sum()
    assert chi_square < 40  # measured: 10.7


@pytest.mark.parametrize("rate", ["0.15", "0.01", "0.5", "0.99"])
def test_the_number_of_targets_of_each_sample(tokenizer: BertTokenizerFast, rate: str) -> None:
    """max(1, round(rate * n)), half rounded up: create_pretraining_data.py of Devlin et al. 2018, there with n of all
    tokens and Python's round, which takes half to even."""
    sizes = range(0, 121)
    rows = samples([[CLS, *[9] * size, SEP] for size in sizes])
    batch = collate(mlm(tokenizer, float(rate)), rows, sizes)
    expected = [min(size, max(1, math.floor(Fraction(rate) * size + Fraction(1, 2)))) for size in sizes]
    assert (dense_targets(batch) != IGNORE_INDEX).sum(1).tolist() == expected
    assert torch.bincount(batch.sample_ids_N, minlength=121).tolist() == expected
    assert batch.target_count == sum(expected) and batch.sample_count == 121
    assert batch.token_count == sum(sizes) + 2 * 121
    if rate == "0.15":  # by hand
        assert [expected[size] for size in (0, 1, 3, 9, 10, 16, 17, 30, 100)] == [0, 1, 1, 1, 2, 2, 3, 5, 15]


def test_special_tokens_within_a_text_are_not_chosen(tokenizer: BertTokenizerFast) -> None:
    rows = samples([[CLS, UNK, 7, SEP, MASK, SEP]] * 50)
    targets = dense_targets(collate(mlm(tokenizer, 0.9), rows, range(50)))
    assert ((targets != IGNORE_INDEX).sum(0) == torch.tensor([0, 0, 50, 0, 0, 0])).all()


@given(st.lists(st.integers(0, 19), min_size=1, max_size=8), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_masks_do_not_depend_on_the_rest_of_the_batch(indices: list[int], epoch: int) -> None:
    objective, rows = OBJECTIVE_AND_ROWS
    batch = collate(objective, rows, indices, epoch)
    targets = dense_targets(batch)
    for row, index in enumerate(indices):
        alone = collate(objective, rows, [index], epoch)
        length = int(rows.lengths[index])
        assert (batch.inputs["input_ids"][row, :length] == alone.inputs["input_ids"][0]).all()
        assert (targets[row, :length] == dense_targets(alone)[0]).all()
        assert torch.equal(batch.targets[batch.sample_ids_N == row], alone.targets)
        assert (batch.inputs["input_ids"][row, length:] == PAD).all()
        assert (targets[row, length:] == IGNORE_INDEX).all()
        assert batch.inputs["attention_mask"][row].tolist() == [1] * length + [0] * (targets.shape[1] - length)


@pytest.fixture(scope="module", autouse=True)
def objective_and_rows(tokenizer: BertTokenizerFast) -> None:
    global OBJECTIVE_AND_ROWS
    OBJECTIVE_AND_ROWS = mlm(tokenizer), random_samples(20)


def test_masks_differ_by_epoch_and_seed_and_sample(tokenizer: BertTokenizerFast) -> None:
    objective, rows = mlm(tokenizer), samples([[CLS, *range(10, 50), SEP]] * 20)

    def targets(epoch: int, seed: int) -> torch.Tensor:
        return dense_targets(collate(objective, rows, range(20), epoch, seed))

    first = targets(epoch=0, seed=1)
    assert (first == targets(epoch=0, seed=1)).all()
    for other in (targets(epoch=1, seed=1), targets(epoch=0, seed=2), first.roll(1, 0)):
        assert not (first == other).all(1).any()


def test_evaluation_masks_depend_on_the_sample_alone(tokenizer: BertTokenizerFast) -> None:
    objective, rows = mlm(tokenizer), random_samples(20)
    indices = np.array([3, 19, 5])
    first = evaluation_batch(objective, rows, indices)
    again = evaluation_batch(mlm(tokenizer), rows, indices)  # no seed of a run goes into it
    assert (dense_targets(first) == dense_targets(again)).all()
    assert (first.inputs["input_ids"] == again.inputs["input_ids"]).all()
    for seed in range(5):
        assert not (dense_targets(collate(objective, rows, indices, seed=seed)) == dense_targets(first)).all()


def test_a_tokenizer_without_a_mask_token() -> None:
    bare = BertTokenizerFast(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4})
    bare.mask_token = None
    with pytest.raises(UserError, match="data.tokenizer: has no mask token"):
        mlm(bare)


def test_results_are_the_counts_of_each_sample(tokenizer: BertTokenizerFast) -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]], [[5.0, -5.0], [0.0, math.log(4)]]])
    targets = targets_by_row(torch.tensor([[0, 1], [IGNORE_INDEX, 1]]))
    objective = mlm(tokenizer)
    results = objective.results(logits, targets)
    assert results.tolist() == [[1, 2], [1, 1]] and results.shape[1] == objective.width
    assert results.sum(0).tolist() == [2, 3]
