"""Rows of .csv and .tsv files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from warmup.errors import UserError
from warmup.training.data.lines import lines, why_not_text
from warmup.training.data.readers.columns import BadRow, ChosenColumns, RowFormat

# Bounds what a quotation mark that is never closed can draw into memory.
MAX_FIELD = 1 << 24


def csv_rows(file: str, row_format: RowFormat, delimiter: str) -> Iterator[dict[str, Any] | BadRow]:
    """Rows of a table with a header; quotation marks mean the same in .tsv as in .csv, as spreadsheets write both."""
    records = _records(file, delimiter)
    header = next(records, None)
    if header is None:
        return
    if isinstance(header, BadRow):
        raise UserError(f"{header} (in the header, so that no row can be read)")
    names = header[1]
    chosen = row_format.choose(file, names)
    for record in records:
        yield record if isinstance(record, BadRow) else _row(file, *record, names, chosen)


def _row(file: str, line: int, fields: list[str], names: list[str], chosen: ChosenColumns) -> dict[str, Any] | BadRow:
    try:
        if len(fields) != len(names):
            many = "few" if len(fields) < len(names) else "many"
            raise ValueError(f"too {many} fields: {len(fields)}, and the header has {len(names)}")
        return chosen.parse(dict(zip(names, fields, strict=True)))
    except ValueError as error:
        return BadRow(file, line, str(error))


def _records(file: str, delimiter: str) -> Iterator[tuple[int, list[str]] | BadRow]:
    """Yield (line where it starts, fields) of each record, or a BadRow where there are none to be had."""
    csv.field_size_limit(MAX_FIELD)
    faults: list[BadRow] = []
    # strict, or a quotation mark that is never closed would quietly make one row of the rest of the file.
    reader = csv.reader(_text_lines(file, faults), delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 1
        faults.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield faults[0] if faults else BadRow(file, start, _reason(error, delimiter))
            continue
        if faults:
            yield faults[0]
        elif fields:
            yield start, fields


def _text_lines(file: str, faults: list[BadRow]) -> Iterator[str]:
    """Yield the lines as text; those that are none go to `faults`, and on with replacements to keep rows apart."""
    for number, line in enumerate(lines(file), 1):
        if reason := why_not_text(line):
            faults.append(BadRow(file, number, reason))
        yield line.decode("utf-8", errors="replace").replace("\0", "\ufffd")


def _reason(error: csv.Error, delimiter: str) -> str:
    if "unexpected end of data" in str(error):
        return "a quotation mark opened in this row is never closed: all that follows is lost"
    kind = "tsv" if delimiter == "\t" else "csv"
    return f"not valid {kind} ({error})"
