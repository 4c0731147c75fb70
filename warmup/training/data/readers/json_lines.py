"""Rows of .jsonl and .json files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from warmup.errors import UserError
from warmup.training.data.lines import lines, raise_too_large, why_not_text
from warmup.training.data.readers.columns import BadRow, ChosenColumns, RowFormat

_ENDLESS = "JSON with a number too long or nested too deeply"
_WRONG_BYTE = re.compile("[\udc80-\udcff]")  # what decoding with surrogateescape makes of one


def jsonl_rows(file: str, row_format: RowFormat) -> Iterator[dict[str, Any] | BadRow]:
    """One object per line."""
    chosen = None
    for number, line in enumerate(lines(file, row_format.options.max_document_bytes), 1):
        if not line.strip():
            continue
        try:
            record = _object(line)
        except ValueError as error:
            yield BadRow(file, number, str(error))
            continue
        if chosen is None:
            _check_rows(file, record)
        for row in row_format.expand(record):
            chosen = chosen or row_format.choose(file, list(row))
            try:
                yield chosen.parse(row)
            except ValueError as error:
                yield BadRow(file, number, str(error))


def _object(line: bytes) -> dict:
    if reason := why_not_text(line):
        raise ValueError(reason)
    try:
        record = json.loads(line.rstrip(b"\r\n").decode("utf-8"))
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")
        raise ValueError(f"not valid JSON ({what} at column {error.colno}); one object per line") from error
    except (ValueError, RecursionError) as error:  # an endless number, endless nesting
        raise ValueError(_ENDLESS) from error
    if not isinstance(record, dict):
        raise ValueError("not a JSON object; one object per line")
    return record


def json_rows(file: str, row_format: RowFormat) -> Iterator[dict[str, Any] | BadRow]:
    """A list of objects, alone or as "data" of an object, read as a whole; or what many call .json: one per line."""
    max_bytes = row_format.options.max_document_bytes
    if _is_one_per_line(file, max_bytes):
        yield from jsonl_rows(file, row_format)
        return
    text = _whole(file, max_bytes)
    undecodable = not text.isascii() and _WRONG_BYTE.search(text) is not None
    chosen = None
    for number, record in enumerate(chain.from_iterable(map(row_format.expand, _list(file, text))), 1):
        try:
            if not isinstance(record, dict):
                raise ValueError("not a JSON object")
            chosen = chosen or row_format.choose(file, list(record))
            if undecodable:
                _check_bytes(record, chosen)
            row = chosen.parse(record)
        except UserError:
            raise
        except ValueError as error:
            yield BadRow(file, number, str(error), unit="row")
        else:
            yield row


def _whole(file: str, max_bytes: int) -> str:
    read: list[bytes] = []
    size = 0
    for line in lines(file, max_bytes):
        read.append(line)
        size += len(line)
        if size > max_bytes:
            raise_too_large(f"{file}: a .json file, which is read as a whole (a .jsonl file is not),", max_bytes)
    return b"".join(read).decode("utf-8", "surrogateescape")


def _is_one_per_line(file: str, max_bytes: int) -> bool:
    """Whether the first line that is not blank is an object by itself."""
    line = next((line for line in lines(file, max_bytes) if line.strip()), b"")
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        return not isinstance(json.loads(line.decode("utf-8", "replace")).get("data"), list)
    except (ValueError, RecursionError):
        return False


def _list(file: str, text: str) -> list:
    wanted = 'a .json file is a list of objects, or {"data": such a list}; one object per line is .jsonl'
    if not text.strip():
        return []
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        what = f"not valid JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
        raise UserError(f"{file}:{error.lineno}: {what}; {wanted}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: {_ENDLESS}") from error
    if isinstance(document, dict):
        _check_rows(file, document)
    found = document.get("data") if isinstance(document, dict) else document
    if not isinstance(found, list):
        raise UserError(f"{file}: no list of rows; {wanted}")
    return found


def _check_rows(file: str, record: dict) -> None:
    """Raise UserError where an object is a whole table, as pandas writes one that is not asked for rows."""
    outer, inner = list(record), list(record.values())
    by_index = inner and all(isinstance(value, dict) and value for value in inner)
    if by_index:
        by_index = all(map(str.isdigit, outer)) or all(key.isdigit() for value in inner for key in value)
    split = {"columns", "data"} <= set(outer) and isinstance(record["data"], list) and record["data"][:1]
    if by_index or (split and isinstance(split[0], list)):
        raise UserError(
            f"{file}: a table by columns, as pandas writes it by default; write rows instead: "
            'to_json(FILE, orient="records", lines=True), as .jsonl'
        )


def _check_bytes(record: dict, chosen: ChosenColumns) -> None:
    for column in chosen.file_names:
        value = record.get(column)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (wrong := _WRONG_BYTE.search(text)):
                byte = ord(wrong.group()) - 0xDC00
                raise ValueError(f"not UTF-8 (byte 0x{byte:02x} in {column!r})")
