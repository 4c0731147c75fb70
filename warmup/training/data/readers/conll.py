"""Rows of .conll, .bio and .iob2 files: one word and its tag per line."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Any

from warmup.config.data import Data
from warmup.errors import UserError
from warmup.training.data.lines import lines, raise_too_large, why_not_text
from warmup.training.data.readers.columns import BadRow, RowFormat
from warmup.training.data.readers.values import BLANKS

_LOOK_LINES, _LOOK_BYTES = 10_000, 1 << 24  # that are looked at to tell the columns
_CONLL_U = 10  # columns of CoNLL-X and CoNLL-U: ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC
_NO_WORD = re.compile(r"[0-9]+[-.][0-9]+")  # IDs of the words "1-2", which follow, and of "8.1", which is not said


@dataclass(frozen=True)
class Layout:
    """Where a file has its words and tags."""

    word: int
    """Index of the column; -1 is the last one."""
    tag: int
    width: int
    """The usual number of columns."""
    tabs: bool
    """Whether tabs usually part them."""
    numbered: bool
    """Whether the first column counts the words of a sentence."""
    note: str = ""
    """Which columns were guessed, and why."""


def conll_rows(file: str, row_format: RowFormat) -> Iterator[dict[str, Any] | BadRow]:
    """Sentences of a word per line, with an empty line after each (Tjong Kim Sang and De Meulder 2003). A sentence with
    a bad line is skipped as a whole. Without a role for labels, tags are not read.

    Raises:
        UserError: it cannot be told which column has the words.
    """
    with_tags = "label" in row_format.roles
    layout = find_layout(file, row_format.options)
    max_bytes = row_format.options.max_document_bytes
    words: list[str] = []
    tags: list[str] = []
    known: dict[str, str] = {}  # each word and tag of a sentence is in memory once
    size = 0
    bad: BadRow | None = None
    for number, line in enumerate(chain(lines(file, max_bytes), [b""]), 1):
        size += len(line)
        if size > max_bytes:
            raise_too_large(f"{file}:{number}: a sentence (they end with an empty line)", max_bytes)
        if line.strip() and not line.startswith(b"-DOCSTART-"):
            try:
                columns = _columns(line)
                if not (words or bad) and _is_comment(columns, line, layout):
                    continue
                if layout.numbered and _NO_WORD.fullmatch(columns[0]):
                    continue
                word = _column(columns, layout.word, with_tags)
                words.append(known.setdefault(word, word))
                if with_tags:
                    tag = _column(columns, layout.tag, with_tags)
                    tags.append(known.setdefault(tag, tag))
            except ValueError as error:
                bad = bad or BadRow(file, number, str(error))
        elif words or bad:
            yield bad or ({"text": words} | ({"label": tags} if with_tags else {}))
            words, tags, known, size, bad = [], [], {}, 0, None
        else:
            size = 0


def find_layout(file: str, options: Data) -> Layout:
    """Which columns hold words and tags.

    Those that the configuration names; of CoNLL-U's ten the second and the fourth; else the first and the last.

    Raises:
        UserError: the first column counts, or is the same everywhere, and no other one is named.
    """
    status = os.stat(file)
    version = status.st_size, status.st_mtime_ns
    return _find_layout(file, options.word_column, options.tag_column, options.max_document_bytes, version)


@lru_cache(maxsize=1024)
def _find_layout(file: str, word: int | None, tag: int | None, max_bytes: int, version: tuple[int, int]) -> Layout:
    sentences = _first_sentences(file, max_bytes)
    usual = Counter((len(columns), tabs) for sentence in sentences for columns, tabs in sentence)
    (width, tabs), _ = usual.most_common(1)[0] if usual else ((1, False), 0)
    rows = [[columns for columns, _ in sentence if len(columns) == width] for sentence in sentences]
    numbered = width > 1 and _is_numbered(rows)
    note = ""
    if numbered and width == _CONLL_U and word is None and tag is None:
        word, tag, note = 2, 4, "words in column 2 and tags in column 4, as in CoNLL-U"
    firsts = {columns[0] for sentence in rows for columns in sentence}
    constant = width > 2 and len(firsts) == 1 and sum(map(len, rows)) > 10
    if word is None and (numbered or constant):
        example = next(columns for sentence in rows for columns in sentence)
        raise UserError(
            f"{file}: the first of its {width} columns {'counts the words' if numbered else 'is always the same'}; "
            f"say which has the words: --data.word_column {min(2, width)}, and which the tags: --data.tag_column "
            f"{width} (a line is {' '.join(example)[:60]!r})"
        )
    return Layout((word or 1) - 1, tag - 1 if tag else -1, width, tabs, numbered, note)


def _first_sentences(file: str, max_bytes: int) -> list[list[tuple[list[str], bool]]]:
    """The columns of the first sentences' lines, and whether tabs part them; without lines that begin with #."""
    sentences: list[list[tuple[list[str], bool]]] = [[]]
    size = 0
    for line in islice(lines(file, max_bytes), _LOOK_LINES):
        size += len(line)
        if size > _LOOK_BYTES:
            break
        if not line.strip():
            sentences.append([])
        elif not (line.startswith((b"-DOCSTART-", b"#")) or why_not_text(line)):
            sentences[-1].append((_columns(line), b"\t" in line))
    return [sentence for sentence in sentences if sentence]


