"""Checkpoints on disk: folders that are written as a whole or not at all, sealed by a manifest, with nothing pickled.

    checkpoints/step-00000500/   model.safetensors, config.json and the tokenizer, as from_pretrained expects them;
                                 optimizer.safetensors; state.json (clock, plan, configuration)
                                 manifest.json: size and SHA-256 of each of them

A folder whose name begins with a dot is being written or removed and is never read as a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from warmup.training.files import flush_to_disk, staged_folder

FORMAT = 1
MANIFEST, STATE, MODEL, OPTIMIZER = "manifest.json", "state.json", "model.safetensors", "optimizer.safetensors"
_NAME = re.compile(r"step-(\d+)")


class BrokenCheckpoint(Exception):
    """A folder is not a checkpoint, or its content is not what was written. The text names the file and the damage."""


def checkpoint_path(run: Path, step: int) -> Path:
    """The folder of the checkpoint of `step` in a run directory."""
    return run / "checkpoints" / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name; -1 for a folder of any other name."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def list_checkpoints(run: Path) -> list[Path]:
    """All checkpoints of a run directory, valid or not, the newest first."""
    folder = run / "checkpoints"
    checkpoints = [path for path in folder.iterdir() if step_of(path) >= 0] if folder.is_dir() else []
    return sorted(checkpoints, key=step_of, reverse=True)


def newest_valid(run: Path) -> tuple[Path | None, list[str]]:
    """Find the newest checkpoint of a run directory that verifies.

    Returns:
        Its folder, None if there is none; and for each newer checkpoint the reason why it is not valid.
    """
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
    """Raise BrokenCheckpoint unless a folder holds exactly the files of its manifest, byte for byte."""
    for name, entry in _check_sizes(folder).items():
        try:
            same = _sha256(folder / name) == entry["sha256"]
        except OSError as error:
            raise BrokenCheckpoint(f"{folder}: {name} cannot be read: {error.strerror}") from error
        if not same:
            raise BrokenCheckpoint(f"{folder}: {name} is not what was written (its SHA-256 differs)")


def is_complete(folder: Path) -> bool:
    """True if all files of the manifest are there with the right sizes. Unlike `verify`, reads only the manifest."""
    try:
        _check_sizes(folder)
    except BrokenCheckpoint:
        return False
    return True


def _check_sizes(folder: Path) -> dict[str, dict[str, Any]]:
    """Compare the files of a folder with its manifest, without reading them.

    Returns:
        The manifest's entry for each file: {"bytes": size, "sha256": hex digest}.

    Raises:
        BrokenCheckpoint: The manifest cannot be read, or a file is missing, unknown or of another size.
    """
    try:
        if (folder / MANIFEST).is_symlink():
            raise OSError("a link")
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, entries = manifest["format"], manifest["files"]
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in entries.items()}
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
    return entries


def read_state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / STATE).read_text(encoding="utf-8"))


def write(target: Path, fill: Callable[[Path], object]) -> None:
    """Write a checkpoint, flushed to disk before it counts.

    Args:
        target: The checkpoint's folder. An existing one is set aside.
        fill: Writes the files into the folder that it is given.

    Raises:
        OSError: The disk does not accept it. Then nothing of it is left, and older checkpoints are untouched.
    """
    target.parent.mkdir(exist_ok=True)  # not its parents: a run directory that vanished is not made anew
    try:
        with staged_folder(target) as stage:
            fill(stage)
            _seal(stage)
            if target.exists():
                set_aside(target)
        flush_to_disk(target.parent)
    except SafetensorError as error:  # its text hides "no space left" behind sizes that do not match
        raise OSError(None, f"cannot be written, is there space left? ({error})", str(target)) from error


def _seal(stage: Path) -> None:
    """Flush all files of a folder, write and flush their manifest, then flush the folder itself."""
    entries = {}
    for path in sorted(stage.iterdir()):
        flush_to_disk(path)
        entries[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    manifest = json.dumps({"format": FORMAT, "files": entries}, indent=1)
    (stage / MANIFEST).write_text(manifest, encoding="utf-8")
    flush_to_disk(stage / MANIFEST)
    flush_to_disk(stage)


def set_aside(folder: Path) -> Path:
    """Rename a checkpoint so that it is no longer one of the run's, without losing it. Returns its new path."""
    for number in range(1, 10**6):
        discarded = folder.with_name(f"discarded-{folder.name}" + (f"-{number}" if number > 1 else ""))
        if not discarded.exists():
            return folder.rename(discarded)
    raise AssertionError(folder)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
