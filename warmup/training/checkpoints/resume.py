"""Resuming: finds the checkpoint, and checks that the run may continue from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from warmup.commandline import leaves
from warmup.config import Config
from warmup.elastic import LRSchedule
from warmup.errors import UserError
from warmup.training.checkpoints import branch, run_directory
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints.check_state import one_line
from warmup.training.checkpoints.format import BrokenCheckpoint
from warmup.training.checkpoints.state import (
    EVALUATION_FIELDS,
    SOURCE,
    ResumePoint,
    RunState,
    json_value,
    read_checkpoint,
    read_run_state,
)

FIXED_FIELDS = ("task", "model", "dropout", "seed", "recipe.optimizer", "recipe.momentum", "data.mask_rate")
"""Fields whose value must be that of the checkpoint's run. The data is compared by its content instead."""
REPORTED = ("recipe.", "batch.", "speed.", "evaluation.")
"""Sections whose changes are reported: what is trained, how a step is computed, and what the evaluations decide."""


def find_resume_point(requested: str | None, run_dir: str | None, branch_from: str | None = None) -> ResumePoint:
    """Decide what to start from. Claims an existing run directory for this process.

    Args:
        requested: auto, never or None, or the path of a checkpoint or of a run directory.
        run_dir: the run directory to write to; None for the checkpoint's own, or for a new one.
        branch_from: the checkpoint, or the run directory, that a run which is not there yet branches off from.

    Raises:
        UserError: if there is nothing to resume from, or the run directory is occupied.
    """
    if branch_from is not None:
        parent = Path(branch_from).expanduser()
        if requested != "auto" or run_dir is None or not run_directory.is_occupied(Path(run_dir)):
            return branch.find_branch_point(parent, run_dir)
        branch.check_is_branch(Path(run_dir), parent)
    if requested in (None, "never"):
        run_directory.check_unoccupied(run_dir)
        return ResumePoint(None, run_dir)
    if requested == "auto":
        if run_dir is None:
            raise UserError("--resume: auto needs a run directory to look in; give --run_dir")
        return _newest_in(Path(run_dir)) if run_directory.is_occupied(Path(run_dir)) else ResumePoint(None, run_dir)
    return _from_path(Path(requested).expanduser(), run_dir)


def _newest_in(run: Path) -> ResumePoint:
    """The newest valid checkpoint of an occupied run directory, or a fresh start in it."""
    run_directory.check_not_sweep(run, "run_dir")
    origin, source = branch.read_origin(run), _read_source(run)
    if not origin and not source and not (run / "metrics.jsonl").is_file():
        raise UserError(f"run_dir: {run} is occupied and not a run directory; give another one")
    run_directory.claim(run)
    checkpoint, skipped = checkpoint_format.newest_valid(run)
    notes = [f"skipped: {reason}" for reason in skipped]
    if source and _precedes(checkpoint, source):
        return _go_on_again(run, source, notes)
    if checkpoint is None:
        _check_had_none(run, skipped)
        if origin:
            _check_is_there(run, Path(origin["checkpoint"]), [])
            return branch.branch_again(run, origin)
        return ResumePoint(None, str(run), (f"no checkpoint in {run} to go on from: starting afresh",))
    return _continue_run(run, checkpoint, str(run), notes)


def _read_source(run: Path) -> Mapping[str, Any] | None:
    """What the run.json of a run says of the checkpoint of another run that it went on from; None if there is none."""
    source = run_directory.read_record(run).get(SOURCE)
    kinds = {"checkpoint": str, "step": int}
    valid = isinstance(source, dict) and all(isinstance(source.get(name), kind) for name, kind in kinds.items())
    return source if valid else None


def _precedes(checkpoint: Path | None, source: Mapping[str, Any]) -> bool:
    """Whether a run's newest valid checkpoint is not its own: one from before it began is the other run's best."""
    return checkpoint is None or checkpoint_format.step_of(checkpoint) < source["step"]


def _go_on_again(run: Path, source: Mapping[str, Any], notes: list[str]) -> ResumePoint:
    """The start of a run that goes on from another run's checkpoint and has no valid one of its own.

    Args:
        run: the run directory, claimed.
        source: of its run.json.
        notes: notes on the search so far.
    """
    if all(_precedes(folder, source) for folder in checkpoint_format.list_checkpoints(run)):
        _check_had_none(run, [])
    checkpoint = Path(source["checkpoint"])
    _check_is_there(run, checkpoint, notes)
    again = f"no valid checkpoint of its own in {run}: it goes on from {checkpoint} again"
    notes = [*notes, again, *checkpoint_format.describe_other_files(checkpoint)]
    state = read_run_state(checkpoint)
    return ResumePoint(checkpoint, str(run), tuple(notes), (), state, branch.read_origin(run), source)


