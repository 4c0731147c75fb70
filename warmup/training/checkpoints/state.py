"""What a run starts from, and what every checkpoint says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from warmup.clock import StepClock
from warmup.commandline import leaves
from warmup.config import Config
from warmup.elastic import LRSchedule
from warmup.errors import UserError
from warmup.training.tasks.metrics import is_better

_EVALUATIONS = ("metrics", "evaluated", "best_step", "best_metrics", "without_improvement")


@dataclass(frozen=True)
class ResumePoint:
    """What a run starts from. checkpoint: None for a fresh start. run_dir: where it goes on, None for a new one.

    notes: what was found and passed over, in words. abandoned: checkpoints that are not of this run's past.
    """

    checkpoint: Path | None
    run_dir: str | None
    notes: tuple[str, ...] = ()
    abandoned: tuple[Path, ...] = ()
    state: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def course(self) -> LRSchedule:
        """What the checkpoint's run followed. Raises UserError where it cannot be read."""
        try:
            return LRSchedule.from_dict(self.state["course"])
        except (ValueError, KeyError) as error:
            raise UserError(f"--resume: {self.checkpoint} was written by another version: {error}") from error


@dataclass
class RunState:
    """What every checkpoint says of the run besides its position, and what the evaluations have found so far.

    config: as it was asked for. data: key of its content. metric: as `evaluation.metric`. metrics: of the last
    evaluation, made where the clock was at `evaluated`. best_step, best_metrics: of the best one. without_improvement:
    how many in a row since then.
    """

    config: dict[str, Any]
    data: str
    course: LRSchedule
    metric: str = "loss"
    metrics: dict[str, float] = field(default_factory=dict)
    evaluated: dict[str, int] = field(default_factory=dict)
    best_step: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    without_improvement: int = 0

    def add(self, clock: StepClock, metrics: dict[str, float]) -> bool:
        """Take an evaluation in. Returns whether it is the best so far."""
        self.metrics, self.evaluated = metrics, clock.state_dict()
        improved = is_better(self.metric, metrics, self.best_metrics)
        self.without_improvement = 0 if improved else self.without_improvement + 1
        if improved:
            self.best_step, self.best_metrics = clock.step, metrics
        return improved

    def state(self, clock: StepClock, world_size: int) -> dict[str, Any]:
        """All of it and the position, as JSON would have it."""
        evaluations = {name: getattr(self, name) for name in _EVALUATIONS}
        return {
            "clock": clock.state_dict(),
            "course": self.course.to_dict(),
            "config": self.config,
            "data": self.data,
            "world_size": world_size,
            "evaluations": evaluations,
        }


def config_fields(config: Config) -> dict[str, Any]:
    """The configuration as a checkpoint's state has it: dotted names, JSON values."""
    return {name: _plain(value) for name, value in leaves(asdict(config))}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
