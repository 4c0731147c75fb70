"""What came of the suite: a table of scores over seeds, and predictions as GLUE's server takes them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from warmup.training.checkpoints.run_directory import SWEEP_FILE
from warmup.training.files import staged_file, write_json, write_text
from warmup.training.glue.tasks import GlueTask
from warmup.training.run.seed_sweep import statistics

_HIGHEST = 5.0  # STS-B's scale; its lowest is 0
Scores = dict[int, dict[str, float]]
"""Metrics by name, by seed."""


def prediction_file(folder: Path, task: GlueTask, part: str, seed: int) -> Path:
    """Where the predictions of a part of the data by the model of a seed are."""
    return folder / "predictions" / f"{task.name}-{part}-seed-{seed}.csv"


def training_scores(folder: Path, task: GlueTask, seeds: Sequence[int]) -> Scores:
    """What the runs of a task measured on the held-out set that they were evaluated on; {} unless all are done."""
    try:
        found = json.loads((folder / task.name / SWEEP_FILE).read_text(encoding="utf-8"))["metrics"]
    except FileNotFoundError:
        return {}
    if any(str(seed) not in found for seed in seeds):
        return {}
    return {seed: {name: found[str(seed)][name] for name in task.metrics} for seed in seeds}


def best_seed(folder: Path, task: GlueTask, seeds: Sequence[int]) -> int:
    """The seed with the best mean of the task's metrics; of equal ones the first."""
    scores = training_scores(folder, task, seeds)
    return max(seeds, key=lambda seed: sum(scores[seed].values()))


def scores_of(folder: Path, task: GlueTask, seeds: Sequence[int]) -> Scores:
    """All that GLUE scores a task by, on its held-out sets; {} unless all is done."""
    scores = training_scores(folder, task, seeds)
    if len(task.variants) == 1 or not scores:
        return scores
    accuracy: Scores = {seed: {} for seed in seeds}
    for seed in seeds:
        for variant in task.variants:
            name, part = f"accuracy{variant.replace('_', ' ')}", f"validation{variant}"
            path = prediction_file(folder, task, part, seed)
            if variant == task.variants[0]:
                accuracy[seed][name] = scores[seed]["accuracy"]
            elif path.is_file():
                accuracy[seed][name] = _accuracy(folder / "data" / task.name / f"{part}.jsonl", path)
            else:
                return {}
    return accuracy


def _accuracy(data: Path, predictions: Path) -> float:
    with open(data, encoding="utf-8") as file:
        labels = [json.loads(line)["label"] for line in file]
    preds = [row["label"] for row in _read(predictions)]
    return sum(pred == label for pred, label in zip(preds, labels, strict=True)) / len(labels)


def write_submissions(folder: Path, task: GlueTask, seed: int) -> None:
    """Write the test predictions of a seed's model as GLUE's server takes them, where there are any."""
    for variant, name in zip(task.variants, task.submissions, strict=True):
        predictions = prediction_file(folder, task, f"test{variant}", seed)
        if not predictions.is_file():
            continue
        (folder / "submission").mkdir(exist_ok=True)
        with staged_file(folder / "submission" / f"{name}.tsv") as stage, open(stage, "w", encoding="utf-8") as file:
            file.write("index\tprediction\n")
            for index, row in enumerate(_read(predictions)):
                file.write(f"{index}\t{_answer(task, row)}\n")


def _answer(task: GlueTask, row: dict[str, str]) -> str:
    """The label, or the number within its scale."""
    return row["label"] if task.labels else f"{min(max(float(row['value']), 0.0), _HIGHEST):.3f}"


def _read(predictions: Path) -> Iterator[dict[str, str]]:
    with open(predictions, encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def write_table(folder: Path, tasks: Sequence[GlueTask], model: str, seeds: Sequence[int]) -> str:
    """Write glue.json and glue.md, of the tasks that are done. Returns the table in Markdown."""
    found = {task: scores for task in tasks if (scores := scores_of(folder, task, seeds))}
    summaries = {task.name: _summary(scores) for task, scores in found.items()}
    rows = [
        _row(task.folder, name, summaries[task.name]) for task, scores in found.items() for name in scores[seeds[0]]
    ]
    summary: dict[str, Any] = {"model": model, "seeds": list(seeds), "tasks": summaries}
    if found:
        summary["average"] = _summary({seed: {"average": _average(found.values(), seed)} for seed in seeds})
        rows.append(_row(f"average of {len(found)}", "average", summary["average"]))
    head = ["task", "metric", *(f"seed {seed}" for seed in seeds), "mean", "standard deviation"]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
    write_json(folder / "glue.json", summary)
    write_text(folder / "glue.md", f"# GLUE, held-out sets, times 100: {model}\n\n{table}\n")
    return table


def _summary(scores: Scores) -> dict[str, Any]:
    mean, deviation = statistics(scores)
    return {"metrics": scores, "mean": mean, "standard_deviation": deviation}


def _average(tasks: Iterable[Scores], seed: int) -> float:
    """GLUE's average: of the tasks, each of which counts by the mean of its metrics."""
    means = [float(np.mean(list(scores[seed].values()))) for scores in tasks]
    return float(np.mean(means))


def _row(task: str, metric: str, summary: dict[str, Any]) -> list[str]:
    """The cells of a metric: times 100, a dash for no value."""
    seeds = [metrics[metric] for metrics in summary["metrics"].values()]
    values = [*seeds, summary["mean"][metric], summary["standard_deviation"][metric]]
    return [task, metric, *("-" if value is None else f"{100 * value:.1f}" for value in values)]
