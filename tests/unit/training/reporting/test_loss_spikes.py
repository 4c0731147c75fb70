"""Jumps of the loss: against the modified z-score computed otherwise, and losses that are not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmup.training.reporting.loss_spikes import WINDOW, SpikeDetector


def modified_z(loss: float, before: list[float]) -> float:
    """Iglewicz and Hoaglin: 0.6745 (x - median) / MAD."""
    window = np.array(before[-100:])
    median = np.median(window)
    return 0.6745 * (loss - median) / np.median(np.abs(window - median))


def scores(losses: list[float], limit: float = 10.0) -> list[float | None]:
    detector = SpikeDetector(limit)
    return [detector.score(loss) for loss in losses]


def ordinary(count: int, seed: int = 0) -> list[float]:
    return (3 + 0.1 * np.random.default_rng(seed).standard_normal(count)).tolist()


@pytest.mark.parametrize("limit", [0.5, 2.0, 10.0])
def test_scores_are_the_modified_z_score_of_the_last_hundred(limit: float) -> None:
    losses = ordinary(400)
    for index in (25, 150, 151, 390):
        losses[index] += 3
    for index, score in enumerate(scores(losses, limit)):
        expected = modified_z(losses[index], losses[:index]) if index >= 20 else 0
        if expected > limit:
            assert score == pytest.approx(expected, rel=1e-4)  # 1 / 0.6745 is 1.48258
        else:
            assert score is None
    spikes = [index for index, score in enumerate(scores(losses, limit)) if score is not None]
    assert spikes == [25, 150, 151, 390] if limit == 10 else set(spikes) > {25, 150, 151, 390}


@given(st.lists(st.floats(0, 100), min_size=0, max_size=19), st.floats(0, 1e6))
def test_nothing_is_scored_against_fewer_than_twenty(losses: list[float], jump: float) -> None:
    assert scores([*losses, jump]) == [None] * (len(losses) + 1)


def test_the_twenty_first_is_scored() -> None:
    losses = ordinary(20)
    assert scores([*losses, 9.0])[-1] == pytest.approx(modified_z(9.0, losses), rel=1e-4)


def test_the_window_moves() -> None:
    """A loss is forgotten after a hundred more, and not before."""
    assert WINDOW == 100
    losses = [*ordinary(30, 1), *(7 + 0.1 * np.array(ordinary(100, 2))).tolist()]
    assert scores([*losses, 8.0])[-1] == pytest.approx(modified_z(8.0, losses), rel=1e-4)
    whole = np.array(losses)
    assert scores([*losses, 8.0])[-1] != pytest.approx(
        0.6745 * (8 - np.median(whole)) / np.median(np.abs(whole - np.median(whole))), rel=1e-2
    )


def test_outliers_in_the_window_do_not_hide_the_next() -> None:
    losses = ordinary(100)
    for index in range(0, 100, 3):
        losses[index] = 50.0
    assert scores([*losses, 9.0])[-1] == pytest.approx(modified_z(9.0, losses), rel=1e-4)


def test_a_fall_is_no_spike() -> None:
    assert scores([*ordinary(100), 0.0, -1000.0])[-2:] == [None, None]


def test_a_limit_of_zero_means_never() -> None:
    assert set(scores([*ordinary(100), 1e9, 1e30], limit=0.0)) == {None}


@pytest.mark.parametrize("level", [3.0, 0.0, 1e8])
def test_equal_losses_are_no_reason_to_warn_of_rounding(level: float) -> None:
    """Without a spread, a millionth of the loss counts as one."""
    equal = [level] * 100
    assert scores([*equal, level * (1 + 5e-6)])[-1] is None
    jump = level * 1.001 if level else 1e-3
    score = scores([*equal, jump])[-1]
    assert score is not None and math.isfinite(score) and score > 100
    if level:
        assert score == pytest.approx(1000, rel=1e-3)


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("every", [2, 7])
def test_a_loss_that_is_not_finite_neither_joins_nor_warns(strange: float, every: int) -> None:
    """Skipped steps have such losses, and log lines of their own. Other losses are scored as if they were not there."""
    losses = [*ordinary(150), 9.0, *ordinary(50, 3), 8.0]
    mixed, finite = [], []
    for index, loss in enumerate(losses):
        if index % every == 1:
            mixed.append(strange)
        finite.append(len(mixed))
        mixed.append(loss)
    scored = scores(mixed)
    assert [scored[index] for index in finite] == scores(losses)
    assert [score for index, score in enumerate(scored) if index not in finite] == [None] * (len(mixed) - len(losses))


def test_a_window_of_nothing_else_does_not_crash() -> None:
    assert scores([math.nan] * 120 + [3.0, math.inf]) == [None] * 122
