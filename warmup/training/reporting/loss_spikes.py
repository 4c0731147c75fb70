"""A warning when the loss jumps."""

from __future__ import annotations

import math
import statistics
from collections import deque

WINDOW = 100
_FEWEST = 20  # losses before the first judgement
_NORMAL = 1.4826  # times the median absolute deviation: the standard deviation of a normal distribution


class SpikeDetector:
    """Scores each loss against the last WINDOW ones: (loss - median) / (1.4826 MAD), the modified z-score of Iglewicz
    and Hoaglin (1993, "How to detect and handle outliers", section 3), which outliers in the window do not move.
    """

    def __init__(self, limit: float):
        self.limit = limit
        self._window: deque[float] = deque(maxlen=WINDOW)

    def score(self, loss: float) -> float | None:
        """The score of a loss that is above the limit, else None. A finite loss joins the window."""
        if not math.isfinite(loss):  # its step was skipped, and said so
            return None
        found = None
        if self.limit and len(self._window) >= _FEWEST:
            median = statistics.median(self._window)
            deviation = statistics.median(abs(other - median) for other in self._window)
            # Equal losses have no spread; a millionth of their size is none to speak of.
            score = (loss - median) / max(_NORMAL * deviation, 1e-6 * abs(median), 1e-12)
            found = score if score > self.limit else None
        self._window.append(loss)
        return found
