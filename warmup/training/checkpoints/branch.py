"""Branches: a run of its own that starts at a checkpoint of another run, its parent, which is left as it is.

Weights, optimizer state, position and data go on from the checkpoint; the recipe, the log and the evaluations are the
branch's own. Its run.json says where it came from, from before its first step on, so that a branch that is killed
before its first checkpoint branches off again from the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmup.errors import UserError
from warmup.plan import Plan
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import run_directory
from warmup.training.checkpoints.state import ORIGIN, ResumePoint, read_checkpoint

FLAG = "--branch_from"


def find_branch_point(parent: Path, run_dir: str | None) -> ResumePoint:
    """The start of a new branch.

    Args:
        parent: a checkpoint, or a run directory for its newest valid one.
        run_dir: the directory of the branch; None for a new one in `runs`.

    Raises:
        UserError: there is no valid checkpoint, or the branch's directory is the parent's or occupied.
    """
    check_not_parent(parent, run_dir)
    run_directory.check_unoccupied(run_dir)
    return _branch_point(parent, run_dir)


def branch_again(run: Path, origin: Mapping[str, Any]) -> ResumePoint:
    """The start of a branch, whose directory this process has claimed, that had not come to its first checkpoint."""
    return _branch_point(Path(origin["checkpoint"]), str(run), f"no checkpoint in {run} yet: it branches off again")


def _branch_point(parent: Path, run_dir: str | None, *first_notes: str) -> ResumePoint:
    checkpoint, notes, state = read_checkpoint(parent, FLAG)
    own_run = _run_of(checkpoint)
    origin = {
        "checkpoint": str(checkpoint.resolve()),
        "run": str(own_run) if own_run else None,
        **{name: state["clock"][name] for name in ("step", "samples")},
    }
    notes = (*first_notes, *notes, *checkpoint_format.describe_other_files(checkpoint))
    return ResumePoint(checkpoint, run_dir, notes, (), state, origin, branches=True)


def check_not_parent(parent: Path, run_dir: str | None) -> None:
    """Raise UserError if the directory of a branch is that of its parent, or inside it."""
    if run_dir is None:
        return
    folder = _run_of(parent) or parent.resolve()
    if folder in (Path(run_dir).resolve(), *Path(run_dir).resolve().parents):
        raise UserError(f"run_dir: {run_dir} is in {folder}, which {FLAG} leaves as it is; give another one")


def check_is_branch(run: Path, parent: Path) -> None:
    """Raise UserError unless a run directory is that of a branch from `parent`, as `find_branch_point` takes it."""
    check_not_parent(parent, str(run))
    origin = read_origin(run) or {}
    if str(parent.resolve()) not in (origin.get("checkpoint"), origin.get("run")):
        raise UserError(f"run_dir: {run} holds another run than a branch from {parent}; give another one")


def check_goes_on(resume_point: ResumePoint, plan: Plan) -> None:
    """Raise UserError if a branch would end where it begins, or before."""
    if not resume_point.branches:
        return
    samples = resume_point.state["clock"]["samples"]
    if samples >= plan.duration_samples:
        raise UserError(
            f"recipe.duration: the branch would end after {plan.duration_samples} samples, and "
            f"{resume_point.checkpoint} is at {samples}; give a longer one, or branch from an earlier checkpoint"
        )


def read_origin(run: Path) -> Mapping[str, Any] | None:
    """What the run.json of a run says of where it branched off; None if it is no branch.

    Returns:
        `checkpoint` and `run`, absolute paths, of which the second is None if the checkpoint was in no run directory;
        `step` and `samples`, the position there.
    """
    origin = run_directory.read_record(run).get(ORIGIN)
    return origin if isinstance(origin, dict) and isinstance(origin.get("checkpoint"), str) else None


def describe(origin: Mapping[str, Any]) -> str:
    """Where a run branched off, in words."""
    return f"step {origin['step']:,} ({origin['samples']:,} samples), {origin['checkpoint']}"


def _run_of(path: Path) -> Path | None:
    """The run directory that a path is, or that it is a checkpoint of; None if it is neither. Absolute."""
    path = path.resolve()
    if (path / "checkpoints").is_dir():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else None
