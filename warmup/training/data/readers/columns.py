"""Which columns of a file a task reads, and what can be used of a row."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NoReturn

import datasets

from warmup.config.data import Data
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
BLANKS = " \t\r\n\v\f"
"""What parts words. Blanks of other scripts, such as U+3000, may be words: tagged corpora have them."""
MAX_NUMBER = float(2**127)  # training computes in 32 bits
STRING = datasets.Value("large_string")


@dataclass(frozen=True)
class BadRow:
    """A row that is skipped, and why."""

    file: str
    number: int
    """Counted from 1."""
    reason: str
    unit: Literal["line", "row"] = "line"
    """Text files are counted in lines; where there are none, in rows."""

    def __str__(self) -> str:
        where = self.number if self.unit == "line" else f"row {self.number}"
        return f"{self.file}:{where}: {self.reason}"


@dataclass(frozen=True)
class Column:
    """One column that a task reads."""

    role: str
    """Key of its value in a parsed row. The field `data.<role>_column` of the configuration names the file's column."""
    names: Sequence[str] | Mapping[str, Sequence[str]]
    """Usual names; the first that the file has is taken. A mapping has them by the name of the text column."""
    parse: Callable[[Any, str], Any]
    """(value, quoted name of the column) -> what is used of it. Raises ValueError with the reason if nothing can be."""
    feature: Any = field(default_factory=lambda: STRING)
    """Type of the parsed value in a table."""
    required: bool = True
    """A file without it is refused; otherwise its value is None there."""
    from_line: Callable[[str], Any] = str
    """What a line of a .txt file is to it, before it is parsed."""


@dataclass(frozen=True)
class ChosenColumns:
    """The columns that are read of one file."""

    names: Mapping[str, str | None]
    """The file's name of the column, by role."""
    columns: tuple[Column, ...]
    check: Callable[[dict[str, Any], Mapping[str, str | None]], None] | None = None

    @property
    def file_names(self) -> tuple[str, ...]:
        """Names of the columns to read, each once."""
        return tuple(dict.fromkeys(name for name in self.names.values() if name is not None))

    def parse(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Take the columns out of a record. Raises ValueError with the reason where one cannot be used."""
        row: dict[str, Any] = {}
        for column in self.columns:
            name = self.names[column.role]
            row[column.role] = None if name is None else column.parse(record.get(name), repr(name))
        if self.check is not None:
            self.check(row, self.names)
        return row


@dataclass(frozen=True)
class RowFormat:
    """What a task reads of a row, in any kind of file."""

    columns: tuple[Column, ...]
    requested: Mapping[str, str | None] = field(default_factory=dict)
    """Names of columns that the user gave, by role; None or missing ones are found by their usual names."""
    options: Data = field(default_factory=Data)
    """How files are written."""
    check: Callable[[dict[str, Any], Mapping[str, str | None]], None] | None = None
    """Called with a parsed row and the columns' names: raises ValueError where its values do not go together."""

    @classmethod
    def of(cls, data: Data, *columns: Column, check: Callable | None = None) -> RowFormat:
        """These columns, by the names that the configuration gives them."""
        requested = {column.role: getattr(data, f"{column.role}_column", None) for column in columns}
        return cls(columns, requested, data, check)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(column.role for column in self.columns)

    @property
    def features(self) -> datasets.Features:
        """Types of a table of parsed rows."""
        return datasets.Features({column.role: column.feature for column in self.columns})

    def without(self, role: str) -> RowFormat:
        """The same without one of the columns: rows to predict have no labels."""
        return replace(self, columns=tuple(column for column in self.columns if column.role != role))

    def choose(self, file: str, names: Sequence[str]) -> ChosenColumns:
        """Settle which of a file's columns are read.

        Args:
            file: to be named in errors.
            names: the names of all its columns.

        Raises:
            UserError: a column that is needed is missing, or there are two of its name.
        """
        chosen: dict[str, str | None] = {}
        for column in self.columns:
            requested = self.requested.get(column.role)
            usual = column.names
            if isinstance(usual, Mapping):
                usual = usual.get(_folded(chosen["text"] or ""), ())
            chosen[column.role] = _find(names, requested, usual)
            if chosen[column.role] is None and (column.required or requested is not None):
                _raise_missing(file, names, requested, column.role)
        result = ChosenColumns(chosen, self.columns, self.check)
        if twice := [name for name in result.file_names if names.count(name) > 1]:
            raise UserError(f"{file}: two columns are named {twice[0]!r}; name each column once")
        return result

    def assign(self, **names: str) -> ChosenColumns:
        """The columns of a kind of file whose columns have no names of their own: by role."""
        return ChosenColumns({role: names.get(role) for role in self.roles}, self.columns)


def text_column() -> Column:
    """The text of a row."""
    return Column("text", TEXT_NAMES, parse_text)


def pair_column() -> Column:
    """The second text of a pair, None where a file has none."""
    return Column("pair", PAIR_NAMES, parse_text, required=False)


def label_column(parse: Callable[[Any, str], str]) -> Column:
    """The label of a row."""
    return Column("label", LABEL_NAMES, parse)


def words_column() -> Column:
    """The words of a sentence."""
    return Column(
        "text",
        WORD_NAMES,
        partial(_parse_each, what="word", parse=_parse_word),
        datasets.List(STRING),
        from_line=_split_words,
    )


def tags_column() -> Column:
    """The tags of a sentence's words."""
    return Column("label", TAG_NAMES, partial(_parse_each, what="tag", parse=parse_class), datasets.List(STRING))


def check_tags(row: dict[str, Any], names: Mapping[str, str | None]) -> None:
    """Raise ValueError unless each word has one tag."""
    words, tags = row["text"], row.get("label")
    if tags is not None and len(words) != len(tags):
        raise ValueError(f"{names['text']!r} holds {len(words)} words and {names['label']!r} {len(tags)} tags")


def _split_words(text: str) -> list[str]:
    return [word for word in re.split(f"[{BLANKS}]+", text) if word]


def _parse_word(value: Any, what: str) -> str:
    """As `parse_text`, but a blank of another script is a word."""
    return parse_text(value, what, BLANKS)


def parse_text(value: Any, what: str, blanks: str | None = None) -> str:
    """A text as it stands. Raises ValueError with the reason where it cannot be used.

    Args:
        value: the text.
        what: its name for messages.
        blanks: characters that alone are no text; None for all white space.
    """
    if value is None:
        raise ValueError(f"{what} is missing")
    if not isinstance(value, str):
        raise ValueError(f"{what} is not a string")
    if is_blank(value, blanks):
        raise ValueError(f"{what} is blank")
    if "\0" in value:
        raise ValueError(f"{what} holds a NUL byte")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} holds a lone surrogate") from error
    return value


