"""Questions about a text and their answers: nested as in SQuAD's files, or a row each."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import datasets

from warmup.config.data import Data
from warmup.training.data.readers.columns import STRING, Column, RowFormat
from warmup.training.data.readers.literals import read_literal
from warmup.training.data.readers.values import parse_class, parse_number, parse_text

CONTEXT_NAMES = ("context", "passage", "paragraph", "text", "document")
QUESTION_NAMES = ("question", "query")
ANSWER_NAMES = ("answers", "answer", "answer_text")
START_NAMES = ("answer_start",)
ID_NAMES = ("id", "qas_id")
_SHOWN = 40  # characters of an answer in messages

ANSWERS = {"text": datasets.List(STRING), "answer_start": datasets.List(datasets.Value("int64"))}
"""Type of the answers of a question, as SQuAD's: their texts, and the character (a code point) where each begins in the
context. None for a question that the context does not answer."""


def asked_format(data: Data) -> RowFormat:
    """A question and its context, in any kind of file: what a prediction reads.

    Roles: text, the context; pair, the question; id, what the file calls the question, or None.
    """
    return RowFormat.of(
        data,
        Column("text", CONTEXT_NAMES, parse_text),
        Column("pair", QUESTION_NAMES, parse_text),
        Column("id", ID_NAMES, _parse_id, required=False),
        expand=flatten,
    )


def answered_format(data: Data) -> RowFormat:
    """The same with roles for the answers, label, and for where a single one begins, start."""
    return RowFormat.of(
        data,
        *asked_format(data).columns,
        Column("label", ANSWER_NAMES, _parse_answers, ANSWERS),
        Column("start", START_NAMES, _parse_start, datasets.Value("int64"), required=False),
        group="text",
        check=_check_answers,
        expand=flatten,
    )


def flatten(record: Any) -> Iterator[Any]:
    """The questions of an article, or of a paragraph alone, as rows; any other object as it is."""
    if isinstance(record, dict) and isinstance(paragraphs := record.get("paragraphs"), list):
        for paragraph in paragraphs:
            yield from flatten(paragraph if isinstance(paragraph, dict) else {"qas": [None]})
    elif isinstance(record, dict) and isinstance(questions := record.get("qas"), list):
        for question in questions:
            asked = question if isinstance(question, dict) else {}
            names = ("question", "answers", "id")
            yield {"context": record.get("context"), **{name: asked.get(name) for name in names}}
    else:
        yield record


def _parse_id(value: Any, what: str) -> str | None:
    return None if value is None or value == "" else parse_class(value, what)


def _parse_start(value: Any, what: str) -> int | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and math.isnan(value):  # as pandas has what is missing
        return None
    number = float(parse_number(value, what))
    if not number.is_integer():
        raise ValueError(f"{what} is not a whole number: {str(value)[:_SHOWN]!r}")
    return int(number)


def _parse_answers(value: Any, what: str) -> dict[str, list] | None:
    """Answers as {text, answer_start}: of such an object, of a list of them, of either as JSON or as Python or numpy
    prints it (as `Dataset.to_csv` writes it), or of the text of one answer. None where there is no value.
    """
    if isinstance(value, str):
        literal = _literal(value)
        value = literal if _is_structured(literal) else {"text": [value], "answer_start": []}
    if value is None:
        return None
    texts, starts = None, []
    if isinstance(value, dict):
        value = {name: part if isinstance(part, list) else [part] for name, part in value.items()}
        texts, starts = value.get("text"), value.get("answer_start", [])
    elif isinstance(value, list) and all(isinstance(answer, dict) for answer in value):
        texts = [answer.get("text") for answer in value]
        starts = [answer["answer_start"] for answer in value if "answer_start" in answer]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{what} is neither answers with text and answer_start nor the text of one")
    return {"text": texts, "answer_start": [_parse_start(start, f"answer_start in {what}") for start in starts]}


def _literal(text: str) -> Any:
    if not text.lstrip().startswith(("{", "[")):
        return None
    with contextlib.suppress(ValueError):
        return read_literal(text)


def _is_structured(value: Any) -> bool:
    return (isinstance(value, dict) and "text" in value) or (
        isinstance(value, list) and all(isinstance(answer, dict) for answer in value)
    )


def _check_answers(row: dict[str, Any], names: Mapping[str, str | None]) -> None:
    """Raise ValueError unless each answer is where it is said to be. White space around answers is taken away; blank
    answers, which some data sets have for questions without one, are left out.
    """
    answers = row["label"]
    if answers is None and names["start"] is None:
        raise ValueError(f"{names['label']!r} is missing")
    texts, starts = (answers["text"], answers["answer_start"]) if answers else ([], [])
    if len(texts) == 1 and not starts:
        starts = [row["start"]]
    if len(texts) == len(starts):
        kept = [index for index, text in enumerate(texts) if text.strip()]
        texts, starts = [texts[index] for index in kept], [starts[index] for index in kept]
    if len(starts) != len(texts) or None in starts:
        raise ValueError(f"{names['label']!r} holds {len(texts)} answers without telling where each of them starts")
    moved = [_place(row["text"], text, start, names["text"]) for text, start in zip(texts, starts, strict=True)]
    row["label"] = {"text": [text.strip() for text in texts], "answer_start": moved}


def _place(context: str, answer: str, start: int, name: str | None) -> int:
    """Where an answer without the white space around it begins. Raises ValueError if it is not there."""
    if start >= 0 and context.startswith(answer, start):
        return start + len(answer) - len(answer.lstrip())
    there = context[start : start + len(answer)] if 0 <= start < len(context) else ""
    stands = f"where {there[:_SHOWN]!r} stands" if there else f"which has {len(context)}"
    found = context.find(answer)
    where = f"it is at {found}" if found >= 0 else "nor anywhere else in it"
    raise ValueError(f"the answer {answer[:_SHOWN]!r} is not at character {start} of {name!r}, {stands}; {where}")
