"""Text files: .txt, with a text per line, and the names of labels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from warmup.errors import UserError
from warmup.training.data.lines import lines, why_not_text
from warmup.training.data.readers.columns import BadRow, RowFormat
from warmup.training.data.readers.values import is_blank


def txt_rows(file: str, row_format: RowFormat) -> Iterator[dict[str, Any] | BadRow]:
    """A row for each line that is not blank. (Where a text is a list of words, they are separated by blanks.)"""
    chosen = row_format.assign(text="text")
    (from_line,) = (column.from_line for column in row_format.columns if column.role == "text")
    for number, line in enumerate(lines(file, row_format.options.max_document_bytes), 1):
        if reason := why_not_text(line):
            yield BadRow(file, number, reason)
        elif not is_blank(text := line.rstrip(b"\r\n").decode("utf-8")):
            try:
                row: dict[str, Any] | BadRow = chosen.parse({"text": from_line(text)})
            except ValueError as error:
                row = BadRow(file, number, str(error))
            yield row


@cache
def read_names(file: str) -> tuple[str, ...]:
    """The names of labels in a file, one per line. Raises UserError where they cannot be read or one is there twice."""
    try:
        names = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"data.label_names: {file} cannot be read: {reason}") from error
    if not names:
        raise UserError(f"data.label_names: {file} holds no name")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"data.label_names: {file} holds {twice[0]!r} twice")
    return tuple(names)
