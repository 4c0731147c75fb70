"""Questions and answers: the same rows from every kind of file and layout; bad ones are named, with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from conftest import write_csv
from made_rows import row_format

from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data.readers import read_rows
from warmup.training.data.readers.columns import BadRow
from warmup.training.data.sources import resolve

FACTS = TASKS["question-answering"]
CONTEXT = "Zoë \U0001f40d met 東京タワー at the café, twice. "
ASKED = [
    ("Who?", [("Zoë", 0)]),
    ("What?", [("東京タワー", 10), ("the café", 19)]),
    ("Why?", []),
]
EXPECTED = [
    {"text": CONTEXT, "pair": question, "label": {"text": [t for t, _ in found], "answer_start": [s for _, s in found]}}
    for question, found in ASKED
]


def read(file: Path, max_bad_rows: int = 100) -> tuple[list[dict], list[str]]:
    """The rows by context, question and answers, and the bad ones as they are shown, without the folder."""
    bad: list[BadRow] = []
    sources, _ = resolve([str(file)], (), FACTS)
    rows = list(read_rows(sources, row_format(FACTS.name), bad, max_bad_rows))
    kept = [{role: row[role] for role in ("text", "pair", "label")} for row in rows]
    return kept, [str(row).rpartition("/")[2] for row in bad]


def answers(found: list[tuple[str, int]]) -> list[dict]:
    return [{"text": text, "answer_start": start} for text, start in found]


def by_column(found: list[tuple[str, int]]) -> dict:
    return {"text": [text for text, _ in found], "answer_start": [start for _, start in found]}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_squad_and_paragraphs_alone(tmp_path: Path) -> None:
    """SQuAD's files, a list of its paragraphs, and a paragraph per line."""
    asked = [{"id": question, "question": question, "answers": answers(found)} for question, found in ASKED]
    paragraph = {"context": CONTEXT, "qas": asked}
    squad = write(tmp_path / "squad.json", {"version": "2", "data": [{"title": "t", "paragraphs": [paragraph]}] * 2})
    assert read(squad) == (EXPECTED * 2, [])
    assert read(write(tmp_path / "paragraphs.json", [paragraph])) == (EXPECTED, [])
    assert read(write(tmp_path / "paragraphs.jsonl", paragraph)) == (EXPECTED, [])


def test_flat_rows(tmp_path: Path) -> None:
    rows = [{"context": CONTEXT, "question": question, "answers": by_column(found)} for question, found in ASKED]
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(lines) == (EXPECTED, [])
    nested = [{**row, "answers": answers(found)} for row, (_, found) in zip(rows, ASKED, strict=True)]
    assert read(write(tmp_path / "rows.json", {"data": nested})) == (EXPECTED, [])
    for name, records in (("columns", rows), ("objects", nested)):  # a struct of lists, and a list of structs
        datasets.Dataset.from_list(records).to_parquet(tmp_path / f"{name}.parquet")
        assert read(tmp_path / f"{name}.parquet") == (EXPECTED, [])
        datasets.Dataset.from_list(records).save_to_disk(tmp_path / name)
        assert read(tmp_path / name) == (EXPECTED, [])


@pytest.mark.parametrize("written", [json.dumps, repr], ids=["JSON", "as Python prints it"])
def test_answers_in_a_cell(written, tmp_path: Path) -> None:
    rows = [{"context": CONTEXT, "question": q, "answers": written(by_column(found))} for q, found in ASKED]
    assert read(write_csv(tmp_path / "rows.csv", rows)) == (EXPECTED, [])


def test_one_answer_in_columns_of_its_own(tmp_path: Path) -> None:
    """As pandas writes them: without an answer both are blank, and a place is a number with a fraction."""
    places = [("Zoë", "0"), ("the café", "19.0"), ("", ""), (" café,", "22")]
    rows = [{"context": CONTEXT, "question": "q", "answer_text": t, "answer_start": s} for t, s in places]
    found, bad = read(write_csv(tmp_path / "rows.csv", rows))
    assert [row["label"]["text"] for row in found] == [["Zoë"], ["the café"], [], ["café,"]]
    assert [row["label"]["answer_start"] for row in found] == [[0], [19], [], [23]]  # white space around is no part
    assert not bad


BAD = {
    "an answer elsewhere": (
        {"answers": answers([("café", 3)])},
        f"the answer 'café' is not at character 3 of 'context', where {CONTEXT[3:7]!r} stands; it is at 23",
    ),
    "an answer nowhere": (
        {"answers": answers([("tea", 0)])},
        "the answer 'tea' is not at character 0 of 'context', where 'Zoë' stands; nor anywhere else in it",
    ),
    "outside": (
        {"answers": answers([("Zoë", 400)])},
        f"the answer 'Zoë' is not at character 400 of 'context', which has {len(CONTEXT)}; it is at 0",
    ),
    "before it": ({"answers": answers([("Zoë", -1)])}, "is not at character -1"),
    "an empty context": ({"context": " "}, "'context' is blank"),
    "no question": ({"question": None}, "'question' is missing"),
    "no answers": ({"answers": None}, "'answers' is missing"),
    "no place": ({"answers": [{"text": "Zoë"}]}, "'answers' holds 1 answers without telling where each of them starts"),
    "no text": ({"answers": [{"answer_start": 0}]}, "'answers' is neither answers with text and answer_start nor the"),
    "half a place": ({"answers": answers([("Zoë", 0.5)])}, "answer_start in 'answers' is not a whole number: '0.5'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_and_left_out(case: str, tmp_path: Path) -> None:
    change, message = BAD[case]
    good = {"context": CONTEXT, "question": "Who?", "answers": answers([("Zoë", 0)])}
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in (good, good | change)))
    rows, bad = read(lines)
    assert len(rows) == 1 and len(bad) == 1
    assert bad[0].startswith("rows.jsonl:2: ") and message in bad[0]


def test_a_question_of_a_paragraph_is_named_by_its_number(tmp_path: Path) -> None:
    asked = [{"question": "Who?", "answers": answers([("Zoë", place)])} for place in (0, 1)]
    article = {"paragraphs": [{"context": CONTEXT, "qas": [*asked, "no object"]}, "none either"]}
    rows, bad = read(write(tmp_path / "squad.json", {"data": [article]}))
    assert len(rows) == 1 and [row.split(":")[1] for row in bad] == ["row 2", "row 3", "row 4"]


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    whole = json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": []}]}]})
    (tmp_path / "squad.json").write_text(whole[:-20])
    with pytest.raises(UserError, match=r"squad.json:1: not valid JSON \("):
        read(tmp_path / "squad.json")
