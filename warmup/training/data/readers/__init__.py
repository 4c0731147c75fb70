"""Reading data one row at a time; a row that cannot be used is named, never passed on or hidden."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from warmup.errors import UserError
from warmup.training.data.readers.arrow import dataset_rows, parquet_rows, shard_rows
from warmup.training.data.readers.columns import BadRow, Columns, choose_columns
from warmup.training.data.readers.conll import conll_rows
from warmup.training.data.readers.delimited import csv_rows
from warmup.training.data.readers.json_lines import json_rows, jsonl_rows
from warmup.training.data.readers.text import txt_rows
from warmup.training.data.sources import TAGGED_KINDS, Source

SHOWN = 5
_READERS = {
    ".csv": partial(csv_rows, delimiter=","),
    ".tsv": partial(csv_rows, delimiter="\t"),
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".parquet": parquet_rows,
}


def read_rows(
    sources: Sequence[Source], columns: Columns, labelled: bool, bad: list[BadRow], max_bad_rows: int
) -> Iterator[dict]:
    """Yield {"text", "pair", "label"} of each usable row; each other row is appended to `bad`. As `all_rows`."""
    rows = all_rows(sources, columns, labelled, bad, max_bad_rows)
    return (row for row in rows if not isinstance(row, BadRow))


def all_rows(
    sources: Sequence[Source], columns: Columns, labelled: bool, bad: list[BadRow], max_bad_rows: int
) -> Iterator[dict | BadRow]:
    """Yield {"text", "pair", "label"} of each usable row, and each other row, which is appended to `bad` too.

    Texts are yielded as they stand: nothing is stripped, and line ends inside a quoted csv field are kept. Blank
    lines between rows are no rows. A label is text without blanks around it (1 and 1.0 are "1", true is "True", a
    class of a data set is its name); one that is to be a number is what `float` reads. With `columns.words` texts and
    labels are lists, as long as each other, of words and of their tags. Where rows are not `labelled`, label is None.
    Raises UserError where a source or its columns cannot be read, where a source holds no usable row, and as soon as
    `bad` holds more than `max_bad_rows`.
    """
    for source in sources:
        usable = 0
        for row in rows_of(source, columns, labelled):
            if isinstance(row, BadRow):
                bad.append(row)
                check_bad_rows(bad, max_bad_rows)
            else:
                usable += 1
            yield row
        if not usable:
            raise UserError(f"{source.name} holds no usable row")


def rows_of(source: Source, columns: Columns, labelled: bool) -> Iterator[dict | BadRow]:
    """Yield every row of a source, usable or not. Raises UserError where it or its columns cannot be read."""
    if source.kind == ".txt":
        return txt_rows(source.name, columns.words)
    if source.kind in TAGGED_KINDS:
        return conll_rows(source.name, labelled)
    choose = partial(choose_columns, source.name, columns=columns, labelled=labelled)
    if source.shard is not None:
        return shard_rows(source.name, source.table, source.shard, choose)
    if source.table is not None:
        return dataset_rows(source.name, source.table, choose)
    return _READERS[source.kind](source.name, choose)


def check_bad_rows(bad: list[BadRow], max_bad_rows: int, before: int = 0) -> None:
    """Raise UserError where there are more bad rows than that; `before`: those that are not in the list."""
    if before + len(bad) <= max_bad_rows:
        return
    first = "; ".join(str(row) for row in bad[:SHOWN])
    raise UserError(
        f"{before + len(bad)} bad rows so far, and --data.max_bad_rows allows {max_bad_rows}; "
        f"mend them or raise the limit. The {'last' if before else 'first'}: {first}"
    )
