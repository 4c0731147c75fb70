"""The batch size as a function of the samples trained on: one size, or one that grows at first. Standard library only.

The size grows linearly in the samples, as that of GPT-3 did (Brown et al. 2020, arXiv:2005.14165, appendix B).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import takewhile
from operator import attrgetter
from typing import NamedTuple


class Phase(NamedTuple):
    """Consecutive steps of one size."""

    step: int
    """The first of them, counted from 0."""
    samples: int
    """The position at which it begins: samples of the steps before it."""
    size: int
    """Samples in each of them."""


@dataclass(frozen=True)
class BatchSchedule:
    """How many samples each step has. Positions are samples of the steps applied so far."""

    size: int
    """Samples per step once the batch is warmed up."""
    start_size: int
    """Samples of the first step, 1 to `size`."""
    warmup_samples: int
    """The position from which on steps have `size` samples."""

    def size_at(self, samples: int) -> int:
        """The size of the step that begins at a position."""
        if samples >= self.warmup_samples:
            return self.size
        return self.start_size + (self.size - self.start_size) * samples // self.warmup_samples

    def phases(self, samples: int = 0) -> Iterator[Phase]:
        """The steps of a run from a position on, as one phase for each size. Steps are counted from there."""
        step = 0
        while (size := self.size_at(samples)) < self.size:
            yield Phase(step, samples, size)
            steps = -(-(self._growth(size + 1) - samples) // size)
            step, samples = step + steps, samples + steps * size
        yield Phase(step, samples, size)

    def steps_between(self, samples: int, end: int) -> int:
        """The fewest steps that lead from a position to `end` or beyond."""
        if end <= samples:
            return 0
        phase = self.phase_before(end, samples)
        return phase.step - (phase.samples - end) // phase.size

    def phase_before(self, end: int | Fraction, samples: int = 0) -> Phase:
        """The last phase of `phases(samples)` that begins before `end`, which must be beyond `samples`."""
        *_, last = takewhile(lambda phase: phase.samples < end, self.phases(samples))
        return last

    def position(self, step: int) -> int:
        """Where step `step` of a run begins, counted from 0."""
        phase = self._phases[bisect_right(self._phases, step, key=attrgetter("step")) - 1]
        return phase.samples + (step - phase.step) * phase.size

    @property
    def warmup_steps(self) -> int:
        """Steps of fewer than `size` samples."""
        return self._phases[-1].step

    @cached_property
    def _phases(self) -> tuple[Phase, ...]:
        return tuple(self.phases())

    def _growth(self, size: int) -> int:
        """The first position at which a step has at least this size, which is above `start_size`."""
        return -(-(size - self.start_size) * self.warmup_samples // (self.size - self.start_size))
