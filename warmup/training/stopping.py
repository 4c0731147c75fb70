"""Reasons to stop before the end: a signal, or the time limit. A signal only sets a flag; ranks agree on the step."""

from __future__ import annotations

import signal
import time


class StopWatch:
    """Whether this rank wants the run to stop. SIGTERM and SIGUSR1 ask for it, and rank 0's clock does."""

    def __init__(self, limit_seconds: float | None, is_main: bool):
        self._deadline = time.monotonic() + limit_seconds if limit_seconds and is_main else None
        self._signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self._signal = number

    def wanted(self) -> bool:
        return self._signal is not None or (self._deadline is not None and time.monotonic() >= self._deadline)
