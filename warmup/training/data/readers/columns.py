"""Which columns of a file are read, and what can be used of a row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from warmup.errors import UserError

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
WORD_NAMES = ("tokens", "words")
TAG_NAMES = ("ner_tags", "tags", "labels", "pos_tags", "upos")
LABEL_NAMES = ("label", "labels", "class", "target", "category", "sentiment", "stars", "score")
MAX_NUMBER = float(2**127)  # training computes in 32 bits


@dataclass(frozen=True)
class Columns:
    """Column names; None means inferred (or, once chosen, not there). numbers: whether labels are to be numbers.
    words: whether a text is a list of words, and its label a list of their tags.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    numbers: bool = False
    words: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for name in (self.text, self.pair, self.label) if name is not None))


Choose = Callable[[list[str]], Columns]  # of the names that a file has


@dataclass(frozen=True)
class BadRow:
    """A row left out, and why. Text is counted in lines; where there are none, rows are counted, from 1 too."""

    file: str
    number: int
    reason: str
    unit: Literal["line", "row"] = "line"

    def __str__(self) -> str:
        place = self.number if self.unit == "line" else f"row {self.number}"
        return f"{self.file}:{place}: {self.reason}"


def parse_row(record: dict, chosen: Columns) -> dict:
    """Take the chosen columns out of a record; raises ValueError with the reason where one cannot be used."""
    if chosen.words:
        return _sentence(record, chosen)
    label = _number if chosen.numbers else _label
    return {
        "text": _text(record.get(chosen.text), repr(chosen.text)),
        "pair": None if chosen.pair is None else _text(record.get(chosen.pair), repr(chosen.pair)),
        "label": None if chosen.label is None else label(record.get(chosen.label), repr(chosen.label)),
    }


def _text(value: object, what: str) -> str:
    if value is None:
        raise ValueError(f"{what} is missing")
    if not isinstance(value, str):
        raise ValueError(f"{what} is not a string")
    if not value.strip():
        raise ValueError(f"{what} is blank")
    if "\0" in value:
        raise ValueError(f"{what} holds a NUL byte")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} holds a lone surrogate") from error
    return value


def _label(value: object, what: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{what} is neither a string nor a whole number")
    return _text(value, what).strip()


def _number(value: object, what: str) -> str:
    if value is None or isinstance(value, str):
        value = _text(value, what).strip()
    try:
        number = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):  # no number; one of 400 digits
        number = math.nan
    if not abs(number) <= MAX_NUMBER:
        raise ValueError(f"{what} is not a finite number: {str(value)[:40]!r}")
    return repr(number)


def _sentence(record: dict, chosen: Columns) -> dict:
    words = _list(record.get(chosen.text), chosen.text)
    tags = None if chosen.label is None else _list(record.get(chosen.label), chosen.label)
    if tags is not None and len(words) != len(tags):
        raise ValueError(f"{chosen.text!r} holds {len(words)} words and {chosen.label!r} {len(tags)} tags")
    return {
        "text": [_text(word, f"word {number} of {chosen.text!r}") for number, word in enumerate(words, 1)],
        "pair": None,
        "label": tags and [_label(tag, f"tag {number} of {chosen.label!r}") for number, tag in enumerate(tags, 1)],
    }


def _list(value: object, column: str) -> list:
    """A list as it is; of a string, what it holds: a list as JSON, or words parted by blanks."""
    if isinstance(value, str):
        text = value.strip()
        try:
            value = json.loads(text) if text.startswith("[") and text.endswith("]") else text.split()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{column!r} is neither a JSON list nor words parted by blanks") from error
    if value is None:
        raise ValueError(f"{column!r} is missing")
    if not isinstance(value, list):
        raise ValueError(f"{column!r} is not a list")
    if not value:
        raise ValueError(f"{column!r} is empty")
    return value


def choose_columns(file: str, names: list[str], columns: Columns, labelled: bool) -> Columns:
    """Settle which columns are read; raises UserError where one that is needed is not there, or there twice."""
    texts, labels = (WORD_NAMES, TAG_NAMES) if columns.words else (TEXT_NAMES, LABEL_NAMES)
    text = _find(names, columns.text, texts) or _no_column(file, names, columns.text, "text")
    pair = _find(names, columns.pair, PAIR_NAMES.get(_folded(text), ()))
    if pair is None and columns.pair is not None:
        _no_column(file, names, columns.pair, "pair")
    label = None
    if labelled:
        label = _find(names, columns.label, labels) or _no_column(file, names, columns.label, "label")
    chosen = Columns(text, pair, label, columns.numbers, columns.words)
    if twice := [name for name in chosen.names if names.count(name) > 1]:
        raise UserError(f"{file}: two columns are named {twice[0]!r}; name each column once")
    return chosen


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
