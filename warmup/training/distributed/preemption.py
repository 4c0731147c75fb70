"""Reasons to stop before the end: a signal, or the time limit. In training a signal only sets a flag; ranks agree on
the step.
"""

from __future__ import annotations

import signal
import time

from warmup.training.distributed.exit_status import Stopped


class PreemptionHandler:
    """Whether this rank wants the run to stop. SIGTERM and SIGUSR1 ask for it, and rank 0's clock does.

    Until `start`, there is nothing to save: a signal raises Stopped at once.
    """

    def __init__(self) -> None:
        self._made = time.monotonic()
        self._deadline: float | None = None
        self._signal: int | None = None
        self._started = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note)

    def age(self) -> float:
        """Seconds since it was made, at the start of everything."""
        return time.monotonic() - self._made

    def start(self, limit_seconds: float | None, is_main: bool) -> None:
        """Training begins; the time limit is so many seconds away."""
        self._started = True
        self._deadline = time.monotonic() + limit_seconds if limit_seconds is not None and is_main else None

    def _note(self, number: int, frame: object) -> None:
        self._signal = number
        if not self._started:
            raise Stopped("before there was anything to save")

    def wanted(self) -> bool:
        return self._signal is not None or (self._deadline is not None and time.monotonic() >= self._deadline)
