"""What a run starts from, and what every checkpoint says about its run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from warmup.clock import StepClock
from warmup.commandline import leaves
from warmup.config import Config
from warmup.config.tasks import lower_is_better
from warmup.elastic import LRSchedule
from warmup.errors import UserError
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import run_directory
from warmup.training.checkpoints.check_state import check_lr_schedule, check_state, one_line
from warmup.training.checkpoints.format import BrokenCheckpoint

EVALUATION_FIELDS = (
    *("metrics", "details", "evaluated", "pending"),
    *("best_step", "best_metrics", "best_details", "without_improvement"),
)
"""The fields of RunState that `evaluations` in state.json holds."""
ORIGIN = "branched_from"
"""The entry of a branch's run.json that says where it branched off."""
SOURCE = "resumed_from"
"""The entry of the run.json of a run that goes on from another run's checkpoint: `checkpoint`, its path, and `step`."""


@dataclass(frozen=True)
class ResumePoint:
    """What a run starts from."""

    checkpoint: Path | None
    """The checkpoint's folder; None for a fresh start."""
    run_dir: str | None
    """The run directory to use; None for a new one."""
    notes: tuple[str, ...] = ()
    """What the search for the checkpoint skipped, in words."""
    abandoned: tuple[Path, ...] = ()
    """Checkpoints in the run directory that do not lead to this one, and are to be set aside."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """The checkpoint's state, as `read_run_state` returns it; empty for a fresh start."""
    origin: Mapping[str, Any] | None = None
    """Where the run branched off from another one, as `branch.read_origin` returns it; None if it is no branch."""
    source: Mapping[str, Any] | None = None
    """The checkpoint of another run that the run in this directory began with, as run.json has it; None for none."""
    branches: bool = False
    """Whether it branches off here; otherwise it goes on with the checkpoint's run."""

    @property
    def flag(self) -> str:
        """The option that named the checkpoint, for messages."""
        return "--branch_from" if self.branches else "--resume"

    @property
    def record(self) -> dict[str, Any]:
        """What run.json says of where the run came from; {} if it began by itself."""
        entries = {ORIGIN: self.origin, SOURCE: self.source}
        return {name: dict(value) for name, value in entries.items() if value}

    @cached_property
    def lr_schedule(self) -> LRSchedule:
        """The learning rate schedule of the checkpoint's run. Raises UserError if it cannot be read."""
        try:
            lr_schedule = LRSchedule.from_dict(self.state["lr_schedule"])
            check_lr_schedule(lr_schedule)
        except (ValueError, KeyError, RecursionError) as error:
            raise UserError(
                f"{self.flag}: {self.checkpoint} was written by another version: its lr_schedule: {one_line(error)}"
            ) from error
        return lr_schedule


@dataclass
class RunState:
    """What every checkpoint says about its run besides the position, and what the evaluations have shown so far."""

    config: dict[str, Any]
    """The configuration as it was requested, as `config_fields` returns it."""
    data: str
    """A hash of the content of the data."""
    lr_schedule: LRSchedule
    """The learning rate schedule that the run follows."""
    metric: str = "loss"
    """The metric that decides which evaluation is the best, as `evaluation.metric`."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The metrics of the last evaluation."""
    details: dict[str, Any] = field(default_factory=dict)
    """What an export of the weights of the last evaluation needs besides: `per_class`, the scores of each class, and
    `model_settings`, what the model's config is to hold, such as thresholds. They go with the checkpoint, so that they
    are those of the exported weights wherever the run goes on."""
    evaluated: dict[str, int] = field(default_factory=dict)
    """The clock's state at the last evaluation; empty before the first one."""
    best_step: int | None = None
    """The step of the best evaluation; None before the first one."""
    best_metrics: dict[str, float] = field(default_factory=dict)
    """The metrics of the best evaluation."""
    best_details: dict[str, Any] = field(default_factory=dict)
    """The same as `details` of the best evaluation."""
    without_improvement: int = 0
    """How many evaluations in a row, up to the last one, were no better than the best."""
    pending: bool = False
    """Whether an evaluation is due at this position and not made yet."""

    def add(self, clock: StepClock, metrics: dict[str, float], details: dict[str, Any]) -> bool:
        """Record an evaluation. Returns whether it is the best so far."""
        self.metrics, self.details, self.evaluated, self.pending = metrics, details, clock.state_dict(), False
        improved = self._is_better(metrics)
        self.without_improvement = 0 if improved else self.without_improvement + 1
        if improved:
            self.best_step, self.best_metrics, self.best_details = clock.step, metrics, details
        return improved

    def _is_better(self, metrics: dict[str, float]) -> bool:
        """Whether these are better than the best so far. A metric that is not a number never is."""
        sign = -1 if lower_is_better(self.config["task"], self.metric) else 1
        return sign * metrics[self.metric] > (sign * self.best_metrics[self.metric] if self.best_metrics else -math.inf)

    def state(self, clock: StepClock, world_size: int) -> dict[str, Any]:
        """The content of state.json: this object and the position of the run."""
        return {
            "clock": clock.state_dict(),
            "lr_schedule": self.lr_schedule.to_dict(),
            "config": self.config,
            "data": self.data,
            "world_size": world_size,
            "evaluations": self.evaluations(),
        }

    def evaluations(self) -> dict[str, Any]:
        """What the evaluations have shown so far, as JSON."""
        return {name: getattr(self, name) for name in EVALUATION_FIELDS}


