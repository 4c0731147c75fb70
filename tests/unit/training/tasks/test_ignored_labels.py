"""Labels and tags that mean that there is none: left out where that is said, and named where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from made_rows import config, jsonl, labelled, prepared

from warmup.config import Config
from warmup.config.data import Data
from warmup.errors import UserError
from warmup.training.data.batching.micro_batch import to_device
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.tasks import create_task
from warmup.training.tasks.task import evaluation_batch

pytestmark = pytest.mark.usefixtures("own_cache")
TAGS = "token-classification"


def tagged(path: Path, tags: list[list[Any]]) -> str:
    return jsonl(path, [{"tokens": ["word"] * len(row), "tags": row} for row in tags])


def made(*files: str, task: str = "classification", **data: Any) -> Any:
    return prepared(config(*files, task=task, **data))


def test_a_tag_of_minus_100_is_not_learned(tmp_path: Path) -> None:
    tags = [["B-X", -100, "O"], [-100, "I-X"]] * 10 + [[-100, -100]] * 3
    train, held_out = tagged(tmp_path / "a.jsonl", tags), tagged(tmp_path / "b.jsonl", tags[:2])
    data = made(train, task=TAGS, validation_files=(held_out,))
    assert data.labels == ("B-X", "I-X", "O")
    assert len(data.train) == 20  # sentences without a tag to learn are none
    assert data.notes["not learned"] == "'-100' of 26 words"
    ids_BT, mask_BT, columns = data.train.gather(np.arange(2))
    labels_BT = np.where(mask_BT, columns["token_labels"], IGNORE_INDEX)
    assert [row[row != IGNORE_INDEX].tolist() for row in labels_BT] == [[0, 2], [1]]
    objective = create_task(config(task=TAGS)).objective(data.tokenizer, data.labels, data.train)
    batch = evaluation_batch(objective, data.validation, np.arange(2))
    _, targets = to_device(batch, torch.device("cpu"))
    assert batch.target_count == 3 and IGNORE_INDEX not in targets.values.tolist()
    logits = torch.nn.functional.one_hot(targets.values, 3).float()
    metrics = objective.metrics(float(objective.losses(logits, targets).sum()), objective.results(logits, targets))
    assert (metrics["accuracy"], metrics["f1"], metrics["targets"]) == (1.0, 1.0, 3.0)


def test_tags_that_are_ignored(tmp_path: Path) -> None:
    train = tagged(tmp_path / "a.jsonl", [["A", "-", "B"], ["B", "-100", "A"]] * 10)
    assert made(train, task=TAGS).labels == ("-", "A", "B")
    data = made(train, task=TAGS, ignore_labels=["-"])
    assert data.labels == ("A", "B") and data.notes["not learned"].startswith("'-' of ")
    with pytest.raises(UserError, match="no row has a label that is not ignored"):
        made(tagged(tmp_path / "b.jsonl", [[-100]] * 5), task=TAGS)


@pytest.mark.parametrize("label", ["-", "-1"])
def test_rows_without_a_label(label: str, tmp_path: Path) -> None:
    """As in SNLI, and in the test files of GLUE."""
    train = labelled(tmp_path / "a.jsonl", ["0", "1", label, "1"] * 10)
    held_out = labelled(tmp_path / "b.jsonl", ["0", label] * 3)
    loud = made(train, validation_files=(held_out,))
    assert label in loud.labels
    assert loud.notes[f"label {label!r}"] == (
        f"A CLASS LIKE ANY OTHER, of 10 training rows; if it means that they have none: --data.ignore_labels {label}"
    )
    data = made(train, validation_files=(held_out,), ignore_labels=[label])
    assert (data.labels, len(data.train), len(data.validation)) == (("0", "1"), 30, 3)
    assert data.notes["not learned"] == f"{label!r} of 13 rows" and not data.bad_rows
    assert data.key != loud.key
    with pytest.raises(UserError, match="data.ignore_labels: all validation rows have one of them"):
        made(train, validation_files=(labelled(tmp_path / "c.jsonl", [label] * 4),), ignore_labels=[label])


@pytest.mark.parametrize("kind", ["saved", "a.parquet"])
def test_rows_without_a_label_in_columns_of_classes(kind: str, tmp_path: Path) -> None:
    """As the hub has SNLI: the number -1 where others are numbers of classes."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"text": [f"text {number}" for number in range(60)], "label": [0, 1, -1] * 20}
    table = datasets.Dataset.from_dict(rows, features=features)
    path = tmp_path / kind
    table.save_to_disk(path) if kind == "saved" else table.to_parquet(path)
    with pytest.raises(UserError, match="11 bad rows so far"):
        made(str(path))
    data = made(str(path), ignore_labels=["-1"])
    assert (data.labels, len(data.train) + len(data.validation), data.bad_rows) == (("no", "yes"), 40, ())
    assert data.notes["not learned"] == "'-1' of 20 rows"


def test_numbers_are_no_classes(tmp_path: Path) -> None:
    file = labelled(tmp_path / "a.jsonl", [-1.0, 0.5] * 10)
    assert set(prepared(config(file, task="regression")).notes) <= {"truncated"}
    with pytest.raises(UserError, match="data.ignore_labels: is for the task"):
        Config(task="regression", data=Data(ignore_labels=["-1"]))


def test_a_blank_label_is_a_bad_row(tmp_path: Path) -> None:
    data = made(labelled(tmp_path / "a.jsonl", ["0", "1"] * 10 + [" "]))
    assert data.labels == ("0", "1") and [row.rpartition(": ")[2] for row in data.bad_rows] == ["'label' is blank"]
