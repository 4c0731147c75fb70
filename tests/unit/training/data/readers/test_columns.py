"""Which columns a task reads of a file, found by their usual names or by requested ones, and what a row becomes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import datasets
import pytest
from made_rows import row_format

from warmup.config.data import Data
from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data.readers.columns import (
    STRING,
    Column,
    RowFormat,
    check_tags,
    label_column,
    pair_column,
    tags_column,
    text_column,
    words_column,
)
from warmup.training.data.readers.values import parse_class, parse_list, parse_number, parse_text

TEXTS = RowFormat((text_column(), pair_column(), label_column(parse_class)))


def upper(value: Any, what: str) -> str:
    return parse_text(value, what).upper()


# Which columns


def test_columns_are_found_by_their_usual_names() -> None:
    chosen = TEXTS.choose("a.csv", ["id", "Hypothesis ", "LABEL", "premise"])
    assert chosen.names == {"text": "premise", "pair": "Hypothesis ", "label": "LABEL"}
    assert chosen.file_names == ("premise", "Hypothesis ", "LABEL")
    record = {"premise": "one", "Hypothesis ": "two", "LABEL": " 3 ", "id": "4"}
    assert chosen.parse(record) == {"text": "one", "pair": "two", "label": "3"}


def test_the_first_usual_name_is_taken_and_not_the_first_column() -> None:
    column = Column("text", ("first", "second"), parse_text)
    assert RowFormat((column,)).choose("a.csv", ["second", "first"]).names == {"text": "first"}


def test_an_optional_column_is_none_where_a_file_lacks_it() -> None:
    chosen = TEXTS.choose("a.csv", ["text", "label"])
    assert chosen.names == {"text": "text", "pair": None, "label": "label"}
    assert chosen.file_names == ("text", "label")
    assert chosen.parse({"text": "one", "label": 2}) == {"text": "one", "pair": None, "label": "2"}


@pytest.mark.parametrize(("names", "role"), [(["label", "text_pair"], "text"), (["text", "text_pair"], "label")])
def test_a_file_without_a_required_column_is_refused(names: list[str], role: str) -> None:
    with pytest.raises(UserError) as caught:
        TEXTS.choose("a.csv", names)
    there = ", ".join(map(repr, names))
    assert str(caught.value) == (
        f"a.csv: no column known to hold the {role}; name one with --data.{role}_column (there are {there})"
    )


def test_requested_names_go_before_usual_ones() -> None:
    columns = TEXTS.columns
    data = Data(text_column="body", pair_column=" Second", label_column="mood")
    chosen = RowFormat.of(data, *columns).choose("a.csv", ["text", "text_pair", "label", "Body", "second", "mood"])
    assert chosen.names == {"text": "Body", "pair": "second", "label": "mood"}
    assert RowFormat.of(Data(), *columns).choose("a.csv", ["text", "label", "body"]).names["text"] == "text"


@pytest.mark.parametrize("role", ["text", "pair", "label"])
def test_a_requested_column_must_be_there_even_if_it_is_optional(role: str) -> None:
    data = Data(**{f"{role}_column": "nope"})
    with pytest.raises(UserError, match=f"^a.csv: no column 'nope'; name one with --data.{role}_column "):
        RowFormat.of(data, *TEXTS.columns).choose("a.csv", ["text", "text_pair", "label"])


def test_the_usual_name_of_one_column_may_depend_on_the_text_column() -> None:
    names = ["sentence1", "text_pair", "sentence2", "label"]
    assert TEXTS.choose("a.csv", names).names["pair"] == "sentence2"
    other = RowFormat.of(Data(text_column="label"), *TEXTS.columns).choose("a.csv", names)
    assert other.names == {"text": "label", "pair": None, "label": "label"} and other.file_names == ("label",)


def test_a_role_that_the_configuration_does_not_know_is_found_by_its_usual_names() -> None:
    """So a task of one's own can read other columns."""
    own = RowFormat.of(Data(text_column="body"), text_column(), Column("answer", ("answer", "reply"), upper))
    chosen = own.choose("a.csv", ["body", "reply"])
    assert chosen.parse({"body": "one", "reply": "two"}) == {"text": "one", "answer": "TWO"}
    with pytest.raises(UserError, match="no column known to hold the answer"):
        own.choose("a.csv", ["body"])


def test_two_columns_of_one_name_are_refused_only_if_they_are_read() -> None:
    with pytest.raises(UserError, match="^a.csv: two columns are named 'text'; name each column once$"):
        TEXTS.choose("a.csv", ["text", "text", "label"])
    assert TEXTS.choose("a.csv", ["text", "id", "id", "label"]).names["text"] == "text"


# Without a column, and where columns have no names


