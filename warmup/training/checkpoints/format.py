"""Checkpoints on disk: a folder that is there as a whole or not at all, sealed by a manifest, with nothing pickled.

    checkpoints/step-00000500/   model.safetensors, config.json and the tokenizer, as from_pretrained wants them;
                                 optimizer.safetensors; state.json (clock, plan, configuration)
                                 manifest.json: size and SHA-256 of each of them

A folder whose name begins with a dot is being written or removed, and is nobody's checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

FORMAT = 1
MANIFEST, STATE, MODEL, OPTIMIZER = "manifest.json", "state.json", "model.safetensors", "optimizer.safetensors"
_NAME = re.compile(r"step-(\d+)")


class BrokenCheckpoint(Exception):
    """A folder that is not what was written, or not one of ours; the text names the file and what is wrong."""


def checkpoint_path(run: Path, step: int) -> Path:
    """Where a run directory's checkpoint of a step is."""
    return run / "checkpoints" / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run directory, valid or not, the newest first."""
    folder = run / "checkpoints"
    found = [path for path in folder.iterdir() if step_of(path) >= 0] if folder.is_dir() else []
    return sorted(found, key=step_of, reverse=True)


def newest_valid(run: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, None where there is none; and which newer ones do not, and why."""
    skipped = []
    for folder in list_checkpoints(run):
        try:
            verify(folder)
        except BrokenCheckpoint as error:
            skipped.append(str(error))
        else:
            return folder, skipped
    return None, skipped


def verify(folder: Path) -> None:
    """Raise BrokenCheckpoint unless a folder holds the files of its manifest, byte for byte, and no others."""
    for name, facts in _check_sizes(folder).items():
        try:
            same = _sha256(folder / name) == facts["sha256"]
        except OSError as error:
            raise BrokenCheckpoint(f"{folder}: {name} cannot be read: {error.strerror}") from error
        if not same:
            raise BrokenCheckpoint(f"{folder}: {name} is not what was written (its SHA-256 differs)")


def is_complete(folder: Path) -> bool:
    """Whether all files are there in their sizes: what can be told without reading them."""
    try:
        _check_sizes(folder)
    except BrokenCheckpoint:
        return False
    return True


def _check_sizes(folder: Path) -> dict[str, dict]:
    """The manifest's files, after a look at what is there. Raises BrokenCheckpoint."""
    try:
        if (folder / MANIFEST).is_symlink():
            raise OSError("a link")
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, files = manifest["format"], manifest["files"]
        expected = {name: (facts["bytes"], facts["sha256"]) for name, facts in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenCheckpoint(f"{folder}: {MANIFEST} is missing or unreadable") from error
    if version != FORMAT:
        raise BrokenCheckpoint(f"{folder}: its format is {version!r}, this version reads {FORMAT}")
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    for name in sorted(present | expected.keys() | {MODEL, OPTIMIZER, STATE}):
        if name not in expected:
            raise BrokenCheckpoint(f"{folder}: {name} is not in its manifest")
        path, size = folder / name, expected[name][0]
        if name not in present or path.is_symlink() or not path.is_file():
            raise BrokenCheckpoint(f"{folder}: {name} is missing")
        if path.stat().st_size != size:
            raise BrokenCheckpoint(f"{folder}: {name} has {path.stat().st_size} bytes and not {size}")
    return files


def read_state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / STATE).read_text(encoding="utf-8"))


def write(target: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a checkpoint's files into a folder, seal it, and put it in place as `target`.

    Raises OSError where the disk does not take it; then nothing of it is left, and older checkpoints are untouched.
    """
    stage = target.with_name(f".{target.name}.stage")
    shutil.rmtree(stage, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)  # not its parents: a run directory that vanished is not made anew
    stage.mkdir()
    try:
        fill(stage)
        files = {}
        for path in sorted(stage.iterdir()):
            _flush(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        text = json.dumps({"format": FORMAT, "files": files}, indent=1)
        (stage / MANIFEST).write_text(text, encoding="utf-8")
        _flush(stage / MANIFEST)
        _flush(stage)
        if target.exists():
            set_aside(target)
        stage.rename(target)
        _flush(target.parent)
    except SafetensorError as error:  # which hides the reason behind sizes that do not match, or in words
        raise OSError(None, f"cannot be written, is there space left? ({error})", str(target)) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def set_aside(folder: Path) -> Path:
    """Take a checkpoint out of the sequence without losing it. Returns its new place."""
    for number in range(1, 10**6):
        place = folder.with_name(f"discarded-{folder.name}" + (f"-{number}" if number > 1 else ""))
        if not place.exists():
            return folder.rename(place)
    raise AssertionError(folder)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Make sure that what was written is on the disk, and not only on its way."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
