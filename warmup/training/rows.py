"""Reading text files one row at a time; a row that cannot be used is named, never passed on or hidden."""

import csv
import difflib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from warmup.training.outcome import UserError

TEXT_NAMES = (
    "text",
    "sentence1",
    "premise",
    "question1",
    "question",  # before "sentence", or a question/sentence pair would be read as a lone sentence
    "sentence",
    "review",
    "content",
    "document",
    "body",
    "comment",
    "tweet",
)
PAIR_NAMES = {
    "text": ("text_pair",),
    "sentence1": ("sentence2",),
    "premise": ("hypothesis",),
    "question1": ("question2",),
    "question": ("sentence", "answer"),
}
LABEL_NAMES = ("label", "labels", "class", "target", "category", "sentiment", "stars", "score")
# Bounds what a quotation mark that is never closed can draw into memory.
MAX_CSV_FIELD = 1 << 24
SHOWN = 5


@dataclass(frozen=True)
class Columns:
    """Column names; None means inferred (or, once chosen, not there)."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class BadRow:
    """A row left out, and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


def read_rows(
    files: Sequence[str], columns: Columns, labelled: bool, bad: list[BadRow], max_bad_rows: int
) -> Iterator[dict]:
    """Yield {"text", "pair", "label"} of each usable row; each other row is appended to `bad`.

    Texts are yielded as they stand: nothing is stripped, and line ends inside a quoted csv field are kept. Blank
    lines between rows are no rows. A label is text without blanks around it (JSON 1 and 1.0 are "1", true is "True").
    Raises UserError where a file or its columns cannot be read, where a file holds no usable row, and as soon as
    `bad` holds more than `max_bad_rows`.
    """
    for file in files:
        _check_file(file, labelled)
    for file in files:
        usable = 0
        for row in _READERS[Path(file).suffix.lower()](file, columns, labelled):
            if isinstance(row, BadRow):
                bad.append(row)
                _check_limit(bad, max_bad_rows)
            else:
                usable += 1
                yield row
        if not usable:
            raise UserError(f"{file} holds no usable row")


def _check_file(file: str, labelled: bool) -> None:
    """Raise UserError for what can be told before the first row, so that no run stops at its last file for it."""
    suffix = Path(file).suffix.lower()
    try:
        with open(file, "rb") as stream:
            empty = not stream.read(1)
    except IsADirectoryError as error:
        raise UserError(f"{file} is a folder; give the files in it") from error
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist{_nearest(Path(file))}") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    if suffix not in _READERS:
        raise UserError(f"{file}: unknown kind of file {suffix!r}; known are {', '.join(_READERS)}")
    if labelled and suffix == ".txt":
        raise UserError(f"{file}: a .txt file holds no labels; labels need a .csv or .jsonl file")
    if empty:
        raise UserError(f"{file} is empty")


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor does the folder {path.parent})"
    try:
        near = difflib.get_close_matches(path.name, sorted(os.listdir(path.parent)), n=1)
    except OSError:
        near = []
    return f"; did you mean {path.with_name(near[0])}?" if near else ""


def _check_limit(bad: list[BadRow], max_bad_rows: int) -> None:
    if len(bad) <= max_bad_rows:
        return
    first = "; ".join(str(row) for row in bad[:SHOWN])
    raise UserError(
        f"{len(bad)} bad rows so far, and --data.max_bad_rows allows {max_bad_rows}; "
        f"mend them or raise the limit. The first: {first}"
    )


def _lines(file: str) -> Iterator[bytes]:
    """Yield the lines (split at b"\\n" alone, so that their numbers are an editor's), less a byte order mark."""
    try:
        with open(file, "rb") as stream:
            for number, line in enumerate(stream):
                yield line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error


def _fault(line: bytes) -> str | None:
    """Say why these bytes are no text, or None."""
    if b"\0" in line:
        return "holds a NUL byte"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1} of the line)"
    return None


def _txt_rows(file: str, columns: Columns, labelled: bool) -> Iterator[dict | BadRow]:
    for number, line in enumerate(_lines(file), 1):
        if fault := _fault(line):
            yield BadRow(file, number, fault)
        elif line.decode("utf-8").strip():
            yield {"text": line.decode("utf-8").rstrip("\r\n"), "pair": None, "label": None}


def _json_rows(file: str, columns: Columns, labelled: bool) -> Iterator[dict | BadRow]:
    chosen = None
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            record = _json_object(line)
            chosen = chosen or _choose(file, list(record), columns, labelled)
            row = _row(record, chosen)
        except ValueError as error:
            yield BadRow(file, number, str(error))
        else:
            yield row