def test_a_format_without_a_role() -> None:
    unlabelled = TEXTS.without("label")
    assert (TEXTS.roles, unlabelled.roles) == (("text", "pair", "label"), ("text", "pair"))
    assert unlabelled.choose("a.csv", ["text"]).parse({"text": "a", "label": []}) == {"text": "a", "pair": None}
    assert RowFormat.of(Data(label_column="nope"), *TEXTS.columns).without("label").choose("a.csv", ["text"])
    assert TEXTS.without("nothing") == TEXTS


def test_columns_by_role() -> None:
    chosen = TEXTS.assign(text="text")
    assert chosen.names == {"text": "text", "pair": None, "label": None}
    assert chosen.parse({"text": "one"}) == {"text": "one", "pair": None, "label": None}
    with pytest.raises(ValueError, match="^'text' is blank$"):
        chosen.parse({"text": " "})


def test_what_a_line_is_to_a_column() -> None:
    assert text_column().from_line(" two  words ") == " two  words "
    assert words_column().from_line(" two  words ") == ["two", "words"]


# Values


def test_a_value_is_parsed_by_its_column_and_named_in_errors() -> None:
    own = RowFormat((Column("text", ("text",), upper),))
    chosen = own.choose("a.csv", ["Text"])
    assert chosen.parse({"Text": "one"}) == {"text": "ONE"}
    for record, reason in (({}, "'Text' is missing"), ({"Text": 3}, "'Text' is not a string")):
        with pytest.raises(ValueError) as caught:
            chosen.parse(record)
        assert str(caught.value) == reason


def test_a_format_checks_that_the_values_of_a_row_go_together() -> None:
    tagged = RowFormat((words_column(), tags_column()), check=check_tags)
    chosen = tagged.choose("a.jsonl", ["tokens", "tags"])
    assert chosen.parse({"tokens": ["a", "b"], "tags": "O O"}) == {"text": ["a", "b"], "label": ["O", "O"]}
    with pytest.raises(ValueError, match="^'tokens' holds 2 words and 'tags' 1 tags$"):
        chosen.parse({"tokens": ["a", "b"], "tags": ["O"]})
    assert tagged.without("label").choose("a.jsonl", ["words"]).parse({"words": "a b"}) == {"text": ["a", "b"]}


@pytest.mark.parametrize(("parse", "value", "parsed"), [
    (parse_class, 1.0, "1"), (parse_class, True, "True"), (parse_class, " a ", "a"), (parse_number, " 4 ", "4.0"),
    (parse_number, 1, "1.0"), (parse_text, " a ", " a "),
])  # fmt: skip
def test_parsed_values(parse: Any, value: object, parsed: str) -> None:
    assert parse(value, "'label'") == parsed


def test_types_of_a_table_of_rows() -> None:
    assert TEXTS.features == datasets.Features({"text": STRING, "pair": STRING, "label": STRING})
    lists = datasets.List(STRING)
    assert RowFormat((words_column(), tags_column())).features == datasets.Features({"text": lists, "label": lists})


# Tasks


@pytest.mark.parametrize(("task", "roles"), [
    ("mlm", ("text",)), ("clm", ("text",)), ("classification", ("text", "pair", "label")),
    ("regression", ("text", "pair", "label")), ("token-classification", ("text", "label")),
])  # fmt: skip
def test_columns_of_each_task(task: str, roles: tuple[str, ...]) -> None:
    assert row_format(task).roles == roles
    assert ("label" in roles) == (TASKS[task].label is not None)
    requested = row_format(task, text_column="body", label_column="mood").requested
    assert requested["text"] == "body" and requested.get("label") == ("mood" if "label" in roles else None)


CHOICES = RowFormat(
    (
        text_column(),
        Column("choice", ("choices",), parse_list, parse_several=lambda values: list(values.values())),
    )
)


def numbered(stems: tuple[str, ...]) -> RowFormat:
    (text, choices) = CHOICES.columns
    return RowFormat((text, replace(choices, numbered=stems)))


def test_numbered_columns_are_read_together_in_the_order_of_their_numbers() -> None:
    names = ["ending10", "text", "Ending 2", "ending_1", "endings", "choice1"]
    chosen = numbered(("choice", "ending")).choose("f", names)
    assert chosen.names["choice"] == ("ending_1", "Ending 2", "ending10")
    assert chosen.file_names == ("text", "ending_1", "Ending 2", "ending10")
    record = dict(zip(names, "abcdef", strict=True))
    assert chosen.parse(record) == {"text": "b", "choice": ["d", "c", "a"]}
    assert numbered(("ending",)).choose("f", ["choices", *names]).names["choice"] == "choices"  # a name goes first
    with pytest.raises(UserError, match="no column known to hold the choice; name one with --data.choice_column "):
        numbered(("choice",)).choose("f", names)


def test_several_columns_may_be_named() -> None:
    named = replace(CHOICES, requested={"choice": ("b", "A")})
    assert named.choose("f", ["text", "a", "b"]).names["choice"] == ("b", "a")
    with pytest.raises(UserError, match="f: no column 'A'; name one with --data.choice_columns"):
        named.choose("f", ["text", "b"])
