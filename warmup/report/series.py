"""Long series of numbers for drawing: smoothed, and thinned out so that no peak is lost."""

from __future__ import annotations

import numpy as np
import pandas

POINTS = 1000
"""How many points a drawn curve has at most, about."""


def thin_out(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `points` points of a curve, which keep its shape: of each of points / 2 equal parts of the series, the
    lowest and the highest one, in their order. What is not finite is left out.

    Args:
        x: (n,), ascending.
        y: (n,).
        points: how many, at least 4.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(y) <= points:
        return x, y
    parts = points // 2 - 1
    starts = np.arange(parts) * len(y) // parts
    part = np.searchsorted(starts, np.arange(len(y)), side="right") - 1
    by_value = np.lexsort((y, part))
    lowest, highest = by_value[starts], by_value[np.append(starts[1:], len(y)) - 1]
    kept = np.unique(np.concatenate([[0], lowest, highest, [len(y) - 1]]))
    return x[kept], y[kept]


def smooth(y: np.ndarray) -> np.ndarray:
    """The mean over a window of a fiftieth of the series around each value, at most 2,000 values wide; over fewer at
    the ends, and of the finite ones.
    """
    width = min(max(len(y) // 50, 5), 2000) | 1
    finite = pandas.Series(np.where(np.isfinite(y), y, np.nan))
    return finite.rolling(width, min_periods=1, center=True).mean().to_numpy()


def readable_limit(y: np.ndarray) -> float | None:
    """Where an axis should end so that a few outliers do not flatten the rest; None if nothing sticks out so far."""
    y = y[np.isfinite(y)]
    if len(y) < 20:
        return None
    low, high = np.quantile(y, [0.005, 0.995])
    limit = high + 0.5 * (high - low)
    return float(limit) if y.max() > high + 2 * (high - low) > high else None