def _json_object(line: bytes) -> dict:
    if fault := _fault(line):
        raise ValueError(fault)
    try:
        record = json.loads(line.decode("utf-8").rstrip("\r\n"))
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")
        raise ValueError(f"not valid JSON ({what} at column {error.colno}); one object per line") from error
    except (ValueError, RecursionError) as error:  # an endless number, endless nesting
        raise ValueError("JSON with a number too long or nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError("not a JSON object; one object per line")
    return record


def _csv_rows(file: str, columns: Columns, labelled: bool) -> Iterator[dict | BadRow]:
    records = _csv_records(file)
    header = next(records, None)
    if header is None:
        return
    if isinstance(header, BadRow):
        raise UserError(f"{header} (in the header, so that no row can be read)")
    names = header[1]
    chosen = _choose(file, names, columns, labelled)
    for record in records:
        yield record if isinstance(record, BadRow) else _csv_row(file, *record, names, chosen)


def _csv_row(file: str, line: int, fields: list[str], names: list[str], chosen: Columns) -> dict | BadRow:
    try:
        if len(fields) != len(names):
            many = "few" if len(fields) < len(names) else "many"
            raise ValueError(f"too {many} fields: {len(fields)}, and the header has {len(names)}")
        return _row(dict(zip(names, fields, strict=True)), chosen)
    except ValueError as error:
        return BadRow(file, line, str(error))


def _csv_records(file: str) -> Iterator[tuple[int, list[str]] | BadRow]:
    """Yield (line where it starts, fields) of each record, or a BadRow where there are none to be had."""
    csv.field_size_limit(MAX_CSV_FIELD)
    faults: list[BadRow] = []
    # strict, or a quotation mark that is never closed would quietly make one row of the rest of the file.
    reader = csv.reader(_csv_lines(file, faults), strict=True)
    while True:
        start = reader.line_num + 1
        faults.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield faults[0] if faults else BadRow(file, start, _csv_reason(error))
            continue
        if faults:
            yield faults[0]
        elif fields:
            yield start, fields


def _csv_lines(file: str, faults: list[BadRow]) -> Iterator[str]:
    """Yield the lines as text; those that are none go to `faults`, and on with replacements to keep rows apart."""
    for number, line in enumerate(_lines(file), 1):
        if fault := _fault(line):
            faults.append(BadRow(file, number, fault))
        yield line.decode("utf-8", errors="replace").replace("\0", "\ufffd")


def _csv_reason(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "a quotation mark opened in this row is never closed: all that follows is lost"
    return f"not valid csv ({error})"


def _row(record: dict, chosen: Columns) -> dict:
    """Take the chosen columns out of a record; raises ValueError with the reason where one cannot be used."""
    return {
        "text": _text(record, chosen.text),
        "pair": None if chosen.pair is None else _text(record, chosen.pair),
        "label": None if chosen.label is None else _label(record, chosen.label),
    }


def _text(record: dict, column: str) -> str:
    value = record.get(column)
    if value is None:
        raise ValueError(f"{column!r} is missing")
    if not isinstance(value, str):
        raise ValueError(f"{column!r} is not a string")
    if not value.strip():
        raise ValueError(f"{column!r} is blank")
    if "\0" in value:
        raise ValueError(f"{column!r} holds a NUL byte")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{column!r} holds a lone surrogate") from error
    return value


def _label(record: dict, column: str) -> str:
    value = record.get(column)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{column!r} is neither a string nor a whole number")
    return _text(record, column).strip()


def _choose(file: str, names: list[str], columns: Columns, labelled: bool) -> Columns:
    """Settle which columns are read; raises UserError where one that is needed is not there."""
    text = _find(names, columns.text, TEXT_NAMES) or _no_column(file, names, columns.text, "text")
    pair = _find(names, columns.pair, PAIR_NAMES.get(_folded(text), ()))
    if pair is None and columns.pair is not None:
        _no_column(file, names, columns.pair, "pair")
    label = None
    if labelled:
        label = _find(names, columns.label, LABEL_NAMES) or _no_column(file, names, columns.label, "label")
    return Columns(text, pair, label)


def _find(names: list[str], asked: str | None, usual: Sequence[str]) -> str | None:
    if asked in names:
        return asked
    there = {_folded(name): name for name in reversed(names)}
    wanted = usual if asked is None else (asked,)
    return next((there[_folded(name)] for name in wanted if _folded(name) in there), None)


def _folded(name: str) -> str:
    return name.strip().lower()


def _no_column(file: str, names: list[str], asked: str | None, kind: str) -> NoReturn:
    # Cut short: the "names" are a whole row of data where a csv has no header.
    there = ", ".join(repr(name[:40]) for name in names[:20]) or "none"
    what = f"no column known to hold the {kind}" if asked is None else f"no column {asked!r}"
    raise UserError(f"{file}: {what}; name one with --data.{kind}_column (there are {there})")


_READERS = {".csv": _csv_rows, ".jsonl": _json_rows, ".json": _json_rows, ".txt": _txt_rows}