def read_checkpoint(path: Path, flag: str) -> tuple[Path, list[str], dict[str, Any]]:
    """Find a checkpoint, verify it and read its state.

    Args:
        path: a checkpoint, or a run directory for its newest valid one.
        flag: the option that named it.

    Returns:
        The checkpoint, notes on newer ones that were skipped, and its state as `read_run_state` returns it.

    Raises:
        UserError: there is none, or it is damaged.
    """
    run_directory.check_not_sweep(path, flag)
    notes: list[str] = []
    if (path / "checkpoints").is_dir():
        checkpoint, skipped = checkpoint_format.newest_valid(path)
        notes = [f"skipped: {reason}" for reason in skipped]
        if checkpoint is None:
            raise UserError(f"{flag}: no valid checkpoint in {path} ({'; '.join(notes) or 'there is none'})")
        return checkpoint, notes, read_run_state(checkpoint, flag)
    if not path.is_dir():
        words = "auto, never, a checkpoint nor" if flag == "--resume" else "a checkpoint nor"
        raise UserError(f"{flag}: {path} is neither {words} a run directory")
    try:
        checkpoint_format.verify(path)
    except BrokenCheckpoint as error:
        raise UserError(f"{flag}: {error}; give another one{', or auto' if flag == '--resume' else ''}") from error
    return path, notes, read_run_state(path, flag)


def read_run_state(checkpoint: Path, flag: str = "--resume") -> dict[str, Any]:
    """The state of a valid checkpoint, with names of older versions replaced by those that `RunState.state` writes.

    What an older version kept in evaluation.json of the run directory alone, thresholds for one, is taken from there.
    Names in "stream" are replaced where it is used, by `StreamState.from_dict`. `flag` is the option that named it.

    Raises:
        UserError: It is not one that this program writes, or the folder is named after another step.
    """
    try:
        state = checkpoint_format.read_state(checkpoint)
        if "course" in state:
            state["lr_schedule"] = state.pop("course")
        evaluations = state.get("evaluations")
        evaluated = evaluations.get("evaluated") if isinstance(evaluations, dict) else None
        for position in (state.get("clock"), evaluated):
            if isinstance(position, dict) and "drawn" in position:
                position["consumed_samples"] = position.pop("drawn")
        check_state(state)
        checkpoint_format.check_step(checkpoint)
        _add_details(state.get("evaluations", {}), checkpoint.resolve().parent.parent)
    except BrokenCheckpoint as error:
        raise UserError(f"{flag}: {error}") from error
    except ValueError as error:
        raise UserError(
            f"{flag}: {checkpoint}: {error}, in its {checkpoint_format.STATE}; give another checkpoint"
        ) from error
    return state


def _add_details(evaluations: dict[str, Any], run: Path) -> None:
    """Add `details` and `best_details` of an older version's checkpoint, where evaluation.json has those evaluations.

    Args:
        evaluations: of the state, checked.
        run: the run directory.
    """
    steps = {"details": evaluations.get("evaluated", {}).get("step"), "best_details": evaluations.get("best_step")}
    missing = {name: step for name, step in steps.items() if step is not None and name not in evaluations}
    for record in run_directory.read_evaluations(run) if missing else []:
        found = {name: record[name] for name in ("per_class", "model_settings") if isinstance(record.get(name), dict)}
        evaluations |= {name: found for name, step in missing.items() if step == record["step"]}


def config_fields(config: Config) -> dict[str, Any]:
    """The configuration as state.json holds it: JSON values by dotted names."""
    return {name: json_value(value) for name, value in leaves(asdict(config))}


def json_value(value: Any) -> Any:
    """The value of a field of the configuration as JSON returns it: tuples become lists."""
    return list(value) if isinstance(value, tuple) else value
