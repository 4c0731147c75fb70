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
    """Step of the best evaluation until a checkpoint was made; None where there was none, or it cannot be read."""
    try:
        return read_state(folder)["evaluations"]["best_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def prune(run: Path, keep: int) -> None:
    """Remove what a kill left behind, and all complete checkpoints but the newest `keep` and the best one until each
    of these: whichever of them a run goes on from, its best one is there.
    """
    whole = [folder for folder in list_checkpoints(run) if is_complete(folder)]
    kept = whole[: max(keep, 2)]
    best = set(map(best_step, kept))
    for folder in whole[len(kept) :]:
        if step_of(folder) not in best:
            folder.rename(folder.with_name(f".{folder.name}.old"))  # at once: a kill leaves no half of it
    remove_leftovers(run)


def adopt_best(other: Path, run: Path) -> None:
    """Copy the best checkpoint until `other`, of another run directory, into this one, if it is there and whole."""
    best = best_step(other)
    if best is None:
        return
    source = other if step_of(other) == best else other.with_name(checkpoint_path(run, best).name)
    try:
        verify(source)
    except BrokenCheckpoint:
        return
    files = [path for path in source.iterdir() if path.name != MANIFEST]
    write(checkpoint_path(run, best), lambda stage: [shutil.copyfile(path, stage / path.name) for path in files])


def remove_leftovers(run: Path) -> None:
    """Remove what a kill left behind."""
    for leftover in (run / "checkpoints").glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
