"""The table of scores and the files for GLUE's server, from what runs and predictions left."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from warmup.training.glue import results
from warmup.training.glue.tasks import TASKS

SEEDS = (1, 2)


def swept(folder: Path, name: str, *metrics: dict[str, float]) -> None:
    """A sweep of these seeds that is done."""
    (folder / name).mkdir(parents=True)
    found = dict(zip(map(str, SEEDS), metrics, strict=False))
    (folder / name / "seeds.json").write_text(json.dumps({"seeds": SEEDS, "metrics": found}))


def predicted(folder: Path, name: str, part: str, seed: int, *values: str, column: str = "label") -> None:
    path = results.prediction_file(folder, TASKS[name], part, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"row,{column},error", *(f"{row},{value}," for row, value in enumerate(values, 1))]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """MRPC with both seeds, MNLI with both and its mismatched set, RTE with one seed, WNLI with none."""
    swept(tmp_path, "mrpc", {"f1": 0.8, "accuracy": 0.7, "loss": 0.5}, {"f1": 0.9, "accuracy": 0.6, "loss": 0.4})
    swept(tmp_path, "mnli", {"accuracy": 0.5, "f1": 0.1}, {"accuracy": 0.75, "f1": 0.1})
    swept(tmp_path, "rte", {"accuracy": 0.5})
    (tmp_path / "data" / "mnli").mkdir(parents=True)
    labels = ("neutral", "entailment", "contradiction", "neutral")
    lines = [json.dumps({"text": "a", "text_pair": "b", "label": label}) for label in labels]
    (tmp_path / "data" / "mnli" / "validation_mismatched.jsonl").write_text("\n".join(lines) + "\n")
    predicted(tmp_path, "mnli", "validation_mismatched", 1, "neutral", "neutral", "neutral", "entailment")
    predicted(tmp_path, "mnli", "validation_mismatched", 2, *labels)
    return tmp_path


def test_the_table(folder: Path) -> None:
    tasks = [TASKS[name] for name in ("mrpc", "mnli", "rte", "wnli")]
    table = results.write_table(folder, tasks, "bert", SEEDS)
    deviation = 100 * statistics.stdev([0.5, 0.75])
    assert table.splitlines() == [
        "| task | metric | seed 1 | seed 2 | mean | standard deviation |",
        "| --- | --- | --- | --- | --- | --- |",
        "| MRPC | f1 | 80.0 | 90.0 | 85.0 | 7.1 |",
        "| MRPC | accuracy | 70.0 | 60.0 | 65.0 | 7.1 |",
        f"| MNLI | accuracy matched | 50.0 | 75.0 | 62.5 | {deviation:.1f} |",
        "| MNLI | accuracy mismatched | 25.0 | 100.0 | 62.5 | 53.0 |",
        # (75 + 37.5) / 2 and (75 + 87.5) / 2: a task counts once, whatever its metrics
        "| average of 2 | average | 56.2 | 81.2 | 68.8 | 17.7 |",
    ]
    assert (folder / "glue.md").read_text() == f"# GLUE, held-out sets, times 100: bert\n\n{table}\n"
    numbers = json.loads((folder / "glue.json").read_text())
    assert numbers["tasks"].keys() == {"mrpc", "mnli"} and numbers["seeds"] == [1, 2]
    assert numbers["tasks"]["mrpc"]["metrics"] == {
        "1": {"f1": 0.8, "accuracy": 0.7}, "2": {"f1": 0.9, "accuracy": 0.6},
    }  # fmt: skip
    assert numbers["average"]["mean"]["average"] == pytest.approx((0.5625 + 0.8125) / 2)


def test_without_a_finished_task_there_is_an_empty_table(tmp_path: Path) -> None:
    assert len(results.write_table(tmp_path, [TASKS["wnli"]], "bert", SEEDS).splitlines()) == 2
    assert json.loads((tmp_path / "glue.json").read_text())["tasks"] == {}


def test_the_best_seed(folder: Path) -> None:
    """By the mean of the task's own metrics; the first of equal ones."""
    assert results.best_seed(folder, TASKS["mnli"], SEEDS) == 2
    assert results.best_seed(folder, TASKS["mrpc"], SEEDS) == 1  # 0.75 both


def test_what_glues_server_takes(tmp_path: Path) -> None:
    predicted(tmp_path, "stsb", "test", 1, "3.25", "-0.4", "5.125", column="value")
    predicted(tmp_path, "mnli", "test_matched", 1, "neutral", "entailment")
    predicted(tmp_path, "mnli", "test_mismatched", 1, "contradiction")
    predicted(tmp_path, "cola", "test", 2, "1")
    for name, seed in (("stsb", 1), ("mnli", 1), ("cola", 2), ("wnli", 1)):
        results.write_submissions(tmp_path, TASKS[name], seed)
    written = {path.name: path.read_text() for path in (tmp_path / "submission").iterdir()}
    assert written == {
        "STS-B.tsv": "index\tprediction\n0\t3.250\n1\t0.000\n2\t5.000\n",
        "MNLI-m.tsv": "index\tprediction\n0\tneutral\n1\tentailment\n",
        "MNLI-mm.tsv": "index\tprediction\n0\tcontradiction\n",
        "CoLA.tsv": "index\tprediction\n0\t1\n",
    }
