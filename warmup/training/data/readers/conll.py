"""Rows of .conll, .bio and .iob2 files: one word and its tag per line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from warmup.training.data.lines import lines, why_not_text
from warmup.training.data.readers.columns import BadRow


def conll_rows(file: str, tagged: bool) -> Iterator[dict | BadRow]:
    """Sentences of a word per line, its tag in the last column, with an empty line after each (Tjong Kim Sang and De
    Meulder 2003). A sentence with a bad line is left out as a whole. Not `tagged`, the first column alone is read.
    """
    words: list[str] = []
    tags: list[str] = []
    bad: BadRow | None = None
    for number, line in enumerate(chain(lines(file), [b""]), 1):
        if line.strip() and not line.startswith(b"-DOCSTART-"):
            try:
                columns = _columns(line, tagged)
                words.append(columns[0])
                tags.append(columns[-1])
            except ValueError as error:
                bad = bad or BadRow(file, number, str(error))
        elif words or bad:
            yield bad or {"text": words, "pair": None, "label": tags if tagged else None}
            words, tags, bad = [], [], None


def _columns(line: bytes, tagged: bool) -> list[str]:
    """A line's columns, with a word in the first, and where it is `tagged` its tag in the last. They are parted by
    tabs, or where there are none by blanks.
    """
    if reason := why_not_text(line):
        raise ValueError(reason)
    text = line.decode("utf-8").strip(" \r\n")
    columns = [column.strip() for column in (text.split("\t") if "\t" in text else re.split(" +", text))]
    if tagged and not (len(columns) > 1 and columns[0] and columns[-1]):
        raise ValueError("not a word and its tag; a line has at least two columns, parted by tabs or blanks")
    if not columns[0]:
        raise ValueError("no word in the first column; columns are parted by tabs or blanks")
    return columns
