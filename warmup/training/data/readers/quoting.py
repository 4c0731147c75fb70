"""Whether the quotation marks of a .csv or .tsv file are quotes or characters of its texts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, NamedTuple, NoReturn

from warmup.config.data import Data
from warmup.errors import UserError
from warmup.training.data.lines import lines
from warmup.training.data.readers.records import Quoting, Record, TableFormat, read_records

_LOOK_BYTES = 1 << 28  # how much of a file is looked at
_MAX_VALUES = 100  # distinct values of a column of classes
_LONG_VALUE = 1000
_MAX_SEVERAL = 1000
_MAX_SEVERAL_BYTES = 1 << 24


Kind = Literal["rows", "text", "unknown"]
"""Whether the lines of a record (most of them) are rows by themselves, or are not, or it cannot be told."""


class Decision(NamedTuple):
    """What quotation marks are in a file."""

    quoting: Quoting
    plain: bool
    """Whether all of them are quotes of complete rows, or there are none: whatever read the file got the same rows."""


def find_quoting(file: str, delimiter: str, columns: int = 0, max_bytes: int = Data.max_document_bytes) -> Decision:
    """Decide what quotation marks are in a file.

    They are quotes where that explains more rows than if they are characters, or where somebody wrote them who quotes:
    in the header, around every field of a column, around delimiters, or doubled. Otherwise, they are quotes in a .csv
    file unless they join lines that are rows by themselves, and they are characters in a .tsv file.

    Args:
        file: its name.
        delimiter: what separates fields.
        columns: how many there are; 0 for as many as the header has.
        max_bytes: the most that a line may have.

    Raises:
        UserError: both would explain the file, and give other rows.
    """
    status = os.stat(file)
    return _decide(file, delimiter, columns, max_bytes, (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1024)
def _decide(file: str, delimiter: str, columns: int, max_bytes: int, version: tuple[int, int]) -> Decision:
    size = last_line = 0
    has_quotes = False
    for number, line in enumerate(lines(file, max_bytes), 1):
        size += len(line)
        if size > _LOOK_BYTES:
            break
        last_line, has_quotes = number, has_quotes or b'"' in line
    if not has_quotes:
        return Decision("standard", True)
    with_header = not columns
    table = TableFormat(delimiter, "standard", max_bytes=max_bytes)
    if with_header:
        header = next(read_records(file, table), None)
        columns = len(header.fields) if header else 0
    quoted = _Reading(delimiter, columns, with_header)
    for record in read_records(file, replace(table, columns=columns)):
        if record.line <= last_line:
            quoted.add(record)
    characters_bad = sum(
        record.reason is not None
        for record in read_records(file, replace(table, columns=columns, quoting="none"))
        if record.line <= last_line
    )
    return _judge(file, quoted, characters_bad)


@dataclass
class _Column:
    """What the fields of a column are, in records of one line."""

    count: int = 0
    quoted: int = 0
    numbers: int = 0
    values: dict[str | int, int] = field(default_factory=dict)
    """How often each value occurs; of long ones, which nothing can be told by, the hash."""
    unquoted_elsewhere: bool = False
    """Whether a record of several lines has this field without quotation marks."""

    def add(self, value: str, quoted: bool) -> None:
        self.count += 1
        self.quoted += quoted
        self.numbers += _is_number(value)
        key = _key(value)
        if key in self.values or len(self.values) <= _MAX_VALUES:
            self.values[key] = self.values.get(key, 0) + 1

    @property
    def is_always_quoted(self) -> bool:
        return self.quoted == self.count > 1 and not self.unquoted_elsewhere

    @property
    def is_known(self) -> bool:
        """Whether there are values that a field of it can be told by: numbers, or few that recur."""
        return self.count > 0 and (self.numbers == self.count or len(self.values) <= min(_MAX_VALUES, self.count / 2))

    def accepts(self, value: str) -> bool:
        """Whether a field is like the others, in quotation marks or not; of a column that is known."""
        value = value.strip('"')
        return _is_number(value) if self.numbers == self.count else _key(value) in self.values


class _Reading:
    """What a file looks like if quotation marks are quotes."""

    def __init__(self, delimiter: str, columns: int, with_header: bool):
        self.delimiter = delimiter
        self.first_row = 2 if with_header else 1
        self.bad = 0
        """Records that cannot be read."""
        self.needed = 0
        """Fields in quotation marks that hold a delimiter or doubled quotation marks."""
        self.bare = 0
        """Quotation marks in fields that are not in quotation marks; what quotes writes none."""
        self.header_is_quoted = False
        self.columns = [_Column() for _ in range(columns)]
        """Of the records of one line, without the header."""
        self.several: list[Record] = []
        """Records of several lines."""
        self._several_bytes = 0

    def add(self, record: Record) -> None:
        if record.reason:
            self.bad += 1
            return
        if len(record.lines) == 1 and b'"' not in record.lines[0]:
            if record.line >= self.first_row:
                self._add_fields(record.fields, [False] * len(record.fields))
            return
        text = b"".join(record.lines).decode("utf-8").rstrip("\r\n")
        parts = list(_fields(text, self.delimiter))
        enclosed = [part[1:-1] for part, is_enclosed in parts if is_enclosed]
        self.bare += sum('"' in part for part, is_enclosed in parts if not is_enclosed)
        if record.line < self.first_row:
            self.header_is_quoted = bool(enclosed)
        several = len(record.lines) > 1
        self.needed += sum('""' in inner or (not several and self.delimiter in inner) for inner in enclosed)
        if several and len(self.several) < _MAX_SEVERAL and self._several_bytes < _MAX_SEVERAL_BYTES:
            self.several.append(record)
            self._several_bytes += sum(map(len, record.lines))
        if record.line >= self.first_row:
            self._add_fields(record.fields, [is_enclosed for _, is_enclosed in parts], several)

    def _add_fields(self, fields: Sequence[str], quoted: Sequence[bool], several: bool = False) -> None:
        for column, value, is_quoted in zip(self.columns, fields, quoted, strict=False):
            if several:
                column.unquoted_elsewhere |= not is_quoted
            else:
                column.add(value, is_quoted)

    @property
    def quotes_a_column(self) -> bool:
        return any(column.is_always_quoted for column in self.columns)

    def find_several(self, kind: Kind) -> int | None:
        """The first line of the first record of several lines of this kind."""
        return next((record.line for record in self.several if self._kind(record) == kind), None)

    def find_tab(self) -> int | None:
        """The first line of the first record with a tab and a line break in one field."""
        both = (record for record in self.several if any("\n" in text and "\t" in text for text in record.fields))
        return next((record.line for record in both), None)

    def _kind(self, record: Record) -> Kind:
        ends = [line.endswith(b"\r\n") for line in record.lines]
        if ends[-1] and not all(ends):  # rows end in CR LF, and line breaks within a field do not
            return "text"
        # In the columns of its texts of several lines, anything may stand.
        told_by = {
            number: column
            for number, column in enumerate(self.columns)
            if column.is_known and "\n" not in record.fields[number]
        }
        rows = [line.decode("utf-8").rstrip("\r\n").split(self.delimiter) for line in record.lines if line.strip()]
        complete = sum(
            len(fields) == len(self.columns) and all(column.accepts(fields[at]) for at, column in told_by.items())
            for fields in rows
        )
        if told_by:
            return "rows" if complete > len(rows) / 2 else "text"
        return "unknown" if complete == len(rows) else "text"


def _fields(text: str, delimiter: str) -> Iterator[tuple[str, bool]]:
    """Yield the fields of a record as they are written, and whether quotation marks enclose each."""
    start = 0
    while start <= len(text):
        end = enclosed = _enclosed_end(text, start, delimiter)
        if end is None:
            end = text.find(delimiter, start)
            end = len(text) if end < 0 else end
        yield text[start:end], enclosed is not None
        start = end + 1


def _enclosed_end(text: str, start: int, delimiter: str) -> int | None:
    """Where the field in quotation marks ends that begins at `start`; None where there is none."""
    if not text.startswith('"', start):
        return None
    end = text.find('"', start + 1)
    while text.startswith('"', end + 1) and end > 0:  # a doubled one
        end = text.find('"', end + 2)
    return end + 1 if end > 0 and text[end + 1 : end + 2] in ("", delimiter) else None


def _judge(file: str, quoted: _Reading, characters_bad: int) -> Decision:
    """Decide by what both readings of a file look like. See `find_quoting`."""
    is_tsv = quoted.delimiter == "\t"
    if quoted.bad > characters_bad:
        return Decision("none", False)
    rows, text, unknown = (quoted.find_several(kind) for kind in ("rows", "text", "unknown"))
    tab = quoted.find_tab() if is_tsv else None
    quotes = quoted.header_is_quoted or quoted.quotes_a_column or quoted.needed > quoted.bare
    if quotes or quoted.bad < characters_bad:
        if doubtful := tab or rows:
            _raise_ambiguous(file, doubtful)
        return Decision("standard", not quoted.bad)
    if is_tsv or quoted.bad:
        if doubtful := text or (unknown and tab):
            _raise_ambiguous(file, doubtful)
        return Decision("none", False)
    if doubtful := unknown or (rows and text):
        _raise_ambiguous(file, doubtful)
    return Decision("none", False) if rows else Decision("standard", True)


def _raise_ambiguous(file: str, line: int) -> NoReturn:
    raise UserError(
        f"{file}:{line}: one row of several lines if quotation marks enclose fields, several rows if they are "
        "characters of the texts; say which it is: --data.quoting standard, or none"
    )


def _key(value: str) -> str | int:
    return value if len(value) <= _LONG_VALUE else hash(value)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
