"""Which checkpoints are kept, and which are removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from warmup.training.checkpoints.format import (
    MANIFEST,
    BrokenCheckpoint,
    checkpoint_path,
    is_complete,
    list_checkpoints,
    read_state,
    step_of,
    verify,
    write,
)


def best_step(folder: Path) -> int | None:
    """The step of the best evaluation up to a checkpoint; None if there was none, or if its state cannot be read."""
    try:
        return read_state(folder)["evaluations"]["best_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def prune(run: Path, keep: int) -> None:
    """Remove old complete checkpoints and leftovers of killed processes.

    Kept are the newest ones and, for each of these, the best one up to it: whichever of them the run is resumed from,
    its best checkpoint is still there. Incomplete checkpoints neither count nor are removed.

    Args:
        run: The run directory.
        keep: How many of the newest to keep; at least two are.
    """
    complete = [folder for folder in list_checkpoints(run) if is_complete(folder)]
    kept = complete[: max(keep, 2)]
    best = {best_step(folder) for folder in kept}
    for folder in complete[len(kept) :]:
        if step_of(folder) not in best:
            folder.rename(folder.with_name(f".{folder.name}.old"))  # atomic: a kill leaves no half-removed checkpoint
    remove_leftovers(run)


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
    except BrokenCheckpoint:
        return
    paths = [path for path in source.iterdir() if path.name != MANIFEST]
    write(checkpoint_path(run, best), lambda stage: [shutil.copyfile(path, stage / path.name) for path in paths])


def remove_leftovers(run: Path) -> None:
    """Remove checkpoints that a killed process was writing or removing."""
    for leftover in (run / "checkpoints").glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
