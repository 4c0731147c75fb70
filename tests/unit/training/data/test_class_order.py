"""The order of classes: that of the model that training starts from, else the one that the data declares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from made_rows import config, jsonl, prepared, texts

from warmup.training.data.class_order import in_order_of

NAMES = ["not_equivalent", "unused", "equivalent"]
CLASS = datasets.ClassLabel(names=NAMES)
ROWS: dict[str, tuple[Any, list]] = {
    "classification": (CLASS, [0, 2] * 4),
    "multi-label": (datasets.List(CLASS), [[0], [2, 0], [], [2]] * 2),
}


def test_labels_keep_the_order_in_which_a_classifier_knows_them() -> None:
    """Or its head's rows would change their meaning in silence."""
    names = ["bad", "good"]
    assert in_order_of([], names) == in_order_of([["LABEL_0", "LABEL_1"], ["good"]], names) == ["bad", "good"]
    for known in (["good", "bad"], ["GOOD", "Bad"], ["good", "so so", "bad"]):
        assert in_order_of([["LABEL_0", "LABEL_1"], known, names], names) == ["good", "bad"]
    assert in_order_of([["b", "A", "a"]], ["A", "a", "b"]) == ["b", "A", "a"]  # two that differ in case alone
    assert in_order_of([["b", "a"]], ["A", "a", "b"]) == ["A", "a", "b"]


@pytest.mark.parametrize("task", ROWS)
@pytest.mark.usefixtures("own_cache")
def test_labels_keep_the_order_that_a_data_set_declares(task: str, tmp_path: Path) -> None:
    """That of its ClassLabel, without classes that no row has. The F1 of two classes is that of the second."""
    feature, labels = ROWS[task]
    features = datasets.Features({"text": datasets.Value("string"), "label": feature})
    rows = datasets.Dataset.from_dict({"text": texts(8), "label": labels}, features=features)
    rows.save_to_disk(tmp_path / "saved")
    rows.to_parquet(tmp_path / "rows.parquet")
    names = json.loads(json.dumps(labels).replace("0", '"not_equivalent"').replace("2", '"equivalent"'))
    file = jsonl(tmp_path / "rows.jsonl", [{"text": t, "label": n} for t, n in zip(texts(8), names, strict=True)])
    found = {
        name: prepared(config(name, task=task, validation_fraction=0.2))
        for name in (str(tmp_path / "saved"), str(tmp_path / "rows.parquet"), file)
    }
    declared, in_parquet, undeclared = found.values()
    assert declared.labels == in_parquet.labels == ("not_equivalent", "equivalent")
    assert undeclared.labels == ("equivalent", "not_equivalent")
    assert prepared(config(file, str(tmp_path / "saved"), task=task)).labels == declared.labels


@pytest.mark.usefixtures("own_cache")
def test_the_first_declared_order_that_has_all_classes_is_kept(tmp_path: Path) -> None:
    """Also if it is the usual one and a later one is not."""
    for folder, names in (("usual", ["a", "b"]), ("other", ["b", "a"]), ("one", ["a"])):
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        rows = {"text": [f"{folder} {text}" for text in texts(8)], "label": [0, len(names) - 1] * 4}
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / folder)
    usual, other, one = (str(tmp_path / folder) for folder in ("usual", "other", "one"))
    for entries, expected in (
        ((usual, other), "ab"),
        ((other, usual), "ba"),
        ((one, other), "ba"),
        ((one, usual), "ab"),
    ):
        assert prepared(config(*entries, task="classification", validation_fraction=0.2)).labels == tuple(expected)