def is_blank(text: str, blanks: str | None = None) -> bool:
    """Whether a text is empty or has nothing but blanks: these, or all white space. (A long one is not copied.)"""
    return not text or (text.isspace() if blanks is None else not text.strip(blanks))


def parse_class(value: Any, what: str) -> str:
    """The name of a class without blanks around it: 1 and 1.0 are "1", true is "True"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{what} is neither a string nor a whole number")
    return parse_text(value, what).strip()


def parse_number(value: Any, what: str) -> str:
    """What `float` reads, as its `repr`. Raises ValueError unless it is finite in 32 bits."""
    if value is None or isinstance(value, str):
        value = parse_text(value, what).strip()
    try:
        number = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):  # no number; one of 400 digits
        number = math.nan
    if not abs(number) <= MAX_NUMBER:
        raise ValueError(f"{what} is not a finite number: {str(value)[:40]!r}")
    return repr(number)


def _parse_each(value: Any, column: str, what: str, parse: Callable[[Any, str], str]) -> list[str]:
    return [parse(part, f"{what} {number} of {column}") for number, part in enumerate(_list(value, column), 1)]


def _list(value: Any, column: str) -> list[Any]:
    """A list as it is; of a string, what it holds: a list as JSON, or words separated by blanks."""
    if isinstance(value, str):
        text = value.strip(BLANKS)
        try:
            value = json.loads(text) if text.startswith("[") and text.endswith("]") else _split_words(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{column} is neither a JSON list nor words parted by blanks") from error
    if value is None:
        raise ValueError(f"{column} is missing")
    if not isinstance(value, list):
        raise ValueError(f"{column} is not a list")
    if not value:
        raise ValueError(f"{column} is empty")
    return value


def _find(names: Sequence[str], requested: str | None, usual: Sequence[str]) -> str | None:
    if requested in names:
        return requested
    by_folded = {_folded(name): name for name in reversed(names)}
    candidates = usual if requested is None else (requested,)
    return next((by_folded[_folded(name)] for name in candidates if _folded(name) in by_folded), None)


def _folded(name: str) -> str:
    return name.strip().lower()


def _raise_missing(file: str, names: Sequence[str], requested: str | None, role: str) -> NoReturn:
    # Shortened: the "names" are a whole row of data where a csv has no header.
    there = ", ".join(repr(name[:40]) for name in names[:20]) or "none"
    what = f"no column known to hold the {role}" if requested is None else f"no column {requested!r}"
    raise UserError(f"{file}: {what}; name one with --data.{role}_column (there are {there})")
