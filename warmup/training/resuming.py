"""Going on from a checkpoint: which one, whether this run may, and putting everything back in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from warmup.clock import StepClock
from warmup.commandline import leaves
from warmup.config import Config
from warmup.elastic import Course
from warmup.training import checkpoint, run_directory, scores
from warmup.training.checkpoint import BrokenCheckpoint
from warmup.training.outcome import UserError

FIXED = ("task", "model", "dropout", "seed", "recipe.optimizer", "recipe.momentum", "data.mask_rate")
"""Fields that a checkpoint does not fit another value of. The data is compared by its content."""
_EVALUATIONS = ("metrics", "evaluated", "best_step", "best_metrics", "without_improvement")


@dataclass(frozen=True)
class Origin:
    """What a run starts from. checkpoint: None for a fresh start. run_dir: where it goes on, None for a new one.

    notes: what was found and passed over, in words. abandoned: checkpoints that are not of this run's past.
    """

    checkpoint: Path | None
    run_dir: str | None
    notes: tuple[str, ...] = ()
    abandoned: tuple[Path, ...] = ()
    state: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def course(self) -> Course:
        """What the checkpoint's run followed. Raises UserError where it cannot be read."""
        try:
            return Course.from_dict(self.state["course"])
        except (ValueError, KeyError) as error:
            raise UserError(f"--resume: {self.checkpoint} was written by another version: {error}") from error


@dataclass
class History:
    """What every checkpoint says of the run besides its position, and what the evaluations have found so far.

    config: as it was asked for. data: key of its content. metric: as `evaluation.metric`. metrics: of the last
    evaluation, made where the clock was at `evaluated`. best_step, best_metrics: of the best one. without_improvement:
    how many in a row since then.
    """

    config: dict[str, Any]
    data: str
    course: Course
    metric: str = "loss"
    metrics: dict[str, float] = field(default_factory=dict)
    evaluated: dict[str, int] = field(default_factory=dict)
    best_step: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    without_improvement: int = 0

    def add(self, clock: StepClock, metrics: dict[str, float]) -> bool:
        """Take an evaluation in. Returns whether it is the best so far."""
        self.metrics, self.evaluated = metrics, clock.state_dict()
        improved = scores.better(self.metric, metrics, self.best_metrics)
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


def find(wanted: str | None, run_dir: str | None) -> Origin:
    """What to start from. `wanted`: auto, never or None, or a checkpoint or run directory. Takes an old run directory
    for this process. Raises UserError where there is nothing to go on from, or something in the way.
    """
    if wanted in (None, "never"):
        run_directory.refuse_occupied(run_dir)
        return Origin(None, run_dir)
    if wanted == "auto":
        if run_dir is None:
            raise UserError("--resume: auto needs a run directory to look in; give --run_dir")
        return _newest(Path(run_dir)) if run_directory.occupied(Path(run_dir)) else Origin(None, run_dir)
    return _given(Path(wanted).expanduser(), run_dir)


def _newest(run: Path) -> Origin:
    """The newest valid checkpoint of an occupied run directory, or a fresh start in it."""
    run_directory.refuse_sweep(run, "run_dir")
    if not (run / "metrics.jsonl").is_file():
        raise UserError(f"run_dir: {run} is occupied and not a run directory; give another one")
    run_directory.claim(run)
    folder, skipped = checkpoint.newest(run)
    notes = [f"passed over: {reason}" for reason in skipped]
    if folder is None:
        notes.append(f"no checkpoint in {run} to go on from: starting afresh")
    return _origin(folder, run, str(run), notes)


