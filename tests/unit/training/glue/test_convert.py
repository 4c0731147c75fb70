"""GLUE's own files and the hub's data set become the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from made_glue import rows_of, write_glue

from warmup.errors import UserError
from warmup.training.glue.convert import convert
from warmup.training.glue.tasks import TASKS, GlueTask, choose


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def expected(task: GlueTask, part: str) -> list[dict[str, Any]]:
    """What a file should hold, from the rows that it was made of."""
    seed = list(task.parts).index(part)
    found = []
    for text, pair, label in rows_of(task, 24 if part == "train" else 8, seed):
        row: dict[str, Any] = {"text": text} | ({"text_pair": pair} if task.pairs else {})
        if not part.startswith("test"):
            row["label"] = label if task.labels else float(label)
        found.append(row)
    return found


@pytest.mark.parametrize("name", TASKS)
def test_glues_own_files(name: str, tmp_path: Path) -> None:
    """Lone quotation marks are characters, CoLA has no header, MRPC's begins with a mark of its encoding."""
    task, glue = TASKS[name], write_glue(tmp_path / "glue", (name,))
    assert any('"' in row["text"] for row in expected(task, "train"))
    assert convert(task, str(glue), tmp_path / "data") == []
    for theirs, ours in task.parts.items():
        assert read(tmp_path / "data" / f"{ours}.jsonl") == expected(task, theirs), theirs
    assert len(list((tmp_path / "data").iterdir())) == (5 if name == "mnli" else 3)


@pytest.mark.parametrize("name", TASKS)
def test_the_hubs_data_set_gives_the_same_files(name: str, tmp_path: Path, monkeypatch) -> None:
    """Its classes are numbered in its own order, and its test sets are labelled -1."""
    task, asked = TASKS[name], []
    columns = {
        "qqp": ("question1", "question2"), "mnli": ("premise", "hypothesis"), "qnli": ("question", "sentence"),
    }.get(name, ("sentence1", "sentence2") if task.pairs else ("sentence",))  # fmt: skip
    classes = [name for name in task.labels if not name.isdigit()]

    def load_dataset(hub_name: str, configuration: str, split: str) -> datasets.Dataset:
        asked.append((hub_name, configuration, split))
        theirs = next(theirs for theirs, ours in task.parts.items() if ours == split)
        rows = rows_of(task, 24 if theirs == "train" else 8, list(task.parts).index(theirs))
        data: dict[str, list] = {column: [row[place] for row in rows] for place, column in enumerate(columns)}
        data["idx"] = list(range(len(rows)))
        names = [next(name for name in classes if task.labels[name] == row[2]) for row in rows] if classes else []
        numbers = [classes.index(name) for name in names] or [float(row[2]) for row in rows]
        data["label"] = numbers if not theirs.startswith("test") else [-1 for _ in rows]
        feature = datasets.ClassLabel(names=classes) if classes else datasets.Value("float32")
        kinds = {**dict.fromkeys(columns, datasets.Value("string")), "idx": datasets.Value("int32"), "label": feature}
        return datasets.Dataset.from_dict(data, features=datasets.Features(kinds))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert convert(task, "hub", tmp_path / "data") == []
    for theirs, ours in task.parts.items():
        assert read(tmp_path / "data" / f"{ours}.jsonl") == expected(task, theirs), theirs
    assert asked == [("nyu-mll/glue", name, ours) for ours in task.parts.values()]


def test_what_is_there_is_not_read_again(tmp_path: Path) -> None:
    glue = write_glue(tmp_path / "glue", ("rte",))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("mine")
    (glue / "RTE" / "test.tsv").unlink()
    (note,) = convert(TASKS["rte"], str(glue), tmp_path / "data")
    assert note == f"{glue}/RTE/test.tsv is not there: no predictions for GLUE's server"
    assert (tmp_path / "data" / "train.jsonl").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["train.jsonl", "validation.jsonl"]


def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    """They are left out and named; of a test set each row is answered. More than one in a hundred are refused."""
    glue = write_glue(tmp_path / "glue", ("qqp",), train=300, held_out=300)
    for part, line in (("train", "7\t1\t2\tonly one question"), ("test", "7\t \tblank before")):
        lines = (glue / "QQP" / f"{part}.tsv").read_text().splitlines()
        lines[8] = line
        (glue / "QQP" / f"{part}.tsv").write_text("\n".join(lines) + "\n")
    notes = convert(TASKS["qqp"], str(glue), tmp_path / "data")
    assert [note.partition(": ")[2].partition(";")[0] for note in notes] == ["1 of 300 rows cannot be used"] * 2
    assert "QQP/train.tsv:9: " in notes[0] and "'question1' is blank" in notes[1]
    assert len(read(tmp_path / "data" / "train.jsonl")) == 299
    test = read(tmp_path / "data" / "test.jsonl")
    assert len(test) == 300 and test[7] == {"text": "-", "text_pair": "-"}
    lines = (glue / "QQP" / "dev.tsv").read_text().splitlines()
    (glue / "QQP" / "dev.tsv").write_text("\n".join([*lines, *["short"] * 4]) + "\n")
    with pytest.raises(UserError, match=r"QQP/dev.tsv: 4 of 304 rows cannot be used; the first: .*QQP/dev.tsv:302: "):
        convert(TASKS["qqp"], str(glue), tmp_path / "again")
    assert not (tmp_path / "again" / "validation.jsonl").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    glue = write_glue(tmp_path / "glue", ("rte",))
    with pytest.raises(UserError, match="glue/CoLA/train.tsv does not exist"):
        convert(TASKS["cola"], str(glue), tmp_path / "data")
    text = (glue / "RTE" / "train.tsv").read_text()
    (glue / "RTE" / "train.tsv").write_text(text.replace("not_entailment", "perhaps"))
    with pytest.raises(UserError, match="RTE/train.tsv: the label 'perhaps' is none of entailment, not_entailment$"):
        convert(TASKS["rte"], str(glue), tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_tasks_by_their_names_here_and_in_glue() -> None:
    assert [task.name for task in choose(["RTE", "sst2", "STS-B", "CoLA"])] == ["cola", "sst2", "stsb", "rte"]
    with pytest.raises(UserError, match="^--tasks: 'squad' is none of cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte,"):
        choose(["cola", "squad"])
