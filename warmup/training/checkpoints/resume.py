"""Going on from a checkpoint: which one, whether this run may, and putting everything back in its place."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from warmup.commandline import leaves
from warmup.config import Config
from warmup.elastic import LRSchedule
from warmup.errors import UserError
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import run_directory
from warmup.training.checkpoints.format import BrokenCheckpoint
from warmup.training.checkpoints.state import _EVALUATIONS, ResumePoint, RunState, _plain

FIXED_FIELDS = ("task", "model", "dropout", "seed", "recipe.optimizer", "recipe.momentum", "data.mask_rate")
"""Fields that a checkpoint does not fit another value of. The data is compared by its content."""


def find_resume_point(wanted: str | None, run_dir: str | None) -> ResumePoint:
    """What to start from. `wanted`: auto, never or None, or a checkpoint or run directory. Takes an old run directory
    for this process. Raises UserError where there is nothing to go on from, or something in the way.
    """
    if wanted in (None, "never"):
        run_directory.check_unoccupied(run_dir)
        return ResumePoint(None, run_dir)
    if wanted == "auto":
        if run_dir is None:
            raise UserError("--resume: auto needs a run directory to look in; give --run_dir")
        return _newest(Path(run_dir)) if run_directory.is_occupied(Path(run_dir)) else ResumePoint(None, run_dir)
    return _given(Path(wanted).expanduser(), run_dir)


def _newest(run: Path) -> ResumePoint:
    """The newest valid checkpoint of an occupied run directory, or a fresh start in it."""
    run_directory.check_not_sweep(run, "run_dir")
    if not (run / "metrics.jsonl").is_file():
        raise UserError(f"run_dir: {run} is occupied and not a run directory; give another one")
    run_directory.claim(run)
    folder, skipped = checkpoint_format.newest_valid(run)
    notes = [f"passed over: {reason}" for reason in skipped]
    if folder is None:
        notes.append(f"no checkpoint in {run} to go on from: starting afresh")
    return _origin(folder, run, str(run), notes)


def _given(path: Path, run_dir: str | None) -> ResumePoint:
    """The checkpoint of a path; or, of a run directory's, the newest valid one."""
    run_directory.check_not_sweep(path, "--resume")
    notes: list[str] = []
    folder: Path | None = path
    if (path / "checkpoints").is_dir():
        folder, notes = checkpoint_format.newest_valid(path)
        notes = [f"passed over: {reason}" for reason in notes]
        if folder is None:
            raise UserError(f"--resume: no valid checkpoint in {path} ({'; '.join(notes) or 'there is none'})")
    elif not path.is_dir():
        raise UserError(f"--resume: {path} is neither auto, never, a checkpoint nor a run directory")
    try:
        checkpoint_format.verify(folder)
    except BrokenCheckpoint as error:
        raise UserError(f"--resume: {error}; give another one, or auto") from error
    home = folder.resolve().parent.parent
    own = folder.resolve().parent.name == "checkpoints" and (home / "metrics.jsonl").is_file()
    if own and (run_dir is None or Path(run_dir).resolve() == home):
        run_directory.claim(home)
        return _origin(folder, home, run_dir or str(home), notes)
    run_directory.check_unoccupied(run_dir)
    return ResumePoint(folder, run_dir, tuple(notes), (), checkpoint_format.read_state(folder))


def _origin(folder: Path | None, run: Path, run_dir: str, notes: list[str]) -> ResumePoint:
    """Going on in the run directory itself: what is later than the checkpoint, or broken, is not of the run's past."""
    state = checkpoint_format.read_state(folder) if folder else {}
    step = state["clock"]["step"] if folder else -1
    later = [other for other in checkpoint_format.list_checkpoints(run) if checkpoint_format.step_of(other) > step]
    notes += [f"set aside as discarded-{other.name}" for other in later]
    return ResumePoint(folder, run_dir, tuple(notes), tuple(later), state)


def reconcile_config(config: Config, origin: ResumePoint) -> tuple[Config, list[str]]:
    """The configuration to go on with, and in words what is not as it was. Raises UserError where they do not fit."""
    if not origin.checkpoint:
        return config, []
    course = origin.course
    was, now = origin.state["config"], dict(leaves(asdict(config)))
    for name in FIXED_FIELDS:
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


def check_same_data(origin: ResumePoint, key: str) -> None:
    """Raise UserError where the data is not what the checkpoint was trained on."""
    if origin.checkpoint and origin.state["data"] != key:
        raise UserError(
            f"data: its content or the tokenizer is not what {origin.checkpoint} was trained on; give the same data, "
            "or start another run from it with --model"
        )


def initial_state(origin: ResumePoint, config: dict[str, Any], data: str, course: LRSchedule, metric: str) -> RunState:
    """The history of a run that starts from there. By another metric than before, patience begins anew."""
    found = origin.state.get("evaluations", {})
    known = {name: value for name, value in found.items() if name in _EVALUATIONS}
    if origin.state.get("config", {}).get("evaluation.metric") != metric:
        known["without_improvement"] = 0
    return RunState(config, data, course, metric, **known)


def describe_changes(origin: ResumePoint, course: LRSchedule, world_size: int) -> dict[str, Any]:
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
