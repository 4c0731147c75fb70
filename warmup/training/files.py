"""Files and folders that are written as a whole or not at all.

The content is first written to a hidden stage beside the target, `.NAME.stage`, and renamed into place when it is
complete. An exception leaves the old target untouched and removes the stage; a process that is killed leaves the old
target and the stage, which the next write removes. Only one process may write a target at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, or replace it: a reader sees the old text or the new one, never a part of it."""
    with staged_file(path) as stage:
        stage.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, as `write_text` does."""
    write_text(path, json.dumps(content, indent=1) + "\n")


@contextlib.contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield the path of a stage to write to; on leaving the block it becomes `path`, replacing an existing file.

    Raises:
        OSError: The stage cannot be renamed. `path` is then what it was before.
    """
    stage = _stage_of(path)
    try:
        with name_in_errors(path):
            yield stage
            stage.replace(path)
    finally:
        with contextlib.suppress(OSError):  # it would hide the error that ended the block
            stage.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on leaving the block it becomes `target`, replacing an existing folder.

    Rename cannot replace a folder that is not empty, so an existing target is first renamed to `.NAME.old`. If the
    second rename fails, it is put back.

    Raises:
        OSError: The stage cannot be made or renamed. `target` is then what it was before.
    """
    stage, old = _stage_of(target), target.with_name(f".{target.name}.old")
    _remove(stage, old)
    stage.mkdir()
    try:
        with name_in_errors(target):
            yield stage
        _set_modes(stage)
        if target.exists():
            target.rename(old)
        try:
            stage.rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise
    finally:
        _remove(stage, old)


@contextlib.contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Name `path` in an OSError of the block that names no file: a write to a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the list of entries of a folder, is on the disk and would survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stage_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.stage")


def _set_modes(folder: Path) -> None:
    """Let whoever may read the folder read its files too; safetensors, for one, writes them for their owner alone.

    The folder was made by mkdir, so its mode is what the umask allows.
    """
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
