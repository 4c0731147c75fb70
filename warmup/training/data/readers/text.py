"""Rows of .txt files: one document per line."""

from __future__ import annotations

from collections.abc import Iterator

from warmup.training.data.lines import lines, why_not_text
from warmup.training.data.readers.columns import BadRow


def txt_rows(file: str, words: bool) -> Iterator[dict | BadRow]:
    """A text per line; words: as the list of its words, which are parted by blanks."""
    for number, line in enumerate(lines(file), 1):
        if reason := why_not_text(line):
            yield BadRow(file, number, reason)
        elif line.decode("utf-8").strip():
            text = line.decode("utf-8").rstrip("\r\n")
            yield {"text": text.split() if words else text, "pair": None, "label": None}