def _given(path: Path, run_dir: str | None) -> Origin:
    """The checkpoint of a path; or, of a run directory's, the newest valid one."""
    run_directory.refuse_sweep(path, "--resume")
    notes: list[str] = []
    folder: Path | None = path
    if (path / "checkpoints").is_dir():
        folder, notes = checkpoint.newest(path)
        notes = [f"passed over: {reason}" for reason in notes]
        if folder is None:
            raise UserError(f"--resume: no valid checkpoint in {path} ({'; '.join(notes) or 'there is none'})")
    elif not path.is_dir():
        raise UserError(f"--resume: {path} is neither auto, never, a checkpoint nor a run directory")
    try:
        checkpoint.verify(folder)
    except BrokenCheckpoint as error:
        raise UserError(f"--resume: {error}; give another one, or auto") from error
    home = folder.resolve().parent.parent
    own = folder.resolve().parent.name == "checkpoints" and (home / "metrics.jsonl").is_file()
    if own and (run_dir is None or Path(run_dir).resolve() == home):
        run_directory.claim(home)
        return _origin(folder, home, run_dir or str(home), notes)
    run_directory.refuse_occupied(run_dir)
    return Origin(folder, run_dir, tuple(notes), (), checkpoint.read_state(folder))


def _origin(folder: Path | None, run: Path, run_dir: str, notes: list[str]) -> Origin:
    """Going on in the run directory itself: what is later than the checkpoint, or broken, is not of the run's past."""
    state = checkpoint.read_state(folder) if folder else {}
    step = state["clock"]["step"] if folder else -1
    later = [other for other in checkpoint.listed(run) if checkpoint.step_of(other) > step]
    notes += [f"set aside as discarded-{other.name}" for other in later]
    return Origin(folder, run_dir, tuple(notes), tuple(later), state)


def fit(config: Config, origin: Origin) -> tuple[Config, list[str]]:
    """The configuration to go on with, and in words what is not as it was. Raises UserError where they do not fit."""
    if not origin.checkpoint:
        return config, []
    course = origin.course
    was, now = origin.state["config"], dict(leaves(asdict(config)))
    for name in FIXED:
        if was.get(name) != _plain(now[name]):
            raise UserError(
                f"{name}: the checkpoint {origin.checkpoint} was made with {was.get(name)!r}, this run has "
                f"{now[name]!r}; give the same, or start another run"
            )
    known = {config.recipe.ramp, config.recipe.decay}
    for plan in course.plans():  # a checkpoint names no code to run that the configuration does not
        for shape in (plan.ramp, plan.decay):
            if ":" in shape and shape not in known:
                raise UserError(f"--resume: {origin.checkpoint} follows {shape}, which this run's recipe does not name")
    if config.recipe.reference_batch_size is None:  # taken as tuned at the batch that it began with
        config = replace(config, recipe=replace(config.recipe, reference_batch_size=course.plan.reference_batch_size))
        now["recipe.reference_batch_size"] = was.get("recipe.reference_batch_size")
    changed = [
        f"{name} was {was.get(name)!r}, is {now[name]!r}"
        for name in now
        if name.startswith(("recipe.", "evaluation.")) and was.get(name) != _plain(now[name])
    ]
    return config, changed


def refuse_other_data(origin: Origin, key: str) -> None:
    """Raise UserError where the data is not what the checkpoint was trained on."""
    if origin.checkpoint and origin.state["data"] != key:
        raise UserError(
            f"data: its content or the tokenizer is not what {origin.checkpoint} was trained on; give the same data, "
            "or start another run from it with --model"
        )


def history(origin: Origin, config: dict[str, Any], data: str, course: Course, metric: str) -> History:
    """The history of a run that starts from there. By another metric than before, patience begins anew."""
    found = origin.state.get("evaluations", {})
    known = {name: value for name, value in found.items() if name in _EVALUATIONS}
    if origin.state.get("config", {}).get("evaluation.metric") != metric:
        known["without_improvement"] = 0
    return History(config, data, course, metric, **known)


def changes(origin: Origin, course: Course, world_size: int) -> dict[str, Any]:
    """What the run goes on from and with, for the log: ranks, global batch and learning rate before and now."""
    samples = origin.state["clock"]["samples"]
    old = origin.course
    return {
        "from": str(origin.checkpoint),
        "world_size_before": origin.state["world_size"],
        "world_size": world_size,
        "global_batch_size_before": old.global_batch_size,
        "global_batch_size": course.global_batch_size,
        "lr_before": old.lr_at(samples),
        "lr": course.lr_at(samples),
    }


def fields(config: Config) -> dict[str, Any]:
    """The configuration as a checkpoint's state has it: dotted names, JSON values."""
    return {name: _plain(value) for name, value in leaves(asdict(config))}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