def _check_is_there(run: Path, checkpoint: Path, notes: list[str]) -> None:
    """Raise UserError if a run cannot begin again where its run.json says that it began; `notes` as `_go_on_again`."""
    try:
        checkpoint_format.verify(checkpoint)
    except BrokenCheckpoint as error:
        reason = str(error) if checkpoint.is_dir() else f"{checkpoint} is gone"
        skipped = f" ({'; '.join(notes)})" if notes else ""
        raise UserError(
            f"run_dir: {run} has no valid checkpoint of its own{skipped}, and its run.json names one that it began "
            f"with: {reason}; put that back, or remove {run}, or give another --run_dir"
        ) from error


def _check_had_none(run: Path, skipped: list[str]) -> None:
    """Raise UserError unless a run directory without a valid checkpoint is of a run that had not come to its first.

    Starting afresh would throw away the log of any other.

    Args:
        run: the run directory.
        skipped: for each checkpoint the reason why it is not valid.
    """
    way_out = "mend them, name another one with --resume PATH, or start another run in another --run_dir"
    if skipped:
        raise UserError(f"--resume: none of the checkpoints in {run} is valid: {'; '.join(skipped)}; {way_out}")
    discarded = sorted(path.name for path in (run / "checkpoints").glob("discarded-*"))
    if discarded:
        raise UserError(
            f"--resume: {run} has only checkpoints that were set aside: {', '.join(discarded)}; name one with "
            "--resume PATH, or start another run in another --run_dir"
        )
    if (run / "result.json").is_file():  # which is written after a checkpoint
        raise UserError(
            f"--resume: the run in {run} has ended, and its checkpoints are gone; put them back, or start another run "
            "in another --run_dir"
        )


def _from_path(path: Path, run_dir: str | None) -> ResumePoint:
    """The checkpoint at `path`, or the newest valid one of the run directory at `path`."""
    checkpoint, notes, state = read_checkpoint(path, "--resume")
    folder = checkpoint.resolve().parent
    own_run = folder.parent
    in_a_run = folder.name == "checkpoints" and (own_run / "metrics.jsonl").is_file()
    if in_a_run and (run_dir is None or Path(run_dir).resolve() == own_run):
        run_directory.claim(own_run)
        source = _read_source(own_run)
        if source and checkpoint != path and _precedes(checkpoint, source):
            return _go_on_again(own_run, source, notes)
        return _continue_run(own_run, checkpoint, run_dir or str(own_run), notes)
    run_directory.check_unoccupied(run_dir)
    notes += checkpoint_format.describe_other_files(checkpoint)
    source = {"checkpoint": str(checkpoint.resolve()), "step": state["clock"]["step"]}
    return ResumePoint(checkpoint, run_dir, tuple(notes), (), state, branch.read_origin(own_run), source)


def _continue_run(run: Path, checkpoint: Path, run_dir: str, notes: list[str]) -> ResumePoint:
    """Resume in the checkpoint's own run directory, and abandon the checkpoints that are later than it.

    Args:
        run: the run directory, claimed.
        checkpoint: the checkpoint.
        run_dir: the run directory as the user wrote it.
        notes: notes on the search so far.
    """
    state = read_run_state(checkpoint)
    step = state["clock"]["step"]
    later = [other for other in checkpoint_format.list_checkpoints(run) if checkpoint_format.step_of(other) > step]
    notes = [*notes, *checkpoint_format.describe_other_files(checkpoint)]
    notes += [f"set aside as discarded-{other.name}" for other in later]
    origin, source = branch.read_origin(run), _read_source(run)
    return ResumePoint(checkpoint, run_dir, tuple(notes), tuple(later), state, origin, source)


