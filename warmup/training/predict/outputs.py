"""Predictions on disk: a line for every row, in the order of the rows; all of them or none."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from warmup.errors import UserError
from warmup.training.data.sources import suffixes
from warmup.training.predict.inputs import PredictionInputs
from warmup.training.tasks.answers import Predictor

_CHUNK = 1000  # samples that are in memory at once


def output_path(output: str | None, first: str, answers: Predictor) -> Path:
    """Where predictions of a source `first`, and maybe others, are to go. Raises UserError where they cannot."""
    target = Path(output or _stem(first) + ".predictions.jsonl").expanduser()
    if target.suffix not in (".jsonl", ".csv"):
        raise UserError(f"--output: {target} ends neither in .jsonl nor in .csv")
    if target.suffix == ".csv" and not answers.columns:
        raise UserError(f"--output: {target}: a .csv file is for one label or number of a text; use .jsonl")
    if os.path.lexists(target):
        raise UserError(f"--output: {target} is there already; give another name, or remove it")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        reason = "cannot be written to" if target.parent.is_dir() else "does not exist"
        raise UserError(f"--output: the folder {target.parent} {reason}")
    return target


def write_predictions(target: Path, asked: PredictionInputs, answers: Predictor, values: np.ndarray) -> int:
    """Write the answers of `values`, all samples' one after the other, as a whole: they are never seen half-written.
    Returns how many lines are errors.
    """
    stage = target.with_name(f".{target.name}.stage")
    errors = 0
    try:
        with open(stage, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            write_line = _csv_lines(file, answers) if target.suffix == ".csv" else _json_lines(file)
            for record in _records(asked, answers, values):
                errors += "error" in record
                write_line(record)
        stage.rename(target)
    finally:
        stage.unlink(missing_ok=True)
    return errors


def _stem(name: str) -> str:
    """A source's name without folders and suffixes."""
    name = Path(name).name
    return name[: len(name) - sum(map(len, suffixes(name)))].replace(":", "-")


def _records(asked: PredictionInputs, answers: Predictor, values: np.ndarray) -> Iterator[dict[str, Any]]:
    answered = _answered(asked, answers, values)
    for number in range(1, len(asked) + 1):
        yield {"row": number} | ({"error": asked.bad[number]} if number in asked.bad else next(answered))


def _answered(asked: PredictionInputs, answers: Predictor, values: np.ndarray) -> Iterator[dict[str, Any]]:
    """The usable rows' answers, each by all samples of its row."""
    for _, numbered in groupby(_samples(asked), lambda one: one[1]["row"]):
        numbers, samples = zip(*numbered, strict=True)
        own = values[asked.starts[numbers[0]] : asked.starts[numbers[-1] + 1]]
        yield _answer(samples, answers, own) | ({"cut": True} if any(sample["cut"] for sample in samples) else {})


def _samples(asked: PredictionInputs) -> Iterator[tuple[int, dict]]:
    for first in range(0, len(asked.table), _CHUNK):
        yield from enumerate(asked.table[first : first + _CHUNK].to_pylist(), first)


def _answer(samples: Sequence[dict], answers: Predictor, values: np.ndarray) -> dict[str, Any]:
    if not len(values):
        return {"error": answers.unasked}
    if not np.isfinite(values).all():
        return {"error": "what the model computes is not finite"}
    return answers.record(values, samples)


def _json_lines(file: TextIO) -> Callable[[dict], object]:
    return lambda record: file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _csv_lines(file: TextIO, answers: Predictor) -> Callable[[dict], object]:
    writer = csv.DictWriter(file, ("row", *answers.columns, "error"), extrasaction="ignore")
    writer.writeheader()
    return writer.writerow
