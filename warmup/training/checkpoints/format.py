"""Checkpoints on disk: folders that are written as a whole or not at all, sealed by a manifest, with nothing pickled.

    checkpoints/step-00000500/   model.safetensors, config.json and the tokenizer, as from_pretrained expects them;
                                 optimizer.safetensors; state.json (clock, plan, configuration)
                                 evaluations.json, once the run was evaluated there: what `evaluations` in state.json
                                 says, as it is after that evaluation
                                 manifest.json: size and SHA-256 of each of them

A folder whose name begins with a dot is being written or removed and is never read as a checkpoint. A file that the
manifest does not name (of the operating system, a note, a tool's cache) is no part of the checkpoint and is left alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from warmup.training.files import flush_to_disk, staged_file, staged_folder

FORMAT = 1
MANIFEST, STATE, MODEL, OPTIMIZER = "manifest.json", "state.json", "model.safetensors", "optimizer.safetensors"
EVALUATIONS = "evaluations.json"
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
    """Raise BrokenCheckpoint unless a folder holds the files of its manifest, byte for byte; others do not count."""
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


def own_files(folder: Path) -> list[Path]:
    """The files of a valid checkpoint, without its manifest."""
    return [folder / name for name in sorted(_read_manifest(folder))]


def other_files(folder: Path) -> list[Path]:
    """What lies in the folder of a valid checkpoint and is no part of it."""
    own = {*own_files(folder), folder / MANIFEST, *leftover_stages(folder)}
    return sorted(path for path in folder.iterdir() if path not in own)


def describe_other_files(folder: Path) -> list[str]:
    """In words, what `other_files` are there: one line or none."""
    names = [_printable(path.name) for path in other_files(folder)]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [f"{folder}: {', '.join(names[:5])}{more}: no part of the checkpoint, left alone"] if names else []


def check_step(folder: Path) -> None:
    """Raise BrokenCheckpoint if a valid checkpoint's folder is named after another step than the one it holds."""
    named = step_of(folder)
    try:
        step = read_state(folder)["clock"]["step"]
    except (KeyError, TypeError) as error:
        raise BrokenCheckpoint(f"{folder}: {STATE} has no step") from error
    if named not in (-1, step):
        raise BrokenCheckpoint(
            f"{folder}: holds the checkpoint of step {_short(step)}; rename it after that step, or remove it if it is "
            "a copy"
        )


def _check_sizes(folder: Path) -> dict[str, dict[str, Any]]:
    """Compare the files of a folder with its manifest, without reading them.

    Returns:
        The manifest's entry for each file: {"bytes": size, "sha256": hex digest}.

    Raises:
        BrokenCheckpoint: The manifest cannot be read, or a file of it is missing or of another size.
    """
    entries = _read_manifest(folder)
    for name in sorted(entries.keys() | {MODEL, OPTIMIZER, STATE}):
        if name not in entries:
            raise BrokenCheckpoint(f"{folder}: {name} is not in its manifest")
        path, size = folder / name, entries[name]["bytes"]
        if not _is_plain_name(name) or path.is_symlink() or not path.is_file():
            raise BrokenCheckpoint(f"{folder}: {_printable(name)} is missing")
        if path.stat().st_size != size:
            raise BrokenCheckpoint(f"{folder}: {name} has {path.stat().st_size} bytes and not {size}")
    return entries


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest's entry for each file. Raises BrokenCheckpoint if it cannot be read."""
    unreadable = BrokenCheckpoint(f"{folder}: {MANIFEST} is missing or unreadable")
    try:
        if (folder / MANIFEST).is_symlink():
            raise OSError("a link")
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise unreadable from error
    if type(version) is not int or version != FORMAT:
        newer = type(version) is int and version > FORMAT
        why = "was written by a newer version of this program: " if newer else ""
        raise BrokenCheckpoint(f"{folder}: {why}its format is {_short(version)}, this version reads {FORMAT}")
    entries = manifest.get("files")
    if not isinstance(entries, dict) or not all(map(_is_entry, entries.values())):
        raise unreadable
    return entries


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("bytes")) is int and isinstance(entry.get("sha256"), str)


def _is_plain_name(name: str) -> bool:
    """Whether a name can be that of a file right in a folder."""
    return name not in ("", ".", "..") and "/" not in name and name.isprintable() and len(name.encode()) <= 255


def _printable(name: str) -> str:
    """A name on one line and in characters that every terminal takes."""
    return name if name.isprintable() else ascii(name)


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def read_state(folder: Path) -> dict[str, Any]:
    """The content of state.json, with the evaluations of evaluations.json where the manifest has that file.

    Raises:
        BrokenCheckpoint: A file cannot be read, or is not the JSON of an object.
    """
    state = _read_object(folder / STATE)
    if (folder / EVALUATIONS).is_file() and EVALUATIONS in _read_manifest(folder):
        state["evaluations"] = _read_object(folder / EVALUATIONS)
    return state


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BrokenCheckpoint(f"{path.parent}: {path.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BrokenCheckpoint(f"{path.parent}: {path.name} is not JSON that can be read") from error
    if not isinstance(content, dict):
        raise BrokenCheckpoint(f"{path.parent}: {path.name} is not an object")
    return content


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


def add_evaluations(folder: Path, evaluations: dict[str, Any]) -> None:
    """Add to a checkpoint what the evaluation made there has shown.

    A kill leaves a valid checkpoint, with them or without: the manifest, by which it is judged, is replaced at last.

    Raises:
        BrokenCheckpoint: The manifest cannot be read.
        OSError: The disk does not accept it.
    """
    entries = _read_manifest(folder)
    if entries.pop(EVALUATIONS, None):  # they were made once already
        _replace(folder / MANIFEST, _manifest(entries))
    _replace(folder / EVALUATIONS, json.dumps(evaluations, indent=1))
    entries[EVALUATIONS] = _entry(folder / EVALUATIONS)
    _replace(folder / MANIFEST, _manifest(entries))
    flush_to_disk(folder)


def leftover_stages(folder: Path) -> list[Path]:
    """What a process that was killed in `add_evaluations` may have left in a checkpoint's folder."""
    return [folder / f".{name}.stage" for name in (EVALUATIONS, MANIFEST)]


def _replace(path: Path, text: str) -> None:
    with staged_file(path) as stage:
        stage.write_text(text, encoding="utf-8")
        flush_to_disk(stage)


def _seal(stage: Path) -> None:
    """Flush all files of a folder, write and flush their manifest, then flush the folder itself."""
    entries = {}
    for path in sorted(stage.iterdir()):
        flush_to_disk(path)
        entries[path.name] = _entry(path)
    (stage / MANIFEST).write_text(_manifest(entries), encoding="utf-8")
    flush_to_disk(stage / MANIFEST)
    flush_to_disk(stage)


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _manifest(entries: dict[str, dict[str, Any]]) -> str:
    return json.dumps({"format": FORMAT, "files": entries}, indent=1)


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
