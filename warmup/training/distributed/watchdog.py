"""The watchdog: when one rank makes no progress and the others wait for it, name that rank and end the job.

Each rank calls `heartbeat` with what it is about to do and whether that waits for other ranks. A thread of each rank
writes the last heartbeat to the launcher's store once a second. A thread whose rank has made no progress for most of
the time limit reads what all ranks wrote, twice, and compares.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

BEAT_SECONDS = 1.0
_COMPARE_SECONDS = 3.0  # between two reads of all reports, to see which ranks make progress
_ANSWER_SECONDS = 10.0  # for such a comparison, and the store's answers
_NO_STORE = "the launcher's store does not answer: rank 0 or its machine is stopped or gone"


@dataclass(frozen=True)
class RankReport:
    """What a rank last wrote to the store."""

    beats: int = 0
    """How often its thread has written: the process is alive if this increases."""
    progress: int = 0
    """How often it has called `heartbeat`: the training advances if this increases."""
    consumed_samples: int = 0
    """Its position in the data stream."""
    waits: bool = False
    """Whether its current phase can only end when the other ranks reach it too."""
    phase: str = "the start"
    """What it is doing, in words."""


def find_late_rank(before: list[RankReport], now: list[RankReport], seconds: float) -> str | None:
    """Find the rank that the others wait for.

    A rank whose thread is silent is stopped or gone. Otherwise the late rank is the one that is least advanced and
    does not wait itself.

    Args:
        before: the reports of all ranks.
        now: the reports of all ranks a few seconds later.
        seconds: the time limit, for the message.

    Returns:
        The message to end the job with; None if the ranks are only slow.
    """
    silent = [rank for rank, report in enumerate(now) if report.beats == before[rank].beats]
    if silent and len(silent) < len(now):
        names = ", ".join(map(str, silent))
        return f"rank {names} does not answer: stopped, or its machine is gone; last seen at {now[silent[0]].phase}"
    late = min(range(len(now)), key=lambda rank: (now[rank].consumed_samples, now[rank].waits, now[rank].progress))
    if now[late].progress != before[late].progress:
        return None
    if now[late].waits and now[late].consumed_samples == max(report.consumed_samples for report in now):
        if any(one.progress != other.progress for one, other in zip(now, before, strict=True)):
            return None  # a rank has just arrived: all of them are about to go on
        return f"all ranks wait for each other, rank {late} at {now[late].phase}; is the network down?"
    return f"rank {late} has made no progress for {seconds:.0f} s, at {now[late].phase}; the others wait for it"


def _connect_again(store: dist.Store) -> dist.Store:
    """A connection to the launcher's store of its own: another thread may block on the first one."""
    own = store.clone()  # pyrefly: ignore[missing-attribute] not in stubs
    own.set_timeout(timedelta(seconds=5))
    return own


class Watchdog:
    """Ends the job when it makes no progress. Idle until `start`."""

    def __init__(self, limit: float, end: Callable[[str], None]):
        """`limit`: seconds without progress that are allowed. `end`: called with a message to end this process."""
        self._limit, self._end = limit, end
        self._beats = self._progress = self._consumed_samples = 0
        self._waits, self._phase = False, "the start"
        self._last_progress = time.monotonic()
        self._request_began: float | None = None  # None while the thread is not talking to the store
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def heartbeat(self, phase: str, consumed_samples: int | None = None, waits: bool = False) -> None:
        """This rank has made progress.

        Args:
            phase: what it does next, in words, for the message about a rank that is late.
            consumed_samples: its position in the data stream; None if that is the same as before.
            waits: whether the phase can only end when the other ranks reach it too.
        """
        self._phase, self._waits = phase, waits
        self._consumed_samples = self._consumed_samples if consumed_samples is None else consumed_samples
        self._progress += 1
        self._last_progress = time.monotonic()

    def start(self) -> None:
        """Begin to watch, if there are several ranks."""
        if self._thread is None and dist.is_available() and dist.is_initialized():
            store = dist.distributed_c10d._get_default_store()
            self._thread = threading.Thread(target=self._watch_ranks, args=(store,), daemon=True)
            self._thread.start()
            threading.Thread(target=self._watch_store, daemon=True).start()

    def stop(self) -> None:
        """Stop watching: what follows may take any time."""
        self._stopped.set()
        if self._thread:
            self._thread.join(_ANSWER_SECONDS)  # with a limit: the store may have become unreachable

    def _watch_ranks(self, launcher_store: dist.Store) -> None:
        store = None
        while not self._stopped.wait(BEAT_SECONDS):
            self._request_began = time.monotonic()
            try:
                if store is None:  # in this thread: if rank 0 is gone, connecting takes until the start's timeout
                    store = _connect_again(launcher_store)
                self._write_report(store)
                message = self._compare_reports(store) if self._is_stalled() else None
            except (RuntimeError, OSError):  # includes dist.DistError
                message = _NO_STORE if self._is_stalled() else None
            self._request_began = None
            if message and not self._stopped.is_set():
                self._end(message)

    def _watch_store(self) -> None:
        """End the job if the network is cut: the store then never answers, whatever its timeout."""
        while not self._stopped.wait(BEAT_SECONDS):
            began = self._request_began
            if began and time.monotonic() - began > _ANSWER_SECONDS and self._is_stalled():
                self._end(_NO_STORE)

    def _is_stalled(self) -> bool:
        """Whether it is time to compare: early enough for the job to end within the limit."""
        allowed = max(self._limit - _COMPARE_SECONDS - BEAT_SECONDS, self._limit / 2)
        return time.monotonic() - self._last_progress > allowed

    def _write_report(self, store: dist.Store) -> None:
        self._beats += 1
        report = [self._beats, self._progress, self._consumed_samples, self._waits, self._phase]
        store.set(f"watchdog/{dist.get_rank()}", json.dumps(report))

    def _compare_reports(self, store: dist.Store) -> str | None:
        before = self._read_reports(store)
        until = time.monotonic() + _COMPARE_SECONDS
        while time.monotonic() < until and not self._stopped.wait(BEAT_SECONDS / 2):
            self._write_report(store)
        return find_late_rank(before, self._read_reports(store), self._limit)

    @staticmethod
    def _read_reports(store: dist.Store) -> list[RankReport]:
        keys = [f"watchdog/{rank}" for rank in range(dist.get_world_size())]
        return [RankReport(*json.loads(store.get(key))) if store.check([key]) else RankReport() for key in keys]
