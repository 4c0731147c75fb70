"""Multiple choice: how questions and answers are read, how choices become sequences, and one softmax over them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from made_rows import config, copy, jsonl, prepared, texts
from made_samples import CLS, PAD, SEP, collate, objective, samples, targets_of
from transformers import AutoModelForMultipleChoice, BertTokenizerFast

from warmup.config import Config
from warmup.config.data import Data
from warmup.errors import UserError
from warmup.training.data.prepare import Prepared
from warmup.training.data.readers import all_rows
from warmup.training.data.readers.columns import BadRow
from warmup.training.data.sources import resolve_part
from warmup.training.models.build import build_model
from warmup.training.reporting.export import export_model
from warmup.training.tasks import create_task, multiple_choice


def read(file: Path, **data: object) -> list[Any]:
    """The rows of a file, and the bad ones as text."""
    task = create_task(Config(task="multiple-choice", data=Data(**data)))
    rows = all_rows(resolve_part([str(file)], "--x", "train", task.facts), task.row_format, [], 99)
    return [str(row) if isinstance(row, BadRow) else row for row in rows]


def test_swag_as_it_is_published(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text(
        ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
        "0,a,1,Students lower. She,Students lower.,She,gold,turns,sits,runs,eats,2\n"
    )
    assert read(file) == [
        {"text": "Students lower.", "pair": "She", "choice": ["turns", "sits", "runs", "eats"], "label": "2"}
    ]


@pytest.mark.parametrize(("row", "label"), [
    ({"question": "q", "choices": ["a", "b", "c"], "answer": 2}, "2"),
    ({"question": "q", "choices": ["a", "b", "c"], "answer": "1"}, "1"),
    ({"question": "q", "choices": ["x", "y", "z"], "answer": "B"}, "1"),
    ({"question": "q", "choices": ["x", "y", "z"], "answerKey": "c"}, "2"),
    ({"question": "q", "choices": ["one day", "two"], "answer": "two"}, "1"),
    ({"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}, "1"),
    ({"question": "q", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}], "answerKey": "B"}, "1"),
    ({"question": "q", "choices": [{"text": "x"}, {"text": "y"}], "answer": "1.0"}, "1"),
    ({"question": "q", "choices": "['x', 'y']", "answer": "1"}, "1"),
    ({"article": "long", "question": "q", "options": ["x", "y"], "answer": "A"}, "0"),
    ({"premise": "p", "question": "cause", "choice1": "x", "choice2": "y", "label": 1}, "1"),
    ({"ctx": "c", "endings": ["x", "y"], "label": "0"}, "0"),
    ({"question": "q", "choice0": "x", "choice1": "y", "choice2": " ", "choice3": None, "label": 1}, "1"),
])  # fmt: skip
def test_other_ways_of_writing_a_question(row: dict, label: str, tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [row])
    (found,) = read(tmp_path / "a.jsonl")
    assert found["label"] == label and len(found["choice"]) in (2, 3)
    assert found["pair"] == (row["question"] if {"article", "premise"} & row.keys() else None)


@pytest.mark.parametrize(("row", "reason"), [
    ({"choices": [], "answer": 0}, "has no choices, and two are needed at least"),
    ({"choices": ["x"], "answer": 0}, "has 1 choice, and two are needed at least"),
    ({"choices": None, "answer": 0}, "'choices' is missing"),
    ({"choices": [{"text": "x", "label": "P"}, {"text": "y", "label": "Q"}], "answer": "P"}, "'choices' calls its"),
    ({"choices": [{"text": "x"}, {"words": "y"}], "answer": 0}, "choice 1 of 'choices' is missing"),
    ({"choices": "x y", "answer": 0}, "'choices' is not a JSON list"),
    ({"choices": ["x", " "], "answer": 0}, "choice 1 of 'choices' is blank"),
    ({"choices": ["x", 3], "answer": 0}, "choice 1 of 'choices' is not a string"),
    ({"choices": ["x", "y"], "answer": 2}, "'answer' holds '2', which is none of the choices: neither 0 to 1, nor A"),
    ({"choices": ["x", "y"], "answer": -1}, "'answer' holds '-1', which is none of the choices"),
    ({"choices": ["x", "y"], "answer": "\u00df"}, "'answer' holds '\u00df', which is none of the choices"),
    ({"choices": [*map(str, range(100, 130))], "answer": 30}, "'answer' holds '30', which is none of the choices"),
    ({"choices": ["x", "y"], "answer": "z"}, "'answer' holds 'z', which is none of the choices"),
    ({"choices": ["x", "y"], "answer": None}, "'answer' is missing"),
    ({"choices": ["1", "0"], "answer": "1"}, "'answer' holds '1', which could be any of the choices [0, 1]"),
    (
        {"choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answer": "1"},
        "'choices' calls its choices 1, 2; they must be A, B, ... or 0, 1, ...",
    ),
    ({"choices": ["x", "x"], "answer": "x"}, "'answer' holds 'x', which could be any of the choices [0, 1]"),
])  # fmt: skip
def test_rows_that_are_named_and_left_out(row: dict, reason: str, tmp_path: Path) -> None:
    good = {"question": "q", "choices": ["a", "b"], "answer": 0}
    file = Path(jsonl(tmp_path / "a.jsonl", [good, {"question": "q", **row}, good]))
    first, bad, last = read(file)
    assert first == last and bad.startswith(f"{file}:2: {reason}")


def test_a_blank_choice_between_others(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("question,choice0,choice1,choice2,answer\nq,x,,z,0\nq,x,y,,1\nq,,,,0\n")
    bad, good, none = read(file)
    assert bad == f"{file}:2: 'choice1' is blank" and good["choice"] == ["x", "y"] and "has no choices" in none
    assert read(file, choice_columns=("choice2", "choice0"))[0]["choice"] == ["z", "x"]


def test_no_column_of_choices_is_refused(tmp_path: Path) -> None:
    file = Path(jsonl(tmp_path / "a.jsonl", [{"question": "q", "choice0": "x", "answer": 0}]))
    with pytest.raises(UserError, match="no column known to hold the choice; name one with --data.choice_column "):
        read(file)


def test_lines_of_text_have_no_choices(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("why\n")
    task = create_task(Config(task="multiple-choice"))
    sources = resolve_part([str(file)], "--predict", "test", task.facts)
    (bad,) = [row for row in _rows_of(sources, task) if isinstance(row, BadRow)]
    assert bad.reason.startswith("has no choices")


def _rows_of(sources: Any, task: Any) -> list[Any]:
    bad: list[BadRow] = []
    with pytest.raises(UserError, match="holds no usable row"):
        list(all_rows(sources, task.row_format.without("label"), bad, 9))
    return bad


def question_rows() -> Any:
    """Two and three choices, of other lengths."""
    return samples(
        [[CLS, 10, SEP, 20, SEP], [CLS, 10, SEP, 21, 22, SEP], *[[CLS, 11, SEP, 30, SEP]] * 3],
        whole_rows=True,
        is_first=[True, False, True, False, False],
        second_start=[3] * 5,
        number=[0, 1, 0, 1, 2],
        is_right=[False, True, False, False, True],
    )


def test_each_choice_is_a_sequence(tokenizer: BertTokenizerFast) -> None:
    batch = collate(objective("multiple-choice", tokenizer, ("score",)), question_rows(), [1, 0])
    assert batch.input_ids.tolist() == [
        *[[CLS, 11, SEP, 30, SEP, PAD]] * 3, [CLS, 10, SEP, 20, SEP, PAD], [CLS, 10, SEP, 21, 22, SEP]
    ]  # fmt: skip
    assert batch.inputs["token_type_ids"].tolist() == [*[[0, 0, 0, 1, 1, 0]] * 4, [0, 0, 0, 1, 1, 1]]
    assert batch.targets.tolist() == [[0, 0], [0, 1], [1, 2], [0, 0], [1, 1]]
    assert batch.sample_ids_N.tolist() == [0, 0, 0, 1, 1] and batch.positions_N.tolist() == [0, 6, 12, 18, 24]
    assert (batch.sample_count, batch.target_count, batch.token_count) == (2, 2, 26)


def test_one_softmax_over_the_choices_of_a_row(tokenizer: BertTokenizerFast) -> None:
    made = objective("multiple-choice", tokenizer, ("score",))
    batch = collate(made, question_rows(), [0, 1])
    logits = torch.tensor([[1.0], [3.0], [2.0], [0.0], [2.0]])
    expected = [math.log(1 + math.exp(-2)), math.log(2 + math.exp(-2))]
    losses = made.losses(logits, targets_of(batch))
    assert losses.tolist() == pytest.approx([0, expected[0], 0, 0, expected[1]], rel=1e-6)
    assert float(made.training_loss_sum(logits, targets_of(batch))) == pytest.approx(sum(expected), rel=1e-6)
    results = made.results(logits, targets_of(batch))
    assert results.tolist() == [[1, 1], [0, 2]]  # the first of a tie
    assert made.metrics(sum(expected), results) == {"loss": sum(expected) / 2, "accuracy": 0.5, "targets": 2}
    assert made.outcome([0, 2]) == {"label": "choice 2", "prediction": "choice 0"}


def made(tmp_path: Path, count: int = 40, **data: object) -> Prepared:
    rows = [
        {"question": text, "choices": texts(2 + number % 3, seed=number), "answer": number % 2}
        for number, text in enumerate(texts(count))
    ]
    file = jsonl(tmp_path / "a.jsonl", rows)
    return prepared(config(file, task="multiple-choice", validation_files=(copy(file),), **data))


@pytest.mark.usefixtures("own_cache")
def test_a_sample_is_all_choices_of_a_row(tmp_path: Path) -> None:
    data = made(tmp_path, max_length=14)
    assert len(data.train) == 40 and data.train.row_starts.tolist() == list(range(41))
    longest, cut_rows = 0, 0
    for number in range(40):
        pairs = [(texts(40)[number], choice) for choice in texts(2 + number % 3, seed=number)]
        expected = [data.tokenizer(*pair, truncation="longest_first", max_length=14)["input_ids"] for pair in pairs]
        sequences = data.train.sequences(np.array([number]))
        assert sequences["ids"].to_pylist() == expected and sum(map(len, expected)) == data.train.lengths[number]
        assert sequences["is_right"].to_pylist() == [choice == number % 2 for choice in range(len(pairs))]
        whole = [len(data.tokenizer(*pair)["input_ids"]) for pair in pairs]
        longest, cut_rows = max(longest, *whole), cut_rows + (max(whole) > 14)
    assert 20 < cut_rows < 40 and data.notes["truncated"].startswith(f"{cut_rows} of 40 training rows")
    assert data.notes["truncated"].endswith(f"the longest row has {longest} tokens")
    assert data.labels == ("score",)


@pytest.mark.usefixtures("own_cache")
def test_the_export_gives_the_same_answers_as_transformers_loads_it(tmp_path: Path) -> None:
    data = made(tmp_path, max_length=40)
    settings = Config(task="multiple-choice", model="tiny", seed=3, data=Data(max_length=40))
    task = create_task(settings)
    model = build_model(task.model_spec(settings, data.labels), data.tokenizer)[0].eval()
    for weight in model.parameters():
        weight.data *= 3  # so that scores differ
    folder = export_model(tmp_path, model, data.tokenizer, "card")
    theirs = AutoModelForMultipleChoice.from_pretrained(folder).eval()
    predictor = task.predictor(data.tokenizer, ("score",), {})
    choices = ["lumis baran", "dotel kimis ridotel", "menotel"]
    batch = {"text": ["baran dotel"], "pair": [None], "choice": [choices]}
    columns = predictor.tokenize(batch)
    assert columns["is_first"] == [True, False, False] and columns["choice"] == choices
    assert columns["truncated"] == [False] * 3
    assert set(columns) == {"ids", "length", "token_targets", "truncated", *predictor.features}
    with torch.no_grad():
        alone = [
            model(input_ids=torch.tensor([ids]), token_type_ids=_types(ids, start)).logits[0]
            for ids, start in zip(columns["ids"], columns["second_start"], strict=True)
        ]
        encoded = data.tokenizer(["baran dotel"] * 3, choices, padding=True, return_tensors="pt")
        probabilities = theirs(**{name: value[None] for name, value in encoded.items()}).logits.softmax(1)[0]
    record = predictor.to_record(torch.stack(alone).numpy(), [{"choice": choice} for choice in choices])
    assert record["scores"] == pytest.approx(probabilities.tolist(), abs=1e-5)
    assert record["choice"] == int(probabilities.argmax()) and record["text"] == choices[record["choice"]]
    assert len(set(record["scores"])) == 3 and json.dumps(record)


def _types(ids: list[int], start: int) -> torch.Tensor:
    return torch.tensor([[int(place >= start) for place in range(len(ids))]])


def test_rows_of_a_saved_data_set(tmp_path: Path) -> None:
    rows = {"question": ["q", "r"], "choices": [["a", "b"], ["c", "d", "e"]], "answer": [1, 2]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    assert [row["label"] for row in read(tmp_path / "a.parquet")] == ["1", "2"]
    assert multiple_choice.parse_choices(["a", "b"], "x") == ["a", "b"]
