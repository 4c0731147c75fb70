"""Rows of .csv and .tsv files: tables with a header or named columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from warmup.config.data import Data
from warmup.errors import UserError
from warmup.training.data.readers.columns import BadRow, ChosenColumns, RowFormat
from warmup.training.data.readers.quoting import find_quoting
from warmup.training.data.readers.records import Record, TableFormat, read_records

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LOOK_ROWS = 1000  # that are looked at to tell whether a header is one
_DELIMITER_NAMES = {";": ";", "\t": "\\t", ",": ",", "|": "|"}


def csv_rows(file: str, row_format: RowFormat, delimiter: str) -> Iterator[dict[str, Any] | BadRow]:
    """Yield the rows of a table.

    Args:
        file: its name.
        row_format: the columns that the task reads, and how the configuration says the file is written.
        delimiter: what separates fields, unless the configuration says otherwise.

    Raises:
        UserError: the file, its header or a column cannot be read.
    """
    options = row_format.options
    table = table_format(file, options, delimiter)
    names = list(options.column_names)
    records = read_records(file, table)
    if names:
        _check_no_header(file, table, names)
    else:
        header = next(read_records(file, replace(table, columns=0)), None)
        if header is None:
            return
        if header.reason:
            raise UserError(f"{file}:{header.line}: {header.reason} (in the header, so that no row can be read)")
        names = header.fields
        _check_delimiter(file, names)
        records = read_records(file, replace(table, columns=len(names)))
        next(records)
    chosen = _choose(file, row_format, table, names)
    for record in records:
        yield BadRow(file, record.line, record.reason) if record.reason else _row(file, record, names, chosen)


def table_format(file: str, options: Data, delimiter: str) -> TableFormat:
    """How the records of a file are written; the number of columns only where the configuration names them.

    Args:
        file: its name.
        options: of the configuration.
        delimiter: what separates fields, unless the configuration says otherwise.

    Raises:
        UserError: it cannot be told what quotation marks are.
    """
    delimiter, columns = options.delimiter or delimiter, len(options.column_names)
    quoting = options.quoting
    if quoting == "auto":
        quoting = find_quoting(file, delimiter, columns, options.max_document_bytes).quoting
    columns_are_of = "data.column_names" if columns else "the header"
    return TableFormat(delimiter, quoting, columns, columns_are_of, options.max_document_bytes)


def _row(file: str, record: Record, names: list[str], chosen: ChosenColumns) -> dict[str, Any] | BadRow:
    try:
        return chosen.parse(dict(zip(names, record.fields, strict=True)))
    except ValueError as error:
        return BadRow(file, record.line, str(error))


def _choose(file: str, row_format: RowFormat, table: TableFormat, names: list[str]) -> ChosenColumns:
    """The columns to read. Raises UserError where they are missing, or where the header is a row of data."""
    problem = None
    try:
        chosen = row_format.choose(file, names)
        if not any(row_format.requested.values()):
            return chosen
    except UserError as error:
        chosen, problem = None, error
    why = None if row_format.options.column_names else _why_data(file, table, names, found=chosen is not None)
    if why:
        raise UserError(
            f"{file}: its first line looks like a row and not like a header ({why}); if it has no header, name its "
            f"{len(names)} columns in order: --data.column_names"
        ) from problem
    if chosen is None:
        raise problem or UserError(f"{file}: no columns")
    return chosen


def _why_data(file: str, table: TableFormat, names: list[str], found: bool) -> str | None:
    """Why a header is rather a row of data, or None if it is not.

    Args:
        file: the file's name.
        table: how it is written.
        names: the fields of the header.
        found: whether the columns to read are among them; a long name is then no reason (surveys have questions).
    """
    if names in ([str(number + start) for number in range(len(names))] for start in (0, 1)):
        return None
    for name in names:
        if not found and (len(name.split()) > 4 or len(name) > 60):
            return f"{name[:40]!r} is a text"
    recurring = {
        column
        for record in islice(read_records(file, replace(table, columns=len(names))), 1, _LOOK_ROWS)
        if not record.reason and record.fields != names
        for column, name in enumerate(names)
        if name.strip() and record.fields[column] == name
    }
    if recurring:
        return f"{names[min(recurring)][:40]!r} is also in later rows of its column"
    if all(_is_decimal(name) for name in names):
        return f"{names[0]!r} is a number"
    return None


def _is_decimal(name: str) -> bool:
    return name.strip().lstrip("-").replace(".", "", 1).isdigit()


def _check_no_header(file: str, table: TableFormat, names: list[str]) -> None:
    """Raise UserError where columns are named and the file has a header with these names."""
    first = next(read_records(file, table), None)
    if first is not None and [name.strip().lower() for name in first.fields] == [name.lower() for name in names]:
        raise UserError(f"{file}: data.column_names are those of its header; leave them out")


def _check_delimiter(file: str, names: list[str]) -> None:
    """Raise UserError where the header is one field that another delimiter would divide."""
    for other, text in _DELIMITER_NAMES.items():
        if len(names) == 1 and other in names[0]:
            raise UserError(
                f"{file}: its header is one field, {names[0][:60]!r}; if fields are separated by {text!r}, say so: "
                f"--data.delimiter '{text}'"
            )
