"""The files of a run directory as tables."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import yaml

from warmup.errors import UserError
from warmup.plan import Plan

AXES = {"steps": "step", "samples": "samples", "tokens": "tokens", "time": "seconds"}
"""What curves can be drawn over, and the column of `Run.train` that holds it."""
_SWEEP = "seeds.json"
_TRAIN = ("step", "samples", "tokens", "epoch", "lr", "loss", "grad_norm", "seconds")  # always there


@dataclass(frozen=True)
class Run:
    """What a run directory says. Files that are not there, or damaged, leave their part empty."""

    folder: Path
    train: pandas.DataFrame
    """A row for each logged step, with the columns of metrics.jsonl. `seconds` goes on over resumptions."""
    evaluations: pandas.DataFrame
    """A row for each evaluation: step, and a column for each metric."""
    events: list[dict[str, Any]]
    """All other lines of metrics.jsonl: resumptions, checkpoints, skipped steps, spikes, rows left out."""
    plan: Plan | None
    config: Mapping[str, Any]
    """config.yaml."""
    facts: Mapping[str, Any]
    """run.json."""
    result: Mapping[str, Any]
    """result.json; empty while the run is going on."""
    records: list[dict[str, Any]]
    """Those of evaluation.json: the best evaluation, if it is not the last one, and the last one."""

    @property
    def name(self) -> str:
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def record(self) -> Mapping[str, Any]:
        """The record of the exported model's evaluation, else of the last one; {} if there is none."""
        exported = self.result.get("exported_step")
        chosen = [record for record in self.records if record.get("step") == exported]
        return (chosen or self.records or [{}])[-1]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [event for event in self.events if event["kind"] == kind]

    def positions(self, steps: Any, axis: str) -> np.ndarray:
        """Where steps are on one of AXES, interpolated between the logged ones."""
        steps = np.asarray(steps, float)
        if axis == "steps" or not len(self.train):
            return steps
        return np.interp(steps, self.train["step"], self.train[AXES[axis]])


def load(folder: str | Path) -> Run:
    """Read a run directory. Raises UserError if it is none."""
    folder = Path(folder)
    log = folder / "metrics.jsonl"
    if not log.is_file():
        raise UserError(f"{folder}: not the directory of a run, which holds metrics.jsonl")
    train, evaluations, events = _read_log(log)
    records = _read_json(folder / "evaluation.json").get("evaluations", [])
    return Run(
        folder=folder,
        train=train,
        evaluations=evaluations,
        events=events,
        plan=_read_plan(folder / "plan.json"),
        config=_read_yaml(folder / "config.yaml"),
        facts=_read_json(folder / "run.json"),
        result=_read_json(folder / "result.json"),
        records=[record for record in records if isinstance(record, dict)],
    )


def expand(folder: str | Path) -> list[Path]:
    """The directories of the runs in a sweep of seeds, in order of the seeds; of a run, its own."""
    folder = Path(folder)
    if not (folder / _SWEEP).is_file():
        return [folder]
    runs = [path for path in folder.glob("seed-*") if (path / "metrics.jsonl").is_file()]
    if not runs:
        raise UserError(f"{folder}: a sweep of seeds in which no run has begun")
    return sorted(runs, key=lambda path: (len(path.name), path.name))


def _read_log(path: Path) -> tuple[pandas.DataFrame, pandas.DataFrame, list[dict[str, Any]]]:
    """(logged steps, evaluations, other lines)."""
    train, evaluations, events = _Columns(), [], []
    for line in _lines(path):
        kind = line["kind"]
        if kind == "train":
            train.add(line)
        elif kind == "eval":
            evaluations.append({name: value for name, value in line.items() if name != "kind"})
        else:
            events.append(line)
    table = train.table()
    table["seconds"] = _continued(table["seconds"].to_numpy())
    return table, pandas.DataFrame(evaluations, columns=None if evaluations else ["step"]), events


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log that are whole: a run that is going on, or was killed, may have left a part of one."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and isinstance(line.get("kind"), str) and isinstance(line.get("step"), int):
                if "drawn" in line:  # its name in older logs
                    line["consumed_samples"] = line.pop("drawn")
                yield line


class _Columns:
    """Numbers of many lines, by name: eight bytes for each, where a list of dicts takes a hundred times that."""

    def __init__(self) -> None:
        self._columns: dict[str, array] = {}
        self._count = 0

    def add(self, line: Mapping[str, Any]) -> None:
        columns = self._columns
        for name, value in line.items():
            if isinstance(value, (int, float)):
                column = columns.get(name)
                if column is None:
                    column = columns[name] = array("d", [np.nan]) * self._count
                elif len(column) < self._count:  # it was null, or not there, in the lines before
                    column.extend([np.nan] * (self._count - len(column)))
                column.append(value)
        self._count += 1

    def table(self) -> pandas.DataFrame:
        """A column of floats for each name; NaN where it was not there or null."""
        for column in self._columns.values():
            column.extend([np.nan] * (self._count - len(column)))
        found = {name: np.frombuffer(column) for name, column in self._columns.items() if self._count}
        missing = {name: np.full(self._count, np.nan) for name in _TRAIN if name not in found}
        return pandas.DataFrame(found | missing)


def _continued(seconds: np.ndarray) -> np.ndarray:
    """Seconds since the start of each attempt as seconds of the whole run."""
    if np.isnan(seconds).any() or not len(seconds):
        return seconds
    began_anew = np.flatnonzero(np.diff(seconds) < 0) + 1
    offsets = np.zeros(len(seconds))
    offsets[began_anew] = seconds[began_anew - 1]
    return seconds + offsets.cumsum()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_plan(path: Path) -> Plan | None:
    try:
        return Plan.from_dict(_read_json(path))
    except TypeError:  # there is none, or it is another version's
        return None
