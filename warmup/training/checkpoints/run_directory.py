"""The run directory: which process may write to it, and how a resumed run finds it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from warmup.errors import UserError
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import retention
from warmup.training.files import write_json, write_text

SWEEP_FILE = "seeds.json"
"""The file that marks a directory as one of a seed sweep, which holds a run directory per seed."""
LOG_FILES = ("metrics.jsonl", "samples.jsonl")
"""The logs, one JSON object a line. The first is in every run directory and marks it as one."""
RECORD = "run.json"
"""What the start of a run says of it: command, hardware, versions, and from which checkpoint it came."""
EVALUATION = "evaluation.json"
"""The records of the last evaluation and of the best one."""
_held: list[FileLock] = []
"""The locks of this process. The kernel releases them however the process ends."""


class StartingPoint(Protocol):
    """What `enter` reads of a `state.ResumePoint`, where its fields are documented."""

    @property
    def checkpoint(self) -> Path | None: ...

    @property
    def abandoned(self) -> Sequence[Path]: ...

    @property
    def state(self) -> Mapping[str, Any]: ...

    @property
    def branches(self) -> bool: ...

    @property
    def record(self) -> Mapping[str, Any]: ...


def read_record(run: Path) -> Mapping[str, Any]:
    """The run.json of a run; {} where there is none that can be read."""
    try:
        record = json.loads((run / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def read_evaluations(run: Path) -> list[dict[str, Any]]:
    """The records of evaluation.json, in order of their steps; none where the file is not there or damaged."""
    try:
        records = json.loads((run / EVALUATION).read_text(encoding="utf-8"))["evaluations"]
        return [record for record in records if type(record["step"]) is int]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def is_occupied(folder: Path) -> bool:
    """True if a path is a file, or a directory that holds more than a lock."""
    return folder.exists() and (not folder.is_dir() or any(path.name != ".lock" for path in folder.iterdir()))


def check_not_sweep(folder: Path, flag: str) -> None:
    """Raise UserError if `folder`, given by the option `flag` as a run's, is the directory of a whole seed sweep."""
    if (folder / SWEEP_FILE).is_file():
        raise UserError(f"{flag}: {folder} holds a sweep of seeds; name one of its runs: {folder}/seed-N")


def check_unoccupied(path: str | None) -> None:
    """Raise UserError if a new run cannot use a directory because it holds something. Creates nothing."""
    if path and is_occupied(Path(path)):
        raise UserError(f"run_dir: {path} is occupied; give another one, remove it, or go on with it: --resume auto")


def claim(folder: Path) -> None:
    """Lock a run directory for this process. Raises UserError if another process holds it."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=2)  # rank 0 of a failed attempt may be about to end
    except Timeout:
        raise UserError(f"run_dir: {folder} is in use by another run; wait for it, or give another one") from None
    except OSError as error:
        raise UserError(f"run_dir: {folder} cannot be locked: {error.strerror or error}") from error
    _held.append(lock)


def release(folder: Path) -> None:
    """Unlock a run directory, if this process holds it."""
    for lock in [lock for lock in _held if Path(lock.lock_file).parent == folder]:
        lock.release()
        _held.remove(lock)


def create(path: str | None, task: str, record: Mapping[str, Any] | None = None) -> Path:
    """Make and lock a new run directory, with an empty log in it, by which it is known. Otherwise like `make`.

    Args:
        path: as of `make`.
        task: as of `make`.
        record: the first content of run.json; None for no such file yet.
    """
    folder = make(path, task)
    if record:
        write_json(folder / RECORD, record)
    (folder / LOG_FILES[0]).touch()
    return folder


def make(path: str | None, task: str) -> Path:
    """Make and lock a new, empty directory.

    Args:
        path: Where; None for a new one in `runs`, named after the task and the time.
        task: Name of the task.

    Raises:
        UserError: It is occupied, in use by another process, or cannot be made.
    """
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
        check_unoccupied(str(folder))  # another run may have claimed it, written to it and ended in the meantime
        return folder
    raise AssertionError


def abandon(folder: Path) -> None:
    """Make a directory unoccupied again that this run has made and not yet logged to."""
    if not (folder / LOG_FILES[0]).stat().st_size:
        (folder / LOG_FILES[0]).unlink()
        (folder / RECORD).unlink(missing_ok=True)


def enter(path: str | None, task: str, resume_point: StartingPoint) -> Path:
    """Prepare the directory that a run writes to.

    A new directory is made and locked; if the run goes on from another run's checkpoint, the best checkpoint up to that
    one is copied into it. In an occupied directory, which is locked already, everything later than the resume point is
    set aside or removed: of a branch that begins again, all of it.

    Args:
        path: The run directory; None for a new one in `runs`.
        task: Name of the task.
        resume_point: What the run starts from.

    Returns:
        The run directory.

    Raises:
        UserError: A log cannot be read. Then nothing is changed.
    """
    if path is None or not is_occupied(Path(path)):
        folder = create(path, task, resume_point.record)
        _adopt_best(folder, resume_point)
        return folder
    folder = Path(path)
    logs = truncated_logs(folder, {} if resume_point.branches else resume_point.state)
    retention.remove_leftovers(folder)
    for checkpoint in resume_point.abandoned:
        checkpoint_format.set_aside(checkpoint)
    for log, text in logs.items():
        write_text(log, text)
    _adopt_best(folder, resume_point)
    return folder


def _adopt_best(folder: Path, resume_point: StartingPoint) -> None:
    """Copy the best checkpoint up to the one that a run goes on from, if that is another run's, unless it is there."""
    checkpoint = resume_point.checkpoint
    if checkpoint is None or resume_point.branches or checkpoint.resolve().parent == (folder / "checkpoints").resolve():
        return
    best = retention.best_step(checkpoint)
    if best is not None and not checkpoint_format.is_complete(checkpoint_format.checkpoint_path(folder, best)):
        retention.adopt_best(checkpoint, folder)


def truncated_logs(folder: Path, state: Mapping[str, Any]) -> dict[Path, str]:
    """The logs without incomplete lines, and without what the resumed run will log again.

    Those are all lines beyond its position in the data stream, and an evaluation that was made at this position after
    the checkpoint.

    Args:
        folder: The run directory.
        state: Of the checkpoint, as `state.read_run_state` returns it; empty for a fresh start.

    Returns:
        The new content of each log that is there.

    Raises:
        UserError: A log is not UTF-8.
    """
    position = state["clock"]["consumed_samples"] if state else -1
    evaluated = state.get("evaluations", {}).get("evaluated", {}).get("consumed_samples", -1)
    texts = {}
    for path in (folder / name for name in LOG_FILES):
        if not path.exists():
            continue
        lines = [_decode(path, number, line) for number, line in enumerate(path.read_bytes().splitlines(), 1)]
        kept = [line for line in lines if _consumed_samples(line, "eval", evaluated) <= position]
        texts[path] = "".join(line + "\n" for line in kept)
    return texts


def _decode(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: line {number} is not UTF-8: mend or remove the line, or move the file away"
        ) from error


def _consumed_samples(line: str, kind: str, last: int) -> float:
    """The position in the data stream that a line of a log was written at; infinity if it is not to be kept.

    Args:
        line: The line, perhaps not a whole one.
        kind: Lines of this kind are kept up to the position `last`.
        last: That position.
    """
    try:
        entry = json.loads(line)
        name = "consumed_samples" if "consumed_samples" in entry else "drawn"  # its name in older logs
        position = entry[name]
        return position if type(position) is int and (entry.get("kind") != kind or position <= last) else math.inf
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return math.inf
