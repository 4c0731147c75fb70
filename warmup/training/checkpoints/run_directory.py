"""The run directory: whose it is, what is in it, and how a resumed run finds it."""

from __future__ import annotations

import itertools
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from warmup.errors import UserError
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import retention
from warmup.training.checkpoints.state import ResumePoint

SWEEP_FILE = "seeds.json"  # what a sweep of seeds is known by
LINES = ("metrics.jsonl", "samples.jsonl")
_held: list[FileLock] = []  # for as long as the process lives; the kernel frees them however it ends


def is_occupied(folder: Path) -> bool:
    """Whether a path is taken: by something that is no directory, or by one that holds something."""
    return folder.exists() and (not folder.is_dir() or any(path.name != ".lock" for path in folder.iterdir()))


def check_not_sweep(folder: Path, flag: str) -> None:
    """Raise UserError where a run is asked for and a sweep of seeds, which holds several, is named."""
    if (folder / SWEEP_FILE).is_file():
        raise UserError(f"{flag}: {folder} is of a sweep of seeds; name one of its runs: {folder}/seed-N")


def check_unoccupied(path: str | None) -> None:
    """Raise UserError where a run directory was asked for that holds something. Creates nothing."""
    if path and is_occupied(Path(path)):
        raise UserError(f"run_dir: {path} is occupied; give another one, remove it, or go on with it: --resume auto")


def claim(folder: Path) -> None:
    """Take a run directory for this process. Raises UserError where another one has it."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=2)  # the rank 0 of a failed attempt may be about to end
    except Timeout:
        raise UserError(f"run_dir: {folder} is in use by another run; wait for it, or give another one") from None
    except OSError as error:
        raise UserError(f"run_dir: {folder} cannot be locked: {error.strerror or error}") from error
    _held.append(lock)


def release(folder: Path) -> None:
    """Give a run directory back."""
    for lock in [lock for lock in _held if Path(lock.lock_file).parent == folder]:
        lock.release()
        _held.remove(lock)


def create(path: str | None, task: str) -> Path:
    """A new run directory, claimed. Raises UserError where it is occupied or cannot be made."""
    folder = make(path, task)
    (folder / "metrics.jsonl").touch()  # by which it is known
    return folder


def make(path: str | None, task: str) -> Path:
    """A new directory, empty and claimed; by default one of `runs`. Raises UserError as `create`."""
    check_unoccupied(path)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    for number in itertools.count(1):
        folder = Path(path or f"runs/{task}-{stamp}" + (f"-{number}" if number > 1 else ""))
        try:
            folder.mkdir(parents=True, exist_ok=path is not None)
        except FileExistsError as error:
            if path is not None:
                raise UserError(f"run_dir: {folder} cannot be made: {error.strerror}") from error
            continue
        except OSError as error:
            raise UserError(f"run_dir: {folder} cannot be made: {error.strerror}") from error
        claim(folder)
        check_unoccupied(str(folder))  # by a run that was quicker, and is over
        return folder
    raise AssertionError


def abandon(folder: Path) -> None:
    """Leave a directory free that this run has just made, and will write nothing to."""
    if not (folder / LINES[0]).stat().st_size:
        (folder / LINES[0]).unlink()


def enter(path: str | None, task: str, origin: ResumePoint) -> Path:
    """The directory that a run writes to: a new one, or the old one without what is later than `origin`."""
    if path is None or not is_occupied(Path(path)):
        folder = create(path, task)
        if origin.checkpoint:
            retention.adopt_best(origin.checkpoint, folder)
        return folder
    folder = Path(path)
    retention.remove_leftovers(folder)
    for later in origin.abandoned:
        checkpoint_format.set_aside(later)
    truncate_logs(folder, origin.state["clock"]["drawn"] if origin.checkpoint else -1)
    return folder


def truncate_logs(folder: Path, drawn: int) -> None:
    """Take the lines beyond position `drawn` of the data stream out of the logs, and one that was cut off."""
    for name in LINES:
        path = folder / name
        if path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _consumed_samples(line) <= drawn]
            write(path, "".join(line + "\n" for line in kept))


def _consumed_samples(line: str) -> float:
    try:
        return json.loads(line)["drawn"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def write(path: Path, text: str) -> None:
    """Write a file as a whole: it is never seen half-written."""
    stage = path.with_name(f".{path.name}.stage")
    stage.write_text(text, encoding="utf-8")
    stage.replace(path)


def write_json(path: Path, content: Any) -> None:
    write(path, json.dumps(content, indent=1) + "\n")
