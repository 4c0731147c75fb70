"""Which checkpoints are kept, and which are removed."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from warmup.training.checkpoints.format import (
    MANIFEST,
    BrokenCheckpoint,
    check_step,
    checkpoint_path,
    is_complete,
    leftover_stages,
    list_checkpoints,
    other_files,
    own_files,
    read_state,
    set_aside,
    step_of,
    verify,
    write,
)


def best_step(folder: Path) -> int | None:
    """The step of the best evaluation up to a checkpoint; None if there was none, or if its state cannot be read."""
    try:
        step = read_state(folder)["evaluations"]["best_step"]
    except (BrokenCheckpoint, KeyError, TypeError):
        return None
    return step if type(step) is int and step >= 0 else None


def prune(run: Path, keep: int) -> None:
    """Remove old complete checkpoints and leftovers of killed processes.

    Kept are the newest ones and, for each of these, the best one up to it: whichever of them the run is resumed from,
    its best checkpoint is still there. Incomplete checkpoints neither count nor are removed. Files that are no part of
    a checkpoint stay behind in a folder `discarded-...`, except hidden ones, which go with it.

    Args:
        run: The run directory.
        keep: How many of the newest to keep; at least two are.
    """
    complete = [folder for folder in list_checkpoints(run) if is_complete(folder)]
    kept = complete[: max(keep, 2)]
    best = {best_step(folder) for folder in kept}
    for folder in complete[len(kept) :]:
        if step_of(folder) not in best:
            _remove(folder)
    remove_leftovers(run)


def _remove(folder: Path) -> None:
    """Remove a complete checkpoint. The rename is atomic: a kill leaves no half-removed one."""
    if all(path.name.startswith(".") for path in other_files(folder)):
        folder.rename(folder.with_name(f".{folder.name}.old"))  # for remove_leftovers
        return
    discarded = set_aside(folder)
    for path in [*own_files(discarded), discarded / MANIFEST]:
        path.unlink(missing_ok=True)


def adopt_best(checkpoint: Path, run: Path) -> None:
    """Copy the best checkpoint up to `checkpoint`, which is of another run, into the run directory `run`.

    Does nothing if there is none, or if it is not valid.
    """
    best = best_step(checkpoint)
    if best is None:
        return
    source = checkpoint if step_of(checkpoint) == best else checkpoint.with_name(checkpoint_path(run, best).name)
    try:
        verify(source)
        check_step(source)
    except BrokenCheckpoint:
        return
    paths = own_files(source)
    write(checkpoint_path(run, best), lambda stage: [shutil.copyfile(path, stage / path.name) for path in paths])


def remove_leftovers(run: Path) -> None:
    """Remove checkpoints that a killed process was writing or removing."""
    for leftover in (run / "checkpoints").glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for folder in list_checkpoints(run):
        for leftover in leftover_stages(folder):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)
