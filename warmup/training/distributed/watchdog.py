"""The hang watch: when a rank stands still and the others wait for it, say which one it is, and end the job.

Each rank marks where it is and whether it waits for others; a thread of it tells the store of the launcher once a
second. Where a rank has stood still for the time allowed, its thread asks the store about all of them.
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
_LOOK_SECONDS = 3.0  # between two looks at a rank, to see whether it moves
_ANSWER_SECONDS = 10.0  # for a look and the store's answers
_NO_STORE = "the launcher's store does not answer: rank 0 or its machine is stopped or gone"


@dataclass(frozen=True)
class RankReport:
    """What a rank last said of itself: `beats` of its thread, `marks` of its work, where it is, how far in the data
    stream, and whether it waits for the others there."""

    beats: int = 0
    marks: int = 0
    drawn: int = 0
    waits: bool = False
    where: str = "the start"


def find_late_rank(before: list[RankReport], now: list[RankReport], seconds: float) -> str | None:
    """Which rank is late, in words, of two looks at all of them; None where they are only slow.

    A rank whose thread is silent is stopped or gone. Else it is the one least far, which does not wait.
    """
    silent = [rank for rank, report in enumerate(now) if report.beats == before[rank].beats]
    if silent and len(silent) < len(now):
        names = ", ".join(map(str, silent))
        return f"rank {names} does not answer: stopped, or its machine is gone; last seen at {now[silent[0]].where}"
    late = min(range(len(now)), key=lambda rank: (now[rank].drawn, now[rank].waits, now[rank].marks))
    if now[late].marks != before[late].marks:
        return None
    if now[late].waits and now[late].drawn == max(report.drawn for report in now):
        if any(one.marks != other.marks for one, other in zip(now, before, strict=True)):
            return None  # one came just now: they go on in a moment
        return f"all ranks wait for each other, rank {late} at {now[late].where}; is the network down?"
    return f"rank {late} has made no progress for {seconds:.0f} s, at {now[late].where}; the others wait for it"


class Watchdog:
    """Ends this process through `end(message)` where the job stands still for `limit` seconds. Off until `start`."""

    def __init__(self, limit: float, end: Callable[[str], None]):
        self._limit, self._end = limit, end
        self._beats = self._marks = self._drawn = 0
        self._waits, self._where = False, "the start"
        self._moved = time.monotonic()
        self._asked: float | None = None  # when the thread began to talk to the store, while it does
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def mark(self, where: str, drawn: int | None = None, waits: bool = False) -> None:
        """This rank is at a new place. `waits`: it can only go on when the others come there too."""
        self._where, self._waits = where, waits
        self._drawn = self._drawn if drawn is None else drawn
        self._marks += 1
        self._moved = time.monotonic()

    def start(self) -> None:
        """Begin to watch, where there are several ranks."""
        if self._thread is None and dist.is_available() and dist.is_initialized():
            store = dist.distributed_c10d._get_default_store().clone()  # a connection of its own: the other may block
            store.set_timeout(timedelta(seconds=5))
            self._thread = threading.Thread(target=self._watch, args=(store,), daemon=True)
            self._thread.start()
            threading.Thread(target=self._watch_store, daemon=True).start()

    def stop(self) -> None:
        """No more watching: what comes may take its time."""
        self._stopped.set()
        if self._thread:
            self._thread.join(_ANSWER_SECONDS)  # not without end: the network may have lost the store it asks

    def _watch(self, store: dist.Store) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            self._asked = time.monotonic()
            try:
                self._tell(store)
                late = self._look(store) if self._stands_still() else None
            except (RuntimeError, OSError):  # dist.DistError among them
                late = _NO_STORE if self._stands_still() else None
            self._asked = None
            if late and not self._stopped.is_set():
                self._end(late)

    def _watch_store(self) -> None:
        """Where the network is cut the store neither answers nor fails, whatever its timeout, and `_watch` waits."""
        while not self._stopped.wait(BEAT_SECONDS):
            asked = self._asked
            if asked and time.monotonic() - asked > _ANSWER_SECONDS and self._stands_still():
                self._end(_NO_STORE)

    def _stands_still(self) -> bool:
        return time.monotonic() - self._moved > max(self._limit - _LOOK_SECONDS - BEAT_SECONDS, self._limit / 2)

    def _tell(self, store: dist.Store) -> None:
        self._beats += 1
        mine = [self._beats, self._marks, self._drawn, self._waits, self._where]
        store.set(f"hang-watch/{dist.get_rank()}", json.dumps(mine))

    def _look(self, store: dist.Store) -> str | None:
        before = self._all(store)
        until = time.monotonic() + _LOOK_SECONDS
        while time.monotonic() < until and not self._stopped.wait(BEAT_SECONDS / 2):
            self._tell(store)
        return find_late_rank(before, self._all(store), self._limit)

    @staticmethod
    def _all(store: dist.Store) -> list[RankReport]:
        names = [f"hang-watch/{rank}" for rank in range(dist.get_world_size())]
        return [RankReport(*json.loads(store.get(name))) if store.check([name]) else RankReport() for name in names]
