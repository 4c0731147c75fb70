"""Lists and objects in the cells of a csv file: as `Dataset.to_csv` and pandas write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
from made_rows import row_format

from warmup.config.tasks import TASKS
from warmup.training.data.readers import read_rows
from warmup.training.data.readers.columns import BadRow
from warmup.training.data.readers.literals import read_literal
from warmup.training.data.readers.values import parse_list
from warmup.training.data.sources import resolve

WORDS = [["John", "lives", "here"], ["it's", 'a "b"', "both ' \"", "\\n", "a\tb"], ["日本", "\u3000", "[", "...", ","]]
LONG = [[f"word-{number}" for number in range(40)], [str(number) for number in range(1000)]]  # over several lines
ROWS: dict[str, list[dict[str, Any]]] = {
    "token-classification": [{"text": words, "label": ["B-X"] * len(words)} for words in WORDS + LONG],
    "multi-label": [
        {"text": "t", "label": labels} for labels in (["sports", "politics"], [], ["a b"], ["x,y", "it's"])
    ],
    "multiple-choice": [{"text": "t", "choice": choices, "label": "1"} for choices in (["a", "b"], WORDS[1], LONG[0])],
    "question-answering": [
        {"text": "Rio or Lima", "pair": "where?", "label": {"text": ["Rio", "Lima"], "answer_start": [0, 7]}},
        {"text": "Rio or Lima", "pair": "where?", "label": {"text": ["Rio"], "answer_start": [0]}},
        {"text": "Rio or Lima", "pair": "why?", "label": {"text": [], "answer_start": []}},
    ],
}
NAMES = {
    "token-classification": {"text": "tokens", "label": "tags"},
    "multiple-choice": {"text": "text", "choice": "choices", "label": "answer"},
    "question-answering": {"text": "context", "pair": "question", "label": "answers"},
}


def written(rows: list[dict], by: str, folder: Path) -> str:
    """A csv file of the rows: as a data set writes it, as pandas does, and as pandas does what it read from parquet."""
    path, table = folder / "a.csv", datasets.Dataset.from_list(rows)
    if by == "datasets":
        table.to_csv(path)
    elif by == "pandas":
        pandas.DataFrame(rows).to_csv(path, index=False)
    else:
        table.to_parquet(folder / "a.parquet")
        pandas.read_parquet(folder / "a.parquet").to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("by", ["datasets", "pandas", "pandas from parquet"])
@pytest.mark.parametrize("task", ROWS)
def test_what_is_written_is_read_back(task: str, by: str, tmp_path: Path) -> None:
    rows, names = ROWS[task], NAMES.get(task, {})
    file = written([{names.get(role, role): value for role, value in row.items()} for row in rows], by, tmp_path)
    bad: list[BadRow] = []
    found = list(read_rows(resolve([file], (), TASKS[task])[0], row_format(task), bad, 100))
    assert [{role: row[role] for role in rows[0]} for row in found] == rows and not bad


@pytest.mark.parametrize("value", [
    [0, 1], [-3, 22], list(range(60)), [0.0, 2.0], [True, False], [None, "x"], [[1, 2], [3, 4]], [""], [],
])  # fmt: skip
def test_numpy_prints_what_is_read(value: list) -> None:
    array = np.array(value, object if None in value else None)
    assert read_literal(str(array)) == read_literal(str(value)) == value
    assert read_literal(str({"a": array})) == {"a": value}


@pytest.mark.parametrize("text", [
    "['a''b']", "['a' 'b', 'c']", "['a', 'b' 'c']", "['a'b]", "[a b]", "['a' 'b'", "['a'] ['b']", "['a']]",
    "{'a': 1 'b': 2}",
    "[('a' 'b')]", "[1 2+3]", "['a' \"b]", "[array('a' 'b')]", ",", "]", "", "[" * 10**5,
])  # fmt: skip
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError, match="neither JSON nor as Python or numpy prints it"):
        read_literal(text)


def test_a_list_that_numpy_shortened() -> None:
    for words in (["x"] * 1001, list(range(1001))):
        with pytest.raises(
            ValueError, match=r"^'tags' is a list from which numpy left values out \('\.\.\.'\); write "
        ):
            parse_list(str(np.array(words, object)), "'tags'")
    assert parse_list("['...' 'x']", "'tags'") == ["...", "x"]
