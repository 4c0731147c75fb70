"""Which columns of a file a task reads, and what can be used of a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, Literal, NoReturn

import datasets

from warmup.config.data import Data
from warmup.errors import UserError
from warmup.training.data.readers.values import BLANKS, parse_class, parse_list, parse_text, split_words

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
    parse_several: Callable[[Mapping[str, Any]], Any] | None = None
    """The same as `parse` of the values of several columns that are read together, by name; None if only one can be."""
    numbered: Sequence[str] = ()
    """Usual names of such columns without their numbers, where a file has none of `names`: ending for ending0, ..."""


@dataclass(frozen=True)
class ChosenColumns:
    """The columns that are read of one file."""

    names: Mapping[str, str | tuple[str, ...] | None]
    """The file's name of the column, or the names of several, by role."""
    columns: tuple[Column, ...]
    check: Callable[[dict[str, Any], Mapping[str, Any]], None] | None = None

    @property
    def file_names(self) -> tuple[str, ...]:
        """Names of the columns to read, each once."""
        several = ((name,) if isinstance(name, str) else name or () for name in self.names.values())
        return tuple(dict.fromkeys(chain.from_iterable(several)))

    def parse(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Take the columns out of a record. Raises ValueError with the reason where one cannot be used."""
        row: dict[str, Any] = {}
        for column in self.columns:
            name = self.names[column.role]
            if isinstance(name, tuple):
                assert column.parse_several is not None
                row[column.role] = column.parse_several({part: record.get(part) for part in name})
            else:
                row[column.role] = None if name is None else column.parse(record.get(name), repr(name))
        if self.check is not None:
            self.check(row, self.names)
        return row


@dataclass(frozen=True)
class RowFormat:
    """What a task reads of a row, in any kind of file."""

    columns: tuple[Column, ...]
    requested: Mapping[str, str | tuple[str, ...] | None] = field(default_factory=dict)
    """Names of columns that the user gave, by role; None or missing ones are found by their usual names."""
    options: Data = field(default_factory=Data)
    """How files are written."""
    check: Callable[[dict[str, Any], Mapping[str, Any]], None] | None = None
    """Called with a parsed row and the columns' names: raises ValueError where its values do not go together. It may
    put a value into its final form for which others are needed."""
    expand: Callable[[Any], Iterable[Any]] = lambda record: (record,)
    """What of a JSON file is a row: the rows that an object in it holds."""
    group: str | None = None
    """The role whose value the rows of a group share, such as the text of several questions: a group is held out as
    a whole. None where each row is one."""

    @classmethod
    def of(cls, data: Data, *columns: Column, **options: Any) -> RowFormat:
        """These columns, by the names that the configuration gives them; `options` are further fields."""

        def requested(role: str) -> str | tuple[str, ...] | None:
            return tuple(getattr(data, f"{role}_columns", ())) or getattr(data, f"{role}_column", None)

        return cls(columns, {column.role: requested(column.role) for column in columns}, data, **options)

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
        chosen: dict[str, str | tuple[str, ...] | None] = {}
        for column in self.columns:
            requested = self.requested.get(column.role)
            if isinstance(requested, tuple):
                chosen[column.role] = tuple(_require(file, names, name, f"{column.role}_columns") for name in requested)
            elif requested is not None:
                chosen[column.role] = _require(file, names, requested, f"{column.role}_column")
            else:
                chosen[column.role] = _find_usual(names, column, str(chosen.get("text")))
                if chosen[column.role] is None and column.required:
                    what = f"no column known to hold the {column.role}"
                    _raise_missing(file, names, what, f"{column.role}_column")
        result = ChosenColumns(chosen, self.columns, self.check)
        if twice := [name for name in result.file_names if names.count(name) > 1]:
            raise UserError(f"{file}: two columns are named {twice[0]!r}; name each column once")
        return result

    def assign(self, **names: str) -> ChosenColumns:
        """The columns of a kind of file whose columns have no names of their own: by role."""
        return ChosenColumns({role: names.get(role) for role in self.roles}, self.columns, self.check)


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
        from_line=split_words,
    )


def tags_column() -> Column:
    """The tags of a sentence's words."""
    return Column("label", TAG_NAMES, partial(_parse_each, what="tag", parse=parse_class), datasets.List(STRING))


def check_tags(row: dict[str, Any], names: Mapping[str, Any]) -> None:
    """Raise ValueError unless each word has one tag."""
    words, tags = row["text"], row.get("label")
    if tags is not None and len(words) != len(tags):
        raise ValueError(f"{names['text']!r} holds {len(words)} words and {names['label']!r} {len(tags)} tags")


def _parse_word(value: Any, what: str) -> str:
    """As `parse_text`, but a blank of another script is a word."""
    return parse_text(value, what, BLANKS)


def _parse_each(value: Any, column: str, what: str, parse: Callable[[Any, str], str]) -> list[str]:
    parts = parse_list(value, column)
    if not parts:
        raise ValueError(f"{column} is empty")
    return [parse(part, f"{what} {number} of {column}") for number, part in enumerate(parts, 1)]


def _require(file: str, names: Sequence[str], requested: str, option: str) -> str:
    """The file's column of this name. Raises UserError where it has none."""
    found = _find(names, (requested,))
    if found is None:
        _raise_missing(file, names, f"no column {requested!r}", option)
    return found


def _find_usual(names: Sequence[str], column: Column, text_column: str) -> str | tuple[str, ...] | None:
    """What a file has of a column's usual names, which may depend on the name of the text column."""
    usual = column.names.get(_folded(text_column), ()) if isinstance(column.names, Mapping) else column.names
    return _find(names, usual) or _find_numbered(names, column.numbered)


def _find(names: Sequence[str], candidates: Sequence[str]) -> str | None:
    """The first of the candidates that is among these names, as it stands or but for case and blanks around it."""
    by_folded = {_folded(name): name for name in reversed(names)}
    for name in candidates:
        if found := name if name in names else by_folded.get(_folded(name)):
            return found
    return None


def _find_numbered(names: Sequence[str], stems: Sequence[str]) -> tuple[str, ...] | None:
    """The columns whose names are one of these stems and a number, in the order of the numbers; None without two."""
    for stem in stems:
        numbers = {name: re.fullmatch(rf"{stem}[ _]?([0-9]+)", _folded(name)) for name in names}
        found = sorted((int(number[1]), name) for name, number in numbers.items() if number)
        if len(found) > 1:
            return tuple(name for _, name in found)
    return None


def _folded(name: str) -> str:
    return name.strip().lower()


def _raise_missing(file: str, names: Sequence[str], what: str, option: str) -> NoReturn:
    # Shortened: the "names" are a whole row of data where a csv has no header.
    there = ", ".join(repr(name[:40]) for name in names[:20]) or "none"
    raise UserError(f"{file}: {what}; name one with --data.{option} (there are {there})")
