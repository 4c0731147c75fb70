"""Predictions of labels: those of transformers' pipeline, by the thresholds that the run chose on its held-out rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from harness import train
from predictions import predict, read
from transformers import AutoConfig, pipeline

from warmup.training.checkpoints.format import checkpoint_path, read_state


def test_labels_scores_and_thresholds(
    multi_label: tuple[str, ...], multi_labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    job = (*multi_label, "--evaluation.thresholds", "tuned", "--evaluation.every", "10 steps", "--recipe.lr", 3e-3)
    ended = train(2, tmp_path / "run", *job, "--batch.per_device", 16, "--evaluation.export", "best")
    assert ended.codes == [0, 0], ended.status
    model = tmp_path / "run" / "model"
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    thresholds = AutoConfig.from_pretrained(model).thresholds
    best = checkpoint_path(tmp_path / "run", result["exported_step"])
    assert thresholds == read_state(best)["evaluations"]["details"]["model_settings"]["thresholds"]
    assert len(set(thresholds.values())) > 4

    ended = predict(1, tmp_path / "labels.jsonl", "--predict", multi_labelled[1], "--model", tmp_path / "run")
    assert ended.codes == [0], ended.status
    found, rows = read(tmp_path / "labels.jsonl"), list(csv.DictReader(multi_labelled[1].open()))
    classify = pipeline("text-classification", model=str(model), top_k=None)
    exact = 0
    for line, row in zip(found, rows, strict=True):
        answer = classify({"text": row["text"]}, truncation=True, max_length=64)
        scores = {one["label"]: one["score"] for one in answer}
        assert line["scores"] == pytest.approx(scores, abs=1e-5)
        assert line["labels"] == [label for label in line["scores"] if line["scores"][label] >= thresholds[label]]
        exact += set(line["labels"]) == set(filter(None, row["label"].split(",")))
    # As the evaluation of the exported step counted, by the same thresholds.
    assert exact / len(rows) == pytest.approx(result["metrics"]["subset_accuracy"])
    assert result["per_class"].keys() == thresholds.keys()

    ended = predict(2, tmp_path / "labels.csv", "--predict", multi_labelled[1], "--model", best)
    assert ended.codes == [0, 0], ended.status
    lines = list(csv.DictReader((tmp_path / "labels.csv").open()))
    assert list(lines[0]) == ["row", "labels", "error"]
    assert [json.loads(line["labels"]) for line in lines] == [line["labels"] for line in found]
