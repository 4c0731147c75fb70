"""What an entry of data.train_files stands for: files by name or pattern, saved data sets, data sets of the hub."""

from __future__ import annotations

import difflib
import glob
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets

from warmup.config.tasks import TABLES, TASKS, TEXT_FILES, WORD_FILES, TaskFacts, name_tasks
from warmup.errors import UserError, one_line
from warmup.training import hub
from warmup.training.data.lines import COMPRESSIONS, is_empty

TEXT_KINDS = tuple(kind for kind in (*TABLES, *TEXT_FILES, *WORD_FILES) if kind != ".parquet")
KNOWN = f"{', '.join(TEXT_KINDS)} (also with {', '.join(COMPRESSIONS)} after it) and .parquet"
_HOLDS = {
    **dict.fromkeys(TABLES, "rows with named columns"),
    **dict.fromkeys(TEXT_FILES, "texts without labels"),
    **dict.fromkeys(WORD_FILES, "words and their tags"),
}
SAVED = "saved data set"
HUB = "hub data set"
_HUB = re.compile(r"hub:(?P<name>[^:]+):(?:(?P<configuration>[^:\[]+):)?(?P<split>[^:\[]+(?:\[.*)?)")


@dataclass(frozen=True)
class Source:
    """Rows from one place. `kind`: a file's suffix in lower case, less that of its compression; SAVED or HUB.

    fingerprint: of the hub's. shard: number of the part of `table` that is meant, where that is read as a stream.
    whole: whether all of it is looked at to tell its content.
    """

    name: str
    kind: str
    table: Any = None  # datasets.Dataset, IterableDataset, or None for a file
    fingerprint: str = ""
    shard: int | None = None
    whole: bool = True

    def identity(self) -> str:
        """Equal where two sources are the same one under two names."""
        return f"hub:{self.fingerprint}:{self.shard}" if self.kind == HUB else os.path.realpath(self.name)

    def content(self) -> str:
        """A hash of what is read, not of where it lies or when it was written.

        For a saved data set that is the bytes of its Arrow files and the types of its columns (with the names of
        classes): its own fingerprint would not notice a file that was changed. For the hub's it is the fingerprint
        that `datasets` gives them, which stands for name, revision, configuration and split.

        Of files that are not looked at as a whole it is the size and both ends: where compressed files have their
        checksum, and parquet files the list of what is in them.
        """
        if self.kind == HUB:
            part = "" if self.shard is None else f":{self.shard} of {self.table.num_shards}"
            return hashlib.sha256(f"{HUB}{self.fingerprint}{part}".encode()).hexdigest()
        if self.kind == SAVED:
            digest = hashlib.sha256(f"{SAVED}{self.table.features}".encode())
            files = json.loads((Path(self.name) / "state.json").read_text())["_data_files"]
            paths = [Path(self.name) / file["filename"] for file in files]
        else:
            digest = hashlib.sha256("".join(suffixes(self.name)).encode())
            paths = [Path(self.name)]
        for path in paths:
            (_add_file if self.whole else _add_ends)(digest, path)
        return digest.hexdigest()


def resolve(
    train: Sequence[str], validation: Sequence[str], facts: TaskFacts, streaming: bool = False
) -> tuple[tuple[Source, ...], tuple[Source, ...]]:
    """The sources of training and validation entries.

    Args:
        train: entries of data.train_files.
        validation: entries of data.validation_files.
        facts: of the task, which says what kinds of file it reads.
        streaming: nothing is downloaded, and hub data sets are read shard by shard.

    Raises:
        UserError: for all that can be told before a row is read, so that no run stops at its last file for it, and
            where the same rows would be read twice.
    """
    seen: dict[str, tuple[str, str]] = {}
    flags = ("data.train_files", "train"), ("data.validation_files", "validation")
    found = [
        resolve_part(entries, flag, split, facts, streaming, seen)
        for entries, (flag, split) in zip((train, validation), flags, strict=True)
    ]
    return found[0], found[1]


def resolve_part(
    entries: Sequence[str],
    flag: str,
    split: str,
    facts: TaskFacts,
    streaming: bool = False,
    seen: dict[str, tuple[str, str]] | None = None,
) -> tuple[Source, ...]:
    """The sources of one flag's entries.

    Args:
        entries: file names, patterns, folders of saved data sets, hub data sets.
        flag: to be named in errors.
        split: which one to take of data sets that have several; "test" for rows that are to be predicted.
        facts: of the task.
        streaming: as `resolve`.
        seen: sources that were read already, by identity: (flag, entry). Those found are added.

    Raises:
        UserError: as `resolve`.
    """
    seen = {} if seen is None else seen
    lines = TEXT_FILES if split == "test" and facts.predicts_lines else ()
    kinds = tuple(dict.fromkeys((*facts.file_kinds, *lines)))
    found = []
    for entry in entries:
        if entry.startswith("hub:"):
            sources = _hub(entry, flag, streaming)
        else:
            names = _expand(entry, flag)
            sources = [_saved(name, split) if os.path.isdir(name) else _file(name, kinds, facts.name) for name in names]
        for source in sources:
            if before := seen.get(source.identity()):
                raise UserError(
                    f"{flag}: {source.name} (by {entry!r}) is read already, for {before[0]} (by {before[1]!r}); "
                    "give it once"
                )
            seen[source.identity()] = flag, entry
            found.append(replace(source, whole=not streaming or split != "train"))
    return tuple(found)


