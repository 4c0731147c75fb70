"""Thinned out curves keep every peak that can be seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmup.report.series import readable_limit, smooth, thin_out


@given(count=st.integers(0, 3000), points=st.integers(4, 300), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_each_part_keeps_its_lowest_and_highest_point(count: int, points: int, seed: int) -> None:
    y = np.random.default_rng(seed).normal(size=count).round(1)
    x = np.arange(count) * 3
    thin_x, thin_y = thin_out(x, y, points)
    assert len(thin_x) <= points and (np.diff(thin_x) > 0).all()
    assert (y[thin_x // 3] == thin_y).all()  # points of the curve itself
    if count:
        assert {thin_y.min(), thin_y.max()} == {y.min(), y.max()} and (thin_x[0], thin_x[-1]) == (x[0], x[-1])
    if count > points:
        parts = points // 2 - 1
        edges = [*(np.arange(parts) * count // parts), count]
        for first, last in zip(edges, edges[1:]):
            kept = thin_y[(thin_x >= x[first]) & (thin_x <= x[last - 1])]
            assert (kept.min(), kept.max()) == (y[first:last].min(), y[first:last].max())


def test_a_single_peak_in_a_million_is_kept() -> None:
    y = np.zeros(1_000_000)
    y[777_777], y[777_779] = 5.0, -5.0
    x, thin = thin_out(np.arange(1_000_000), y)
    assert x[thin == 5.0].tolist() == [777_777] and x[thin == -5.0].tolist() == [777_779] and len(x) <= 1000


def test_what_is_not_finite_is_left_out() -> None:
    x, y = thin_out(np.arange(5.0), np.array([1.0, np.nan, np.inf, -np.inf, 2.0]))
    assert (x.tolist(), y.tolist()) == ([0.0, 4.0], [1.0, 2.0])


def test_the_running_mean() -> None:
    assert smooth(np.array([0.0, 0.0, 5.0, 0.0, 0.0])).tolist() == pytest.approx([5 / 3, 5 / 4, 1.0, 5 / 4, 5 / 3])
    assert smooth(np.array([1.0, np.nan, np.inf, 3.0])).tolist() == pytest.approx([1.0, 2.0, 2.0, 3.0])
    assert smooth(np.ones(10_000)).tolist() == pytest.approx([1.0] * 10_000)


def test_outliers_do_not_flatten_a_curve() -> None:
    y = np.linspace(4, 1, 1000)
    assert readable_limit(y) is None and readable_limit(np.ones(1000)) is None and readable_limit(y[:10]) is None
    y[500] = 1e6
    limit = readable_limit(y)
    assert limit is not None and 4 < limit < 6
