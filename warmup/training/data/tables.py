"""Tables on disk that are written row by row or sample by sample, with little of them in memory at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from tqdm import tqdm

from warmup.terminal import is_terminal
from warmup.training.data.tokenizers.long_texts import PIECE

ROWS = 1000  # at once, at most
_BYTES = 1 << 24  # of rows that are read or written at once, where they have several
_CHARACTERS = 1 << 19  # of rows that are tokenized at once; of a longer text, its pieces are


def rows_at_once(size: int, count: int) -> int:
    """How many rows to hold in memory.

    Args:
        size: Bytes of all rows.
        count: Number of all rows.
    """
    return max(1, min(ROWS, _BYTES * count // max(size, 1)))


def build_table(rows: Iterable[Mapping[str, Any]], folder: Path, features: datasets.Features) -> datasets.Dataset:
    """Rows as a table on disk.

    Args:
        rows: Each of them by column.
        folder: Where the table is kept. Its parent must exist.
        features: Types of its columns.

    Raises:
        UserError, OSError: As the rows raised them, or where the table cannot be written.
    """
    folder.mkdir()
    return write_samples(_columns(rows, list(features)), folder / "rows.arrow", features)


def write_samples(parts: Iterable[Mapping[str, Any]], file: Path, features: datasets.Features) -> datasets.Dataset:
    """Samples as a table on disk.

    Args:
        parts: Some samples at a time, by column.
        file: Where the table is kept.
        features: Types of its columns.
    """
    schema = features.arrow_schema
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        for part in parts:
            writer.write_table(pyarrow.table({name: part[name] for name in schema.names}, schema))
    return datasets.Dataset.from_file(str(file))


def tokenize_table(
    rows: datasets.Dataset,
    tokenize: Callable[..., Mapping[str, list] | Iterator[Mapping[str, list]]],
    name: str,
) -> Iterator[Mapping[str, list]]:
    """Yield the samples of rows, in parts.

    Args:
        rows: A column `text` of texts or of lists of words, and others.
        tokenize: Turns some rows, by column, into samples, or yields the samples in parts.
        name: Of the progress bar.
    """
    with tqdm(
        total=len(rows), desc=f"tokenising {name}", unit=" rows", disable=not is_terminal(sys.stderr)
    ) as progress:
        for batch in rows.iter(rows_at_once(rows.data.nbytes, len(rows.data))):
            for part in _parts(batch):
                samples = tokenize(part)
                yield from [samples] if isinstance(samples, Mapping) else samples
                progress.update(len(part["text"]))


def _columns(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> Iterator[dict[str, list]]:
    """Yield rows by column, some at a time."""
    held: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        held.append(row)
        size += sum(_length(row[name]) for name in names)
        if len(held) == ROWS or size >= _BYTES:
            yield {name: [held_row[name] for held_row in held] for name in names}
            held, size = [], 0
    if held:
        yield {name: [held_row[name] for held_row in held] for name in names}


def _parts(batch: dict[str, list]) -> Iterator[dict[str, list]]:
    """Divide rows so that each part has as many characters as are tokenized at once, or one row."""
    start = characters = 0
    for row, text in enumerate(batch["text"]):
        length = min(_length(text), PIECE)
        if row > start and characters + length > _CHARACTERS:
            yield {name: values[start:row] for name, values in batch.items()}
            start, characters = row, 0
        characters += length
    yield {name: values[start:] for name, values in batch.items()}


def _length(value: Any) -> int:
    """Characters of a text or of a list of words."""
    return sum(map(len, value)) if isinstance(value, list) else len(value) if isinstance(value, str) else 0
