"""Rows of .txt files: one text per line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
            yield chosen.parse({"text": from_line(text)})
