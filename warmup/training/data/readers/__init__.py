"""Reading data one row at a time; a row that cannot be used is named, never passed on or hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from warmup.config.tasks import TEXT_FILES, WORD_FILES
from warmup.errors import UserError
from warmup.training.data.readers.arrow import dataset_rows, parquet_rows, shard_rows
from warmup.training.data.readers.columns import BadRow, RowFormat
from warmup.training.data.readers.conll import conll_rows
from warmup.training.data.readers.delimited import DELIMITERS, csv_rows
from warmup.training.data.readers.json_lines import json_rows, jsonl_rows
from warmup.training.data.readers.text import txt_rows
from warmup.training.data.sources import Source

SHOWN = 5
_READERS: dict[str, Callable[[str, RowFormat], Iterator[dict[str, Any] | BadRow]]] = {
    **{kind: partial(csv_rows, delimiter=delimiter) for kind, delimiter in DELIMITERS.items()},
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".parquet": parquet_rows,
    **dict.fromkeys(TEXT_FILES, txt_rows),
    **dict.fromkeys(WORD_FILES, conll_rows),
}


def read_rows(
    sources: Sequence[Source], row_format: RowFormat, bad: list[BadRow], max_bad_rows: int
) -> Iterator[dict[str, Any]]:
    """Yield each usable row, by role of its columns; each other row is appended to `bad`. See `all_rows`."""
    rows = all_rows(sources, row_format, bad, max_bad_rows)
    return (row for row in rows if not isinstance(row, BadRow))


def all_rows(
    sources: Sequence[Source], row_format: RowFormat, bad: list[BadRow], max_bad_rows: int
) -> Iterator[dict[str, Any] | BadRow]:
    """Yield each usable row, by role of its columns, and each other row, which is appended to `bad` too.

    Texts are yielded as they stand: nothing is stripped, and line breaks inside a quoted csv field are kept. Blank
    lines between rows are no rows.

    Args:
        sources: what to read, in this order.
        row_format: the columns that the task reads.
        bad: a list that the rows which cannot be used are appended to.
        max_bad_rows: how many of them it may hold.

    Raises:
        UserError: a source or its columns cannot be read, a source holds no usable row, or there are more bad rows
            than `max_bad_rows`.
    """
    for source in sources:
        usable = 0
        for row in rows_of(source, row_format):
            if isinstance(row, BadRow):
                bad.append(row)
                check_bad_rows(bad, max_bad_rows)
            else:
                usable += 1
            yield row
        if not usable:
            raise UserError(f"{source.name} holds no usable row")


def rows_of(source: Source, row_format: RowFormat) -> Iterator[dict[str, Any] | BadRow]:
    """Yield every row of a source, usable or not. Raises UserError where it or its columns cannot be read."""
    if source.shard is not None:
        return shard_rows(source.name, source.table, source.shard, row_format)
    if source.table is not None:
        return dataset_rows(source.name, source.table, row_format)
    return _READERS[source.kind](source.name, row_format)


def check_bad_rows(bad: list[BadRow], max_bad_rows: int, before: int = 0) -> None:
    """Raise UserError where there are more bad rows than allowed.

    Args:
        bad: those found here.
        max_bad_rows: as many as `data.max_bad_rows` allows.
        before: how many were found earlier and are not in the list.
    """
    if before + len(bad) <= max_bad_rows:
        return
    first = "; ".join(str(row) for row in bad[:SHOWN])
    raise UserError(
        f"{before + len(bad)} bad rows so far, and --data.max_bad_rows allows {max_bad_rows}; "
        f"mend them or raise the limit. The {'last' if before else 'first'}: {first}"
    )
