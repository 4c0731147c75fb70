"""Predictions on disk: a line for every row, in the order of the rows; all of them or none."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from warmup.errors import UserError
from warmup.training.data.sources import suffixes
from warmup.training.files import staged_file
from warmup.training.predict.inputs import PredictionInputs
from warmup.training.tasks import Predictor

_CHUNK = 1000  # sequences that are in memory at once


def output_path(output: str | None, first: str, predictor: Predictor) -> Path:
    """Where predictions are written.

    Args:
        output: as --output names it; None for a name made of the first source's.
        first: the name of the first source.
        predictor: of the task.

    Raises:
        UserError: they cannot be written there.
    """
    target = Path(output or _stem(first) + ".predictions.jsonl").expanduser()
    if target.suffix not in (".jsonl", ".csv", *([".json"] if predictor.json_entry else [])):
        raise UserError(f"--output: {target} ends neither in .jsonl nor in .csv")
    if target.suffix == ".csv" and not predictor.csv_columns:
        raise UserError(f"--output: {target}: a .csv file is for one label or number of a text; use .jsonl")
    if os.path.lexists(target):
        raise UserError(f"--output: {target} is there already; give another name, or remove it")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        reason = "cannot be written to" if target.parent.is_dir() else "does not exist"
        raise UserError(f"--output: the folder {target.parent} {reason}")
    return target


def write_predictions(target: Path, inputs: PredictionInputs, predictor: Predictor, values: np.ndarray) -> int:
    """Write the predictions as a whole: they are never seen half-written.

    Args:
        target: a .jsonl, .csv or .json file.
        inputs: the rows.
        predictor: of the task.
        values: what was kept for each target position, (targets, width), sequence after sequence.

    Returns:
        How many lines are errors.

    Raises:
        UserError: a .json file cannot hold all of them.
    """
    errors = 0
    with staged_file(target) as stage:
        with open(stage, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            entries: dict[str, Any] = {}
            writers = {
                ".csv": lambda: _csv_lines(file, predictor),
                ".jsonl": lambda: _json_lines(file),
                ".json": lambda: _json_entries(entries, predictor),
            }
            write_line = writers[target.suffix]()
            for record in _records(inputs, predictor, values):
                errors += "error" in record
                write_line(record)
            if target.suffix == ".json":
                json.dump(entries, file, ensure_ascii=False)
    return errors


def _stem(name: str) -> str:
    """A source's name without folders and suffixes."""
    name = Path(name).name
    return name[: len(name) - sum(map(len, suffixes(name)))].replace(":", "-")


def _records(inputs: PredictionInputs, predictor: Predictor, values: np.ndarray) -> Iterator[dict[str, Any]]:
    """One record for each row, in order."""
    usable = _records_of_usable_rows(inputs, predictor, values)
    for number in range(1, len(inputs) + 1):
        yield {"row": number} | ({"error": inputs.bad[number]} if number in inputs.bad else next(usable))


def _records_of_usable_rows(
    inputs: PredictionInputs, predictor: Predictor, values: np.ndarray
) -> Iterator[dict[str, Any]]:
    all_sequences = _sequences(inputs)
    for first, end in pairwise(inputs.row_starts.tolist()):
        sequences = list(islice(all_sequences, end - first))
        own_values = values[inputs.target_starts[first] : inputs.target_starts[end]]
        truncated = any(sequence["truncated"] for sequence in sequences)
        yield _record(sequences, predictor, own_values) | ({"cut": True} if truncated else {})


def _sequences(inputs: PredictionInputs) -> Iterator[dict]:
    """All sequences, some of which are in memory at a time."""
    for first in range(0, len(inputs.table), _CHUNK):
        yield from inputs.table[first : first + _CHUNK].to_pylist()


def _record(sequences: Sequence[dict], predictor: Predictor, values: np.ndarray) -> dict[str, Any]:
    if not len(values):
        return {"error": predictor.no_target_message}
    if not np.isfinite(values).all():
        return {"error": "what the model computes is not finite"}
    return predictor.to_record(values, sequences)


def _json_lines(file: TextIO) -> Callable[[dict], object]:
    return lambda record: file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _json_entries(entries: dict[str, Any], predictor: Predictor) -> Callable[[dict], object]:
    """What adds records to the object that a .json file holds; those that are errors have no place there."""
    key, value = predictor.json_entry or ("", "")

    def add(record: dict) -> None:
        if "error" in record:
            return
        name = record[key]
        if name is None or name in entries:
            why = f"has no {key!r}" if name is None else f"has the {key!r} {name!r} of another one"
            raise UserError(f"--output: row {record['row']} {why}, by which a .json file tells them apart; use .jsonl")
        entries[name] = record[value]

    return add


def _csv_lines(file: TextIO, predictor: Predictor) -> Callable[[dict], object]:
    writer = csv.DictWriter(file, ("row", *predictor.csv_columns, "error"), extrasaction="ignore")
    writer.writeheader()

    def cell(value: Any) -> Any:
        return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value

    return lambda record: writer.writerow({name: cell(value) for name, value in record.items()})
