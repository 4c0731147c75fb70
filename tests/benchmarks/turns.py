"""Contenders that take turns: each has processes of its own, one works at a time, the others use no core."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import harness
import torch
from works import Work


class Turns:
    """A contender's side."""

    def __init__(self, pipe: Connection):
        self._pipe, self._left, self._losses = pipe, 0, []
        self._began: tuple[float, float] | None = None

    def step(self) -> None:
        """Called before each step. Waits where a turn is over; does not return where there is none any more."""
        if not self._left:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if self._began is not None:
                seconds, processor_seconds = (now - then for now, then in zip(_clocks(), self._began, strict=True))
                self._pipe.send((seconds, processor_seconds, self._losses))
                self._losses = []
            self._left = self._pipe.recv()
            if not self._left:
                os._exit(0)
            self._began = _clocks()
        self._left -= 1

    def over(self) -> bool:
        """Whether the turn, and not the first word, is waited for next."""
        return not self._left and self._began is not None

    def loss(self, value: float) -> None:
        self._losses.append(value)


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


class Turn(NamedTuple):
    """What a turn of a contender took."""

    seconds: float
    processor_seconds: float
    """Of all ranks."""
    losses: list[float]
    """Of rank 0's steps, if it notes them."""


@dataclass
class Contender:
    """One contender's ranks, which wait for turns."""

    name: str
    ranks: harness.Ranks
    pipes: list[Connection]
    log: Path

    @classmethod
    def start(cls, name: str, train: Callable[[Work, Turns, bool], None], work: Work, given: bool) -> Contender:
        pairs = [multiprocessing.Pipe() for _ in range(work.ranks)]
        log = work.folder / f"{name}.log"
        gpus = torch.cuda.is_available()
        env = {"ACCELERATE_USE_CPU": str(not gpus).lower(), "ACCELERATE_MIXED_PRECISION": work.precision}
        ends = [end for _, end in pairs]
        ranks = harness.start_ranks(work.ranks, _rank, train, work, ends, given, log, env=env)
        atexit.register(ranks.send, signal.SIGKILL)  # before multiprocessing would wait for them
        for end in ends:
            end.close()
        return cls(name, ranks, [pipe for pipe, _ in pairs], log)

    def turn(self, steps: int) -> Turn:
        """Train so many steps."""
        for pipe in self.pipes:
            pipe.send(steps)
        try:
            results = [pipe.recv() for pipe in self.pipes if pipe.poll(600)]
            seconds, processor_seconds, losses = zip(*results, strict=True)
            return Turn(max(seconds), sum(processor_seconds), losses[0])
        except (EOFError, OSError, ValueError):
            raise SystemExit(f"{self.name} did not come through its turn:\n{self.log.read_text()[-3000:]}") from None

    def end(self) -> None:
        for pipe in self.pipes:
            pipe.send(0)
        self.ranks.wait(60)


def _rank(rank: int, train: Callable, work: Work, pipes: list[Connection], given: bool, log: Path) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: where the parent is killed
    file = os.open(log if rank == 0 else f"{log}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(file, number)
        setattr(sys, name, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115
    threads = work.threads or max(1, (os.cpu_count() or 1) // work.ranks)
    torch.set_num_threads(threads)
    os.environ.update(OMP_NUM_THREADS=str(threads), WARMUP_COMMAND="")  # train.py sets its threads itself
    train(work, Turns(pipes[rank]), given)
