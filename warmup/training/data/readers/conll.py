"""Rows of .conll, .bio and .iob2 files: one word and its tag per line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from warmup.training.data.lines import lines, why_not_text
from warmup.training.data.readers.columns import BadRow, RowFormat


def conll_rows(file: str, row_format: RowFormat) -> Iterator[dict[str, Any] | BadRow]:
    """Sentences of a word per line, its tag in the last column, with an empty line after each (Tjong Kim Sang and De
    Meulder 2003). A sentence with a bad line is skipped as a whole. Without a role for labels, only the first column
    is read.
    """
    with_tags = "label" in row_format.roles
    words: list[str] = []
    tags: list[str] = []
    bad: BadRow | None = None
    for number, line in enumerate(chain(lines(file), [b""]), 1):
        if line.strip() and not line.startswith(b"-DOCSTART-"):
            try:
                columns = _columns(line, with_tags)
                words.append(columns[0])
                tags.append(columns[-1])
            except ValueError as error:
                bad = bad or BadRow(file, number, str(error))
        elif words or bad:
            yield bad or ({"text": words} | ({"label": tags} if with_tags else {}))
            words, tags, bad = [], [], None


def _columns(line: bytes, with_tags: bool) -> list[str]:
    """A line's columns, separated by tabs, or by blanks if it has no tab: first a word, last its tag if there are."""
    if reason := why_not_text(line):
        raise ValueError(reason)
    text = line.decode("utf-8").strip(" \r\n")
    columns = [column.strip() for column in (text.split("\t") if "\t" in text else re.split(" +", text))]
    if with_tags and not (len(columns) > 1 and columns[0] and columns[-1]):
        raise ValueError("not a word and its tag; a line has at least two columns, parted by tabs or blanks")
    if not columns[0]:
        raise ValueError("no word in the first column; columns are parted by tabs or blanks")
    return columns
