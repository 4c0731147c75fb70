"""Question answering from files to answers: evaluation, prediction and transformers' own forward pass agree."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import squad_rules
from harness import train
from predictions import predict, read
from transformers import AutoModelForQuestionAnswering, AutoTokenizer


@pytest.fixture(scope="module")
def run(question_answering: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of 60 steps on two ranks."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    longer = ("--recipe.duration", "60 steps", "--batch.per_device", 16)
    ended = train(2, folder, *question_answering, *longer)
    assert ended.codes == [0, 0], ended.stderr[-2000:]
    return folder


def test_answers_are_those_of_the_exported_model(run: Path, asked: tuple[Path, Path], tmp_path: Path) -> None:
    """Each answer from a loop over transformers' own forward pass, and their scores those of the run's evaluation."""
    ended = predict(2, tmp_path / "answers.jsonl", "--model", run, "--predict", asked[1])
    assert ended.codes == [0, 0], ended.status
    written = read(tmp_path / "answers.jsonl")
    model = AutoModelForQuestionAnswering.from_pretrained(run / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    threshold = model.config.null_threshold
    questions = squad_rules.questions(asked[1])
    scores = {"exact_match": 0.0, "f1": 0.0}
    for question, record in zip(questions, written, strict=True):
        windows = list(squad_rules.window_scores(model, tokenizer, question, 64, 20))
        text, score, null = squad_rules.best_answer(windows, question["context"], 30)
        assert record["id"] == question["id"]
        if abs(null - score - threshold) > 1e-4:  # else rounding decides: the threshold is one of the differences
            assert record["answer"] == ("" if null - score > threshold else text)
        assert record["answer"] == question["context"][record["start"] : record["end"]]
        assert record["answers"][0] == {name: record[name] for name in ("answer", "start", "end", "score")}
        assert sum(answer["score"] for answer in record["answers"]) == pytest.approx(1, abs=1e-4)
        gold = [answer["text"] for answer in question["answers"]]
        scores["exact_match"] += squad_rules.exact_match(record["answer"], gold) / len(questions)
        scores["f1"] += squad_rules.f1(record["answer"], gold) / len(questions)
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    assert {name: metrics[name] for name in scores} == pytest.approx(scores, abs=1.01 / len(questions))


def test_rows_without_a_window_are_errors(run: Path, tmp_path: Path) -> None:
    rows = [
        {"context": "zab the Baran.", "question": "what comes after zab?"},
        {"context": "zab the Baran.", "question": "what " * 80},
        {"context": " ", "question": "what comes after zab?"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("--model", run, "--predict", tmp_path / "rows.jsonl")
    ended = predict(1, tmp_path / "answers.csv", *asked, "--evaluation.n_best", 1)
    assert ended.codes == [0], ended.status
    with open(tmp_path / "answers.csv", encoding="utf-8", newline="") as file:
        first, *others = csv.DictReader(file)
    assert first["error"] == "" and first["answer"] in rows[0]["context"]
    assert "no token of its context is left beside its question" in others[0]["error"]
    assert "'context' is blank" in others[1]["error"]


def test_what_squads_evaluation_reads(run: Path, asked: tuple[Path, Path], tmp_path: Path) -> None:
    """An object of answers by the questions' ids, which need to be there and differ."""
    assert predict(1, tmp_path / "answers.json", "--model", run, "--predict", asked[1]).codes == [0]
    answers = json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))
    questions = squad_rules.questions(asked[1])
    assert list(answers) == [question["id"] for question in questions]
    assert all(answers[question["id"]] in question["context"] for question in questions)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"context": "zab the Baran.", "question": "who?"}) + "\n")
    ended = predict(1, tmp_path / "others.json", "--model", run, "--predict", tmp_path / "rows.jsonl")
    assert ended.codes == [2] and "row 1 has no 'id'" in ended.status["message"]
    assert not (tmp_path / "others.json").exists()


def test_what_is_refused(question_answering: tuple[str, ...], tmp_path: Path) -> None:
    rows = [{"context": "some text", "question": "what " * 70 + "?", "answers": []} for _ in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = train(1, tmp_path / "run", *question_answering, "--data.train_files", tmp_path / "rows.jsonl")
    assert ended.codes == [2]
    assert "data.max_length: 64 leaves room for 0 tokens of the context beside the question 'what what" in str(
        ended.status
    )
    (tmp_path / "lines.txt").write_text("a line\n")
    ended = predict(1, tmp_path / "x.jsonl", "--task", "question-answering", "--predict", tmp_path / "lines.txt",
                    "--model", "tiny")  # fmt: skip
    assert ended.codes == [2]
