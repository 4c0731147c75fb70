"""Records of .csv and .tsv files: every line is in exactly one record, or it is named as one that cannot be read."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from warmup.config.data import Data
from warmup.training.data.lines import lines, why_not_text

MAX_FIELD = 1 << 24  # of several lines; bounds what a quotation mark that is never closed can draw into memory

Quoting = Literal["standard", "none"]
"""standard: a field may be enclosed in quotation marks, and then hold delimiters, line breaks and doubled quotation
marks (RFC 4180). none: a quotation mark is a character like any other."""


class Record(NamedTuple):
    """The fields of a row, or why it has none."""

    line: int
    """Number of its first line, from 1."""
    lines: tuple[bytes, ...]
    """Its lines as they are in the file."""
    fields: list[str]
    reason: str | None = None
    """Why it cannot be read."""


@dataclass(frozen=True)
class TableFormat:
    """How the records of a file are written."""

    delimiter: str
    quoting: Quoting
    columns: int = 0
    """How many fields a record must have; 0 for any number."""
    columns_are_of: str = "the header"
    """Where that number is from, for messages."""
    max_bytes: int = Data.max_document_bytes
    """The most that a line may have."""

    def why_wrong(self, fields: list[str]) -> str | None:
        """Why these cannot be the fields of a record, or None if they can."""
        if not self.columns or len(fields) == self.columns:
            return None
        many = "few" if len(fields) < self.columns else "many"
        return f"too {many} fields: {len(fields)}, and {self.columns_are_of} has {self.columns}"


def read_records(file: str, table: TableFormat) -> Iterator[Record]:
    """Yield the records of a file, without blank lines.

    Where quotation marks are wrong, or do not give the fields that a record of several lines must have, only the line
    on which they begin is given up, and reading goes on at the next one.
    """
    source = _Lines(file, table.max_bytes)
    for number, line in source:
        if table.quoting == "standard" and (b'"' in line or b"\r" in line.rstrip(b"\r\n")):
            record = _quoted_record(source, number, line, table)
        else:
            record = _plain_record(number, line, table)
        if record.fields or record.reason:
            yield record


class _Lines:
    """The numbered lines of a file, which can be given back to be read again."""

    def __init__(self, file: str, max_bytes: int):
        self._lines = enumerate(lines(file, max_bytes), 1)
        self._returned: deque[tuple[int, bytes]] = deque()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return self

    def __next__(self) -> tuple[int, bytes]:
        return self._returned.popleft() if self._returned else next(self._lines)

    def give_back(self, numbered: list[tuple[int, bytes]]) -> None:
        self._returned.extendleft(reversed(numbered))


def _plain_record(number: int, line: bytes, table: TableFormat) -> Record:
    """The record of a line in which no quotation mark is a quote."""
    content = line.rstrip(b"\r\n")
    if reason := why_not_text(content):
        return Record(number, (line,), [], reason)
    fields = content.decode("utf-8").split(table.delimiter) if content else []
    return Record(number, (line,), fields, table.why_wrong(fields) if fields else None)


def _quoted_record(source: _Lines, number: int, line: bytes, table: TableFormat) -> Record:
    """The record that begins with this line. What it does not take of the lines that follow is given back."""
    csv.field_size_limit(max(MAX_FIELD, len(line)))
    used = [(number, line)]

    def feed() -> Iterator[str]:
        yield _text(line)
        for following in source:
            used.append(following)
            yield _text(following[1])

    try:
        # strict, or a quotation mark that is never closed would quietly make one field of the rest of the file
        fields = next(csv.reader(feed(), delimiter=table.delimiter, strict=True), [])
        reason = table.why_wrong(fields) if fields else None
        if reason and len(used) > 1:
            reason = f"a quotation mark opened in this row is closed in a later one ({reason})"
    except csv.Error as error:
        fields, reason = [], _quote_error(error, table.delimiter)
    if reason:
        source.give_back(used[1:])
        del used[1:]
    for number_used, line_used in used:
        if not_text := why_not_text(line_used):
            number, reason = number_used, not_text
            break
    return Record(number, tuple(line for _, line in used), fields, reason)


def _text(line: bytes) -> str:
    """The line with replacements for what is not text, so that the rows around it are kept apart."""
    return line.decode("utf-8", errors="replace").replace("\0", "\ufffd")


def _quote_error(error: csv.Error, delimiter: str) -> str:
    if "unexpected end of data" in str(error):
        return "a quotation mark opened in this row is never closed"
    if "field larger" in str(error):
        return f"a quotation mark opened in this row is not closed within {MAX_FIELD} characters"
    return f"not valid {'tsv' if delimiter == chr(9) else 'csv'} ({error})"
