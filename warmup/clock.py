"""StepClock: where a run is. Counts the steps of a job, agrees on them with all ranks, and checks that they agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Literal

import torch
import torch.distributed as dist

from warmup.duration import Duration

Policy = Literal["min", "max", "error"]


class RanksDisagree(RuntimeError):
    """Ranks of one job hold different values of what must be equal. The message names ranks, field and values."""


class StepClock:
    """The counters of a run, equal on all ranks.

    step: applied optimizer updates. samples: samples of applied steps. drawn: position in the data stream, the
    samples of skipped steps included. tokens: tokens of applied steps. epoch: drawn / num_samples.

    Args:
        batch_size: samples per step over all ranks.
        num_samples: samples of the training set, for `epoch`; None where there is no such number.
        device: where the ranks' exchange takes place; a GPU for nccl.
    """

    def __init__(self, batch_size: int, num_samples: int | None = None, device: torch.device | str = "cpu"):
        self.batch_size = batch_size
        self.num_samples = num_samples
        self.device = torch.device(device)
        self.step = self.samples = self.drawn = self.tokens = 0
        self.skipped_in_a_row = 0

    @property
    def epoch(self) -> float | None:
        return self.drawn / self.num_samples if self.num_samples else None

    def advance(self, tokens: int = 0, applied: bool = True) -> None:
        """One step is over. A skipped one (applied=False) advances `drawn` only: its samples are not retried."""
        self.drawn += self.batch_size
        self.skipped_in_a_row = 0 if applied else self.skipped_in_a_row + 1
        if applied:
            self.step += 1
            self.samples += self.batch_size
            self.tokens += tokens

    def state_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("step", "samples", "drawn", "tokens")}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        for name in ("step", "samples", "drawn", "tokens"):
            setattr(self, name, int(state[name]))

    def passed(self, every: Duration, since: Mapping[str, int], run_samples: int) -> bool:
        """Whether there is a multiple of `every` after the position `since`, up to where the clock is now, so that what
        was last done there is due again. `since`: as `state_dict` gave it, {} for the start.

        Steps and tokens are those of the run, all else is counted in samples drawn; % is of `run_samples`. Exact, and
        the same on all ranks.
        """
        counter = {"steps": "step", "tokens": "tokens"}.get(every.unit, "drawn")
        exact = every.unit in ("steps", "tokens")
        size = every.value if exact else every.samples(None, self.num_samples, Fraction(run_samples))
        return getattr(self, counter) // size > since.get(counter, 0) // size

    def check(self, lr: float, extra: float = 0.0) -> list[float]:
        """Compare step, samples, drawn and the bits of the rate over all ranks: one small exchange.

        Returns every rank's `extra` (such as its part of the loss), which rides along. Raises RanksDisagree.
        """
        mine = [float(self.step), float(self.samples), float(self.drawn), lr, extra]
        rows = [row.tolist() for row in gather(torch.tensor(mine, dtype=torch.float64, device=self.device))]
        for field, values in zip(("step", "samples", "drawn", "lr"), zip(*rows, strict=True), strict=False):
            require_equal(field, values, f"at step {self.step}")
        return [row[-1] for row in rows]

    def agree(self, local_batches: int, policy: Policy = "min") -> int:
        """How many batches every rank will run, where ranks have different numbers of them. A collective call.

        min: as many as the shortest has. max: as many as the longest has, short loaders start again. error: raise
        RanksDisagree unless all are equal. Raises ValueError where a rank has none.
        """
        rows = gather(torch.tensor([local_batches], dtype=torch.int64, device=self.device))
        counts = [int(row) for row in rows]
        if min(counts) == 0:
            raise ValueError(f"rank {counts.index(0)} has no batches (all ranks: {counts}); give every rank data")
        if policy == "error":
            require_equal("local batches", counts, 'use the policy "min" or "max"')
        elif policy not in ("min", "max"):
            raise ValueError(f"policy: {policy!r} is none of min, max, error")
        return max(counts) if policy == "max" else min(counts)

    def batches(self, loader: Iterable[Any], policy: Policy = "min") -> Iterator[Any]:
        """The batches of this rank's loader (which has a length), as many on every rank as `agree` says."""
        count = self.agree(len(loader), policy)  # type: ignore[arg-type]
        return itertools.islice(_again_and_again(loader), count)


def _again_and_again(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError("the loader has a length and yields nothing")


def gather(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor of every rank, in the order of ranks; outside a process group this rank's alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return [tensor]
    tensors = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(tensors, tensor)
    return tensors


def require_equal(field: str, values: Iterable[Any], hint: str) -> None:
    """Raise RanksDisagree, naming the first rank whose value is not rank 0's, unless all `values` are equal."""
    values = list(values)
    for rank, value in enumerate(values):
        if value != values[0]:
            raise RanksDisagree(f"ranks disagree on {field}: rank 0 has {values[0]!r}, rank {rank} {value!r} ({hint})")


def require_same(fields: Mapping[str, Any], hint: str = "start all ranks alike") -> None:
    """Raise RanksDisagree on all ranks, naming rank, field and both values, unless every rank gave equal fields.

    For a few JSON-like values, such as a plan or a configuration, before the first step. A collective call.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, dict(fields))
    for name in {name: None for other in everyone for name in other}:
        require_equal(name, [other.get(name) for other in everyone], hint)
