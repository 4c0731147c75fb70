"""StepClock: where a run is. It counts steps, agrees on their number with all ranks, and compares ranks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from math import ceil
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist

from warmup.batch_schedule import BatchSchedule
from warmup.duration import DataSize, Duration

Policy = Literal["min", "max", "error"]


class RanksDisagree(RuntimeError):
    """Ranks of one job differ in what must be equal. The message names the field, the ranks and their values."""


class Loader(Protocol):
    """Something like a DataLoader: batches that can be iterated over more than once, and their number."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class StepClock:
    """The counters of a run, equal on all ranks."""

    step: int
    """Applied optimizer updates."""
    samples: int
    """Samples of applied steps."""
    consumed_samples: int
    """Position in the data stream: `samples` plus the samples of skipped steps."""
    tokens: int
    """Tokens of applied steps."""
    skipped_in_a_row: int
    """Steps skipped since the last applied one."""

    def __init__(
        self, batch_size: int | BatchSchedule, num_samples: int | None = None, device: torch.device | str = "cpu"
    ):
        """
        Args:
            batch_size: samples per step over all ranks, or how they follow from `samples`, as `Plan.batch_schedule`.
            num_samples: samples of the training set, for `epoch`; None if it is not known.
            device: the device of the tensors that ranks exchange; a GPU for nccl.
        """
        self._schedule = (
            batch_size if isinstance(batch_size, BatchSchedule) else BatchSchedule(batch_size, batch_size, 0)
        )
        self.num_samples = num_samples
        self.device = torch.device(device)
        self.step = self.samples = self.consumed_samples = self.tokens = 0
        self.skipped_in_a_row = 0

    @property
    def batch_size(self) -> int:
        """Samples of the next step over all ranks."""
        return self._schedule.size_at(self.samples)

    @property
    def epoch(self) -> float | None:
        """Passes over the training set so far, with a fraction; None if its size is not known."""
        return self.consumed_samples / self.num_samples if self.num_samples else None

    def advance(self, tokens: int = 0, applied: bool = True) -> None:
        """Count one step.

        Args:
            tokens: tokens of the step over all ranks.
            applied: False for a skipped step, which only advances `consumed_samples`: its samples are not retried.
        """
        size = self.batch_size
        self.consumed_samples += size
        self.skipped_in_a_row = 0 if applied else self.skipped_in_a_row + 1
        if applied:
            self.step += 1
            self.samples += size
            self.tokens += tokens

    def state_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("step", "samples", "consumed_samples", "tokens")}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to the position of a state that `state_dict` returned."""
        consumed = "consumed_samples" if "consumed_samples" in state else "drawn"  # its name before version 0.2
        self.step, self.samples = int(state["step"]), int(state["samples"])
        self.consumed_samples, self.tokens = int(state[consumed]), int(state["tokens"])

    def passed(self, every: Duration, since: Mapping[str, int], run_samples: int) -> bool:
        """True if a multiple of `every` lies in (since, now]. Exact, and the same on all ranks.

        Args:
            every: the interval. Steps and tokens are counted as those of this run, everything else is converted to
                samples and compared with `consumed_samples`.
            since: an earlier position, as `state_dict` returned it; {} for the start of the run.
            run_samples: the duration of the run in samples, for intervals in %.
        """
        counter, interval = self._interval(every, run_samples)
        return getattr(self, counter) // interval > since.get(counter, 0) // interval

    def next_multiple(self, every: Duration, run_samples: int) -> int | None:
        """The step after which the next multiple of `every` is passed, if no step is skipped; None for tokens, whose
        number is not known in advance. Arguments as of `passed`.
        """
        counter, interval = self._interval(every, run_samples)
        if counter == "tokens":
            return None
        position = getattr(self, counter)
        left = ceil((position // interval + 1) * interval - position)
        return self.step + (left if counter == "step" else self.steps_to(self.samples + left))

    def steps_to(self, samples: int) -> int:
        """How many more steps there are until `samples` are trained on, if none is skipped."""
        return self._schedule.steps_between(self.samples, samples)

    def _interval(self, every: Duration, run_samples: int) -> tuple[str, Fraction]:
        """The counter that an interval is measured by, and its length."""
        if every.unit in ("steps", "tokens"):
            return {"steps": "step", "tokens": "tokens"}[every.unit], every.value
        return "consumed_samples", every.samples(None, DataSize(self.num_samples), Fraction(run_samples))

    def check(self, lr: float, extra: float = 0.0) -> list[float]:
        """Compare step, samples, consumed_samples and the bits of the learning rate over all ranks: one small exchange.

        Args:
            lr: this rank's learning rate.
            extra: another number to exchange, such as this rank's part of the loss.

        Returns:
            `extra` of every rank.

        Raises:
            RanksDisagree: a counter or the rate differs.
        """
        own = [float(self.step), float(self.samples), float(self.consumed_samples), lr, extra]
        rows = [row.tolist() for row in gather(torch.tensor(own, dtype=torch.float64, device=self.device))]
        for field, values in zip(("step", "samples", "consumed_samples", "lr"), zip(*rows, strict=True), strict=False):
            require_equal(field, values, f"at step {self.step}")
        return [row[-1] for row in rows]

    def agree(self, local_batches: int, policy: Policy = "min") -> int:
        """Agree on the number of batches that every rank will run. A collective call.

        Args:
            local_batches: how many batches this rank has.
            policy: min: as many as the shortest loader has; max: as many as the longest has, while short loaders start
                again; error: all must have the same number.

        Raises:
            RanksDisagree: `policy` is error and the numbers differ.
            ValueError: a rank has no batches, or there is no such policy.
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

    def batches(self, loader: Loader, policy: Policy = "min") -> Iterator[Any]:
        """The batches of this rank's loader, as many on every rank as `agree` returns."""
        count = self.agree(len(loader), policy)
        return itertools.islice(_repeat(loader), count)


def _repeat(loader: Loader) -> Iterator[Any]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError("the loader has a length but yields no batches")


def gather(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor of every rank, in rank order. Without a process group there is only this rank's."""
    if not (dist.is_available() and dist.is_initialized()):
        return [tensor]
    tensors = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(tensors, tensor)
    return tensors


def require_equal(field: str, values: Iterable[Any], hint: str) -> None:
    """Raise RanksDisagree unless all values are equal.

    Args:
        field: what the values are, named in the error.
        values: the value of each rank.
        hint: what the user can do about a difference.
    """
    values = list(values)
    for rank, value in enumerate(values):
        if value != values[0]:
            raise RanksDisagree(f"ranks disagree on {field}: rank 0 has {values[0]!r}, rank {rank} {value!r} ({hint})")


def require_same(fields: Mapping[str, Any], hint: str = "start all ranks alike") -> None:
    """Raise RanksDisagree on all ranks unless every rank gave equal fields. A collective call.

    For a few JSON-like values, such as a plan or a configuration, before the first step.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    all_fields: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(all_fields, dict(fields))
    for name in {name: None for of_rank in all_fields for name in of_rank}:
        require_equal(name, [of_rank.get(name) for of_rank in all_fields], hint)