def _is_numbered(sentences: list[list[list[str]]]) -> bool:
    """Whether the first column counts from 0 or 1 in nearly all sentences, one of which has several words."""
    counting = sum(_counts([columns[0] for columns in sentence]) for sentence in sentences)
    return counting >= 0.9 * len(sentences) and max(map(len, sentences), default=0) > 1


def _counts(values: list[str]) -> bool:
    numbers = [value for value in values if not _NO_WORD.fullmatch(value)]
    expected = ([str(index + start) for index in range(len(numbers))] for start in (0, 1))
    return numbers in expected


def has_other_lines(file: str, options: Data) -> bool:
    """Whether there are comments, or words that are blanks of other scripts, in which older versions saw words or bad
    lines, or columns that they did not choose.
    """
    layout = find_layout(file, options)
    if layout.note:
        return True
    at_start = True
    for line in lines(file, options.max_document_bytes):
        if not line.strip() or line.startswith(b"-DOCSTART-"):
            at_start = True
        elif not why_not_text(line):
            columns = _columns(line)
            if (at_start and _is_comment(columns, line, layout)) or any(part and not part.strip() for part in columns):
                return True
            at_start = False
    return False


def _is_comment(columns: list[str], line: bytes, layout: Layout) -> bool:
    """Whether a line before a sentence is no word of it: it begins with #, and is not like the lines of words.

    Those have a number in their first column, or one word; and they have a certain number of columns.
    """
    other_columns = len(columns) != layout.width or (b"\t" in line) != layout.tabs
    return line.startswith(b"#") and (layout.numbered or other_columns or " " in columns[0])


def _columns(line: bytes) -> list[str]:
    """A line's columns, separated by tabs, or by blanks if it has no tab."""
    if reason := why_not_text(line):
        raise ValueError(reason)
    text = line.decode("utf-8").strip(" \r\n")
    return [column.strip(BLANKS) for column in (text.split("\t") if "\t" in text else re.split(" +", text))]


def _column(columns: list[str], index: int, with_tags: bool) -> str:
    """A word or a tag. Raises ValueError where there is none."""
    if with_tags and index in (0, -1) and not (len(columns) > 1 and columns[index]):
        raise ValueError("not a word and its tag; a line has at least two columns, parted by tabs or blanks")
    if index >= len(columns):
        raise ValueError(f"{len(columns)} columns, and column {index + 1} is to be read")
    if not columns[index]:
        where = "the first column" if index == 0 else f"column {index + 1}"
        raise ValueError(
            f"no {'word' if not with_tags or index == 0 else 'value'} in {where}; columns are parted by tabs or blanks"
        )
    return columns[index]
