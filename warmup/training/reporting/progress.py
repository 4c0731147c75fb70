"""How far a run is: a bar on a terminal, otherwise a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tqdm import tqdm

from warmup.clock import StepClock
from warmup.duration import seconds_text
from warmup.terminal import is_terminal

_BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
_BAR_SECONDS = 0.5  # between two updates of the bar
LINE_SECONDS = 30.0
"""Seconds between two plain lines."""
_LOSSES = 100  # whose mean is shown: a single step's jumps
_EXPECTED_AFTER = 3.0  # seconds of steps after which it is said how long the run will take
Item = TypeVar("Item")


def track(items: Sequence[Item], name: str, shown: bool) -> Iterator[Item]:
    """The items, with a bar beside them on a terminal, which is removed at the end.

    Args:
        items: to go through.
        name: of what is done with them.
        shown: whether this rank shows it.
    """
    yield from tqdm(items, desc=name, leave=False, disable=not (shown and is_terminal(sys.stderr)))


@dataclass
class StepTime:
    """How long steps take: each one a while, and longer by each of its samples, by least squares."""

    count: int = 0
    samples: int = 0
    seconds: float = 0.0
    sample_squares: int = 0
    products: float = 0.0
    """Sum of samples times seconds."""

    def add(self, samples: int, seconds: float) -> None:
        """Add a step of so many samples."""
        self.count += 1
        self.samples += samples
        self.seconds += seconds
        self.sample_squares += samples**2
        self.products += samples * seconds

    def expected(self, steps: int, samples: int) -> float:
        """Seconds of so many further steps, of so many samples in all."""
        spread = self.count * self.sample_squares - self.samples**2
        per_sample = (self.count * self.products - self.samples * self.seconds) / spread if spread else 0.0
        per_sample = min(max(per_sample, 0.0), self.seconds / self.samples)  # so that per_step is not below 0
        per_step = (self.seconds - per_sample * self.samples) / self.count
        return steps * per_step + samples * per_sample


class Progress:
    """The progress of the training, on stderr."""

    def __init__(self, total_steps: int, end_samples: int, first_step: int):
        """The first step is about to be done.

        Args:
            total_steps: of the whole run.
            end_samples: samples of applied steps at which the run is over: steps get longer where the batch grows.
            first_step: steps that were done before.
        """
        self._total, self._end, self._began = total_steps, end_samples, time.perf_counter()
        self._first: tuple[int, int] | None = None
        self._step_time, self._timed = StepTime(), (0, self._began)
        self._losses: deque[float] = deque(maxlen=_LOSSES)
        self._line_due, self._shown_step = self._began + LINE_SECONDS / 3, first_step
        self._expected_said = False
        self._bar: tqdm | None = None
        self._last: tuple[StepClock, str] | None = None
        if is_terminal(sys.stderr):
            self._bar = tqdm(
                desc="training", initial=first_step, total=total_steps, unit="step", mininterval=_BAR_SECONDS,
                dynamic_ncols=True, bar_format=_BAR,
            )  # fmt: skip

    def add_loss(self, loss: float) -> None:
        """A step's loss, for the running mean."""
        self._losses.append(loss)

    def update(self, clock: StepClock, next_save: str) -> str | None:
        """A step is done.

        Args:
            clock: the position after it.
            next_save: when the next checkpoint is due, in words; "" if that is not known.

        Returns:
            A line to be printed, if one is due.
        """
        now = time.perf_counter()
        if self._first is None:  # the first step may take very long, and says nothing of the others
            self._first, self._began = (clock.step, clock.tokens), now
        elif clock.samples > self._timed[0]:
            self._step_time.add(clock.samples - self._timed[0], now - self._timed[1])
        if clock.samples > self._timed[0]:
            self._timed = clock.samples, now
        self._last = clock, next_save
        if self._bar is not None:
            facts = [*self._time_left(clock), *self._facts(clock, next_save)]
            self._bar.set_postfix_str(", ".join(facts), refresh=False)
            self._bar.update(clock.step - self._bar.n)
        elif now >= self._line_due:
            self._line_due = now + LINE_SECONDS
            return self._line(clock, next_save)
        return self._expected(clock, now)

    def close(self) -> str | None:
        """Remove the bar. Returns the last line, if there are plain lines and steps were done since the last one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._last and self._last[0].step > self._shown_step:
            return self._line(self._last[0], "")
        return None

    def _line(self, clock: StepClock, next_save: str) -> str:
        self._shown_step = clock.step
        facts = [*self._facts(clock, next_save), *self._time_left(clock)]
        return "  ".join([f"step {clock.step}/{self._total}", *facts])

    def _time_left(self, clock: StepClock) -> list[str]:
        left = self._seconds_left(clock)
        return [f"{seconds_text(left)} left"] if left else []

    def _facts(self, clock: StepClock, next_save: str) -> list[str]:
        """Mean loss, steps and tokens per second, next save: what is known of them."""
        facts = [f"loss {sum(self._losses) / len(self._losses):.4g}"] if self._losses else []
        if self._first and clock.step > self._first[0]:
            seconds = max(time.perf_counter() - self._began, 1e-9)
            steps, tokens = (clock.step - self._first[0]) / seconds, (clock.tokens - self._first[1]) / seconds
            facts += [f"{steps:.3g} steps/s", f"{tokens:,.0f} tokens/s"]
        return facts + ([f"next save {next_save}"] if next_save else [])

    def _seconds_left(self, clock: StepClock) -> float | None:
        if not self._step_time.count:
            return None
        return self._step_time.expected(max(self._total - clock.step, 0), max(self._end - clock.samples, 0))

    def _expected(self, clock: StepClock, now: float) -> str | None:
        """Once, after the first steps: how long the rest will take."""
        left = self._seconds_left(clock)
        if self._expected_said or left is None or now - self._began < _EXPECTED_AFTER:
            return None
        self._expected_said = True
        others = self._total - clock.step
        if not others:
            return None
        return f"about {seconds_text(left)} for the other {f'{others} steps' if others > 1 else 'step'}"
