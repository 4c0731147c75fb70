"""Requests to stop a run before its end: a signal, or the time limit.

During training a signal only sets a flag: the ranks agree on the step after which all of them stop.
"""

from __future__ import annotations

import signal
import time

from warmup.training.distributed.exit_status import Stopped


class PreemptionHandler:
    """Whether this rank wants the run to stop: after SIGTERM or SIGUSR1, or on rank 0 past the time limit.

    Until `start` is called there is nothing to save: a signal raises Stopped at once.
    """

    def __init__(self) -> None:
        self._created = time.monotonic()
        self._deadline: float | None = None
        self._signal: int | None = None
        self._started = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._handle)

    def elapsed_seconds(self) -> float:
        """Seconds since this handler was created, at the start of the process."""
        return time.monotonic() - self._created

    def start(self, limit_seconds: float | None, is_main: bool) -> None:
        """Training begins.

        Args:
            limit_seconds: seconds from now until the time limit; None for no limit.
            is_main: whether this is rank 0, whose clock alone decides.
        """
        self._started = True
        self._deadline = time.monotonic() + limit_seconds if limit_seconds is not None and is_main else None

    def _handle(self, number: int, frame: object) -> None:
        self._signal = number
        if not self._started:
            raise Stopped("before there was anything to save")

    def stop_requested(self) -> bool:
        return self._signal is not None or (self._deadline is not None and time.monotonic() >= self._deadline)
