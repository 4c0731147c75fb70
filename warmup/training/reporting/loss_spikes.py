"""A warning when the loss jumps."""

from __future__ import annotations

import math
import statistics
from collections import deque

WINDOW = 100
"""How many previous losses a loss is compared with."""
_MIN_LOSSES = 20  # in the window before a loss is scored
_MAD_TO_STD = 1.4826  # standard deviation / median absolute deviation, of a normal distribution


class SpikeDetector:
    """Scores each loss against the last WINDOW ones: (loss - median) / (1.4826 MAD), the modified z-score of Iglewicz
    and Hoaglin (1993, "How to detect and handle outliers", section 3), which outliers in the window hardly change.
    """

    def __init__(self, limit: float):
        """limit: the score above which a loss is a spike; 0 turns detection off."""
        self.limit = limit
        self._window: deque[float] = deque(maxlen=WINDOW)

    def score(self, loss: float) -> float | None:
        """Score a loss and add it to the window. Returns the score if it is above the limit, otherwise None."""
        if not math.isfinite(loss):  # its step was skipped and has a log line of its own
            return None
        spike = None
        if self.limit and len(self._window) >= _MIN_LOSSES:
            median = statistics.median(self._window)
            deviation = statistics.median(abs(other - median) for other in self._window)
            # Equal losses have no spread: a millionth of their size is used, so that rounding is not a spike.
            score = (loss - median) / max(_MAD_TO_STD * deviation, 1e-6 * abs(median), 1e-12)
            spike = score if score > self.limit else None
        self._window.append(loss)
        return spike