def reconcile_config(config: Config, resume_point: ResumePoint) -> tuple[Config, list[str]]:
    """Compare the configuration with that of the checkpoint's run.

    Args:
        config: the configuration as it was requested.
        resume_point: what the run starts from.

    Returns:
        The configuration to continue with, and in words which fields of the sections in REPORTED have changed.

    Raises:
        UserError: if the checkpoint does not fit the configuration.
    """
    if not resume_point.checkpoint:
        return config, []
    lr_schedule = resume_point.lr_schedule
    before, now = resume_point.state["config"], dict(leaves(asdict(config)))
    defaults = dict(leaves(asdict(Config())))
    for name in FIXED_FIELDS:
        if before.get(name) != json_value(now[name]):
            raise UserError(
                f"{name}: the checkpoint {resume_point.checkpoint} was made with {before.get(name)!r}, this run has "
                f"{now[name]!r}; give the same, or start another run"
            )
    _check_shapes(config, resume_point)
    _check_rates(resume_point)
    if config.recipe.reference_batch_size is None:  # the recipe counts as tuned at the batch that the run began with
        reference = lr_schedule.plan.reference_batch_size
        config = replace(config, recipe=replace(config.recipe, reference_batch_size=reference))
        now["recipe.reference_batch_size"] = before.get("recipe.reference_batch_size")
    changed = []
    for name, value in now.items():
        earlier = before.get(name, json_value(defaults[name]))  # a field that the version before did not have
        if name.startswith(REPORTED) and earlier != json_value(value):
            changed.append(f"{name} was {earlier!r}, is {value!r}")
    return config, changed


def _check_shapes(config: Config, resume_point: ResumePoint) -> None:
    """Raise UserError if the checkpoint names code to run (`module:function`) that the configuration does not name."""
    known = {config.recipe.ramp, config.recipe.decay, config.recipe.scaling}
    for plan in resume_point.lr_schedule.plans():
        rules = (plan.scaling,) if plan.batch_start_size is not None else ()  # called for each smaller step
        for shape in (plan.ramp, plan.decay, *rules):
            if ":" in shape and shape not in known:
                raise UserError(
                    f"{resume_point.flag}: {resume_point.checkpoint} follows {shape}, which this run's recipe does not "
                    "name"
                )


def _check_rates(resume_point: ResumePoint) -> None:
    """Raise UserError if the schedule of the checkpoint has no learning rate where the run resumes or where it ends."""
    samples = resume_point.state["clock"]["samples"]
    try:
        resume_point.lr_schedule.lr_at(samples)
        for plan in resume_point.lr_schedule.plans():
            for position in (samples, plan.total_samples):
                plan.lr_at(position)
    except (ArithmeticError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise UserError(
            f"{resume_point.flag}: {resume_point.checkpoint} has a schedule that cannot be followed: {one_line(error)}"
        ) from error


def check_same_data(resume_point: ResumePoint, key: str) -> None:
    """Raise UserError if the data, of which `key` is a hash, is not what the checkpoint was trained on."""
    if resume_point.checkpoint and resume_point.state["data"] != key:
        raise UserError(
            f"data: its content or the tokenizer is not what {resume_point.checkpoint} was trained on, or a newer "
            "version orders the classes or holds out rows differently; give the same data, or start another run from "
            "it with --model"
        )


def initial_state(
    resume_point: ResumePoint, config: dict[str, Any], data: str, lr_schedule: LRSchedule, metric: str
) -> RunState:
    """The state of a run at its start: with the evaluations up to the checkpoint, if it goes on from one.

    A branch has none yet, and the next one is due an interval after its start.

    Args:
        resume_point: what the run starts from.
        config: the configuration as it was requested, as `config_fields` returns it.
        data: a hash of the content of the data.
        lr_schedule: the learning rate schedule that the run follows.
        metric: as `evaluation.metric`. If it has changed, patience starts again.
    """
    if resume_point.branches:
        return RunState(config, data, lr_schedule, metric, evaluated=dict(resume_point.state["clock"]))
    saved = resume_point.state.get("evaluations", {})
    evaluations = {name: value for name, value in saved.items() if name in EVALUATION_FIELDS}
    if resume_point.state.get("config", {}).get("evaluation.metric") != metric:
        evaluations["without_improvement"] = 0
    if metric not in evaluations.get("best_metrics", {}):  # no evaluation so far had it
        evaluations |= {"best_step": None, "best_metrics": {}, "best_details": {}}
    return RunState(config, data, lr_schedule, metric, **evaluations)


def describe_changes(resume_point: ResumePoint, lr_schedule: LRSchedule, world_size: int) -> dict[str, Any]:
    """For the log: the ranks, the global batch and the learning rate before and after the resumption.

    Args:
        resume_point: the checkpoint that the run starts from.
        lr_schedule: the learning rate schedule that the run follows.
        world_size: the ranks of this run.
    """
    samples = resume_point.state["clock"]["samples"]
    before = resume_point.lr_schedule
    return {
        "from": str(resume_point.checkpoint),
        "world_size_before": resume_point.state["world_size"],
        "world_size": world_size,
        "global_batch_size_before": before.global_batch_size,
        "global_batch_size": lr_schedule.global_batch_size,
        "lr_before": before.lr_at(samples),
        "lr": lr_schedule.lr_at(samples),
    }
