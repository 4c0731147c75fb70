"""evaluation.json: the last evaluation and the best one, with the examples that were hardest."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import torch

from warmup.training.checkpoints.run_directory import read_evaluations
from warmup.training.run import evaluation_record as records
from warmup.training.run.evaluate import Evaluation
from warmup.training.tasks.metrics import breakdown

WORDS = ("no", "yes")


def record(losses: list[float], step: int = 7) -> dict[str, Any]:
    """The record of samples whose texts are their numbers, all of class 1 and taken for class 0."""
    table = pyarrow.table({"ids": [[number] for number in range(len(losses))]})
    samples: Any = SimpleNamespace(sequences=lambda indices: table.take(indices))
    tokenizer: Any = SimpleNamespace(decode=lambda ids, skip_special_tokens: f"text {ids[0]} " + "x" * ids[0])
    objective: Any = SimpleNamespace(
        breakdown=lambda results: breakdown.class_breakdown(results, WORDS),
        outcome=lambda result: breakdown.class_outcome(result, WORDS),
    )
    results = torch.tensor([[0.0, 1.0]]).double().expand(len(losses), 2)
    found = Evaluation({"loss": 1.0, "f1": float("nan")}, results, results, torch.tensor(losses).double())
    return records.make_record(found, objective, samples, tokenizer, step)


def test_the_hardest_examples_come_first() -> None:
    found = record([0.5, 2.0, 1 / 3])
    assert found["examples"] == [
        {"loss": 2.0, "label": "yes", "prediction": "no", "text": "text 1 x"},
        {"loss": 0.5, "label": "yes", "prediction": "no", "text": "text 0 "},
        {"loss": 0.333333, "label": "yes", "prediction": "no", "text": "text 2 xx"},
    ]
    assert found["step"] == 7 and found["metrics"] == {"loss": 1.0, "f1": None}  # JSON has no NaN
    assert found["per_class"]["yes"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 3}
    assert found["confusion"] == [[1, 0, 3]]


def test_only_twenty_are_kept_and_long_texts_are_cut() -> None:
    found = record([float(number) for number in range(600)])["examples"]
    assert [example["loss"] for example in found] == [599.0 - number for number in range(20)]
    assert {len(example["text"]) for example in found} == {300}
    assert found[0]["text"].endswith("x\u2026")


def test_the_last_and_the_best_evaluation_are_kept(tmp_path: Path) -> None:
    for step, best_step in ((1, 1), (2, 2), (3, 2), (4, 2), (4, 2)):
        records.add_record(tmp_path, record([1.0], step), best_step)
    assert [found["step"] for found in read_evaluations(tmp_path)] == [2, 4]
    json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=int)  # int("NaN") would fail


def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    for text in ("{", "[]", "{}", '{"evaluations": [3]}'):
        (tmp_path / "evaluation.json").write_text(text)
        assert read_evaluations(tmp_path) == []
    records.add_record(tmp_path, record([1.0], 3), 2)
    assert [found["step"] for found in read_evaluations(tmp_path)] == [3]