def _expand(entry: str, flag: str) -> list[str]:
    """The paths that an entry with *, ? or [ matches, unless it is the very name of one."""
    if os.path.lexists(entry) or not any(character in entry for character in "*?["):
        return [entry]
    found = sorted(glob.glob(entry, recursive=True))
    if not found:
        raise UserError(f"{flag}: no file matches {entry}")
    return found


def _file(file: str, kinds: Sequence[str], task: str) -> Source:
    try:
        empty = os.stat(file).st_size == 0
        open(file, "rb").close()
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist{_nearest(Path(file))}") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    kind, compression = suffixes(file)
    if kind not in TEXT_KINDS and (kind != ".parquet" or compression):
        raise UserError(f"{file}: unknown kind of file {kind + compression!r}; known are {KNOWN}")
    if kind not in kinds:
        readers = name_tasks([name for name, facts in TASKS.items() if kind in facts.file_kinds])
        raise UserError(
            f"{file}: a {kind} file holds {_HOLDS[kind]}, for {readers}; task: {task} reads {', '.join(kinds)}"
        )
    if empty or (compression and is_empty(file)):
        raise UserError(f"{file} is empty")
    return Source(file, kind)


def suffixes(file: str) -> tuple[str, str]:
    """What the file's name says of its kind and of its compression ("" where there is none)."""
    path = Path(file.lower())
    compression = path.suffix if path.suffix in COMPRESSIONS else ""
    return Path(path.stem if compression else path).suffix, compression


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor does the folder {path.parent})"
    try:
        near = difflib.get_close_matches(path.name, sorted(os.listdir(path.parent)), n=1)
    except OSError:
        near = []
    return f"; did you mean {path.with_name(near[0])}?" if near else ""


def _saved(folder: str, split: str) -> Source:
    """A folder that `Dataset.save_to_disk` wrote, or the split of one that `DatasetDict.save_to_disk` wrote."""
    try:
        if os.path.exists(listing := os.path.join(folder, "dataset_dict.json")):
            splits = json.loads(Path(listing).read_text())["splits"]
            if split not in splits:
                there = ", ".join(splits)
                raise UserError(f"{folder} has no split named {split} (there are {there}); give the folder of one")
            folder = os.path.join(folder, split)
        if not os.path.exists(os.path.join(folder, "state.json")):
            raise UserError(f"{folder} is a folder; give the files in it, or a folder that Dataset.save_to_disk wrote")
        return Source(folder, SAVED, datasets.load_from_disk(folder))
    except UserError:
        raise
    except Exception as error:  # whatever a damaged one leads the library to
        raise UserError(f"{folder} cannot be loaded as a saved data set: {one_line(error)}") from error


def _hub(entry: str, flag: str, streaming: bool) -> list[Source]:
    """A data set of the hub, or where it is streamed its shards."""
    asked = _HUB.fullmatch(entry)
    if not asked:
        raise UserError(f"{flag}: {entry!r} is not hub:NAME:SPLIT or hub:NAME:CONFIGURATION:SPLIT")
    name, configuration, split = asked["name"], asked["configuration"], asked["split"]
    hub.go_offline_if_unreachable()
    try:
        if not streaming:
            table = datasets.load_dataset(name, configuration, split=split)
            return [Source(entry, HUB, table, table._fingerprint)]
        builder = datasets.load_dataset_builder(name, configuration)
        stream, fingerprint = builder.as_streaming_dataset(split), builder._get_dataset_fingerprint(split)
    except Exception as error:  # of the hub, or a name, configuration or split that is not there
        hub.check_reachable(entry, flag, error)
        raise UserError(f"{flag}: {entry} cannot be loaded: {one_line(error)}") from error
    count = stream.num_shards
    return [
        Source(f"{entry} (shard {number + 1} of {count})", HUB, stream, fingerprint, number) for number in range(count)
    ]


def _add_file(digest, path: Path) -> None:
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)


def _add_ends(digest, path: Path, length: int = 1 << 20) -> None:
    size = path.stat().st_size
    digest.update(f"{size} ".encode())
    with open(path, "rb") as file:
        digest.update(file.read(length))
        file.seek(max(size - length, 0))
        digest.update(file.read(length))
