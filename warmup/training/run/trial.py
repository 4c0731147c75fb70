"""A trial: a run that is made to be compared with others. It trains as any run does, and leaves nothing on the disk."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from warmup.config import Config
from warmup.training.data.samples import Samples
from warmup.training.distributed import collectives
from warmup.training.distributed.exit_status import Stopped
from warmup.training.run import assembly, setup
from warmup.training.run.evaluate import Evaluator
from warmup.training.run.setup import Launched
from warmup.training.run.train_step import StepResult, TrainStep
from warmup.training.run.training_run import watch_ranks

HELD_OUT = 1024
"""The most held-out samples that a trial is evaluated on."""


@dataclass(frozen=True)
class Trial:
    """What a trial showed, the same on all ranks."""

    steps: int
    """Steps that were tried, those that were skipped included."""
    held_out: dict[int, float]
    """The held-out loss by the samples that had been trained on: from 0 on, and at the end unless it diverged."""
    diverged: str | None
    """In words, when and how the training diverged; None if it did not."""

    @property
    def loss(self) -> float:
        """The held-out loss at the end; infinite if the training diverged."""
        return math.inf if self.diverged else self.held_out[max(self.held_out)]


@dataclass
class DivergenceDetector:
    """Tells from the training losses, step by step, whether a training has diverged.

    It has if a loss is not finite, if the mean of the last WINDOW losses is above twice the loss of the untrained
    model, or if that mean has lost half of what the training had learned: of the distance from the untrained model's
    loss down to the lowest mean, where that is a quarter of it or more. The limits are this project's choice; they
    leave alone the noise of small batches and the bump of a warmup that is too short.
    """

    WINDOW = 20
    initial: float
    """The loss of the untrained model."""
    _last: deque[float] = field(default_factory=lambda: deque(maxlen=DivergenceDetector.WINDOW))
    _best: float = math.inf

    def add(self, loss: float) -> str | None:
        """Add a step's loss. Returns in words why the training has diverged, or None."""
        if not math.isfinite(loss):
            return "the loss is not finite"
        self._last.append(loss)
        if len(self._last) < self.WINDOW:
            return None
        mean = sum(self._last) / self.WINDOW
        self._best = min(self._best, mean)
        learned = self.initial - self._best
        if mean > 2 * self.initial:
            return f"the loss rose to {mean:.3g}, from {self.initial:.3g} before the training"
        if learned >= self.initial / 4 and mean > self._best + learned / 2:
            return f"the loss rose to {mean:.3g}, after {self._best:.3g}"
        return None


def run_trial(
    config: Config,
    launched: Launched,
    evaluate_at: Sequence[int] = (),
    on_step: Callable[[], object] = lambda: None,
) -> Trial:
    """Train a configuration from its initial state to its end, or until it diverges. A collective call.

    Args:
        config: of the run. Its sections checkpoint, evaluation and log are not used.
        launched: the ranks; their options must resume nothing.
        evaluate_at: numbers of samples, multiples of the batch, after which the held-out loss is taken as well.
        on_step: called after each step.

    Raises:
        UserError: the configuration cannot be run.
        Stopped: a rank was asked to stop.
    """
    config = replace(config, run_dir=None, checkpoint=replace(config.checkpoint, every=None))
    with open_trial(config, launched) as (train_step, evaluator, samples):
        held_out = {0: held_out_loss(evaluator, samples)}
        detector, tried = DivergenceDetector(held_out[0]), 0
        for tried, step in enumerate(train_step.steps(), start=1):
            if tried == 1:
                watch_ranks(train_step, config)
            on_step()
            if step.stop:
                raise Stopped("before the last trial; nothing was written")
            if why := _why_diverged(step, detector, train_step, config.recipe.max_skipped):
                return Trial(tried, held_out, f"step {tried}: {why}")
            if train_step.clock.samples in evaluate_at and not train_step.is_over():
                held_out[train_step.clock.samples] = held_out_loss(evaluator, samples)
        last = held_out[train_step.clock.samples] = held_out_loss(evaluator, samples)
        worse = f"the end: a held-out loss of {last:.3g}, {held_out[0]:.3g} before the training"
        return Trial(tried, held_out, None if last < held_out[0] else worse)


@contextmanager
def open_trial(config: Config, launched: Launched) -> Iterator[tuple[TrainStep, Evaluator, Samples]]:
    """Everything that a trial needs, in the initial state, and the held-out samples. A collective call."""
    spec = setup.plan_run(config, launched)
    built = assembly.build(spec, launched.accelerator)
    objective = spec.task.objective(spec.data.tokenizer, spec.data.labels, spec.data.train)
    train_step = assembly.assemble(spec, built, objective, launched, Path("no-run-directory"))  # nothing is saved
    try:
        train_step.warm_up_passes()
        launched.preemption.start(None, launched.accelerator.is_main_process)
        evaluator = assembly.build_evaluator(spec, built, objective, train_step)
        yield train_step, evaluator, some_samples(spec.data.validation, HELD_OUT)
    finally:
        train_step.watchdog.stop()
        collectives.set_timeout(config.launch.start_timeout)
        spec.data.train.close()


def some_samples(samples: Samples, count: int) -> Samples:
    """About `count` of the samples: all those of some rows, which are evenly spaced."""
    rows = len(samples.row_starts) - 1
    chosen = max(1, rows * count // len(samples))
    return samples if chosen >= rows else samples.select_rows(np.arange(chosen) * rows // chosen)


def held_out_loss(evaluator: Evaluator, samples: Samples) -> float:
    """The loss on held-out samples. A collective call. Raises Stopped if a rank was asked to stop."""
    evaluation = evaluator.evaluate(samples)
    if evaluation is None:
        raise Stopped("before the last trial; nothing was written")
    return evaluation.metrics["loss"]


def _why_diverged(step: StepResult, detector: DivergenceDetector, train_step: TrainStep, limit: int) -> str | None:
    if train_step.clock.skipped_in_a_row >= limit:
        return f"{limit} gradients in a row are not finite"
    return None if step.previous_loss is None else detector.add(step.previous_loss)
