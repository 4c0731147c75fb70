"""When a training counts as diverged."""

from __future__ import annotations

import math
import random

import pytest
from made_samples import samples

from warmup.training.run.trial import DivergenceDetector, some_samples


def found_at(losses: list[float], initial: float = 7.0) -> tuple[int, str] | None:
    """The step, counted from 1, at which the losses count as diverged, and why."""
    detector = DivergenceDetector(initial)
    return next(((step, why) for step, loss in enumerate(losses, 1) if (why := detector.add(loss))), None)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(loss: float) -> None:
    assert found_at([7.0, 6.0, loss]) == (3, "the loss is not finite")


def test_a_loss_that_rises_above_twice_that_of_the_untrained_model() -> None:
    # 20 losses of 7, then 21: the mean of the last 20 is (20 - n) 7 + n 21 over 20, above 14 from n = 11 on.
    assert found_at([7.0] * 20 + [21.0] * 20) == (31, "the loss rose to 14.7, from 7 before the training")


def test_a_training_that_loses_half_of_what_it_had_learned() -> None:
    # Down from 7 to 5 (a quarter of 7 is 1.75), then at 6.8: the mean is above 6 once 12 of the last 20 are.
    assert found_at([5.0] * 20 + [6.8] * 20) == (32, "the loss rose to 6.08, after 5")


@pytest.mark.parametrize(
    "losses",
    [
        [7.0] * 10 + [12.0] * 10 + [7.0] * 10 + [5.0] * 30,  # a warmup that is too short
        [5.5] * 20 + [6.9] * 20,  # had learned too little for noise to be told from loss
        [5.0] * 20 + [5.9] * 40,
    ],
)
def test_bumps_are_no_divergence(losses: list[float]) -> None:
    assert found_at(losses) is None


def test_small_batches_of_a_classifier_are_no_divergence() -> None:
    random_ = random.Random(0)
    losses = [max(0.69 * 0.999**step + random_.gauss(0, 0.15), 0.01) for step in range(2000)]
    assert found_at(losses, 0.69) is None


def test_held_out_samples_are_evenly_spaced() -> None:
    ten = samples([[7] * number for number in range(10)])
    assert some_samples(ten, 4).lengths.tolist() == [0, 2, 5, 7]
    assert some_samples(ten, 10) is ten and some_samples(ten, 99) is ten


@pytest.mark.parametrize("whole_rows", [False, True])
def test_held_out_samples_are_those_of_whole_rows(whole_rows: bool) -> None:
    """Four rows of 2, 3, 1 and 4 sequences: half of these are rows 0 and 2."""
    lengths = [[1, 2], [3, 4, 5], [6], [7, 8, 9, 10]]
    is_first = [number == 0 for row in lengths for number in range(len(row))]
    made = samples([[7] * length for row in lengths for length in row], whole_rows, is_first=is_first)
    some = some_samples(made, len(made) // 2)
    assert some.lengths.tolist() == ([3, 6] if whole_rows else [1, 2, 6])
    assert some.row_starts.tolist() == ([0, 1, 2] if whole_rows else [0, 2, 3])
    assert some.table.data.column("length").to_pylist() == [1, 2, 6]
