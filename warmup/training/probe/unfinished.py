"""The trials of a probe that is not over, in a file beside its folder: the same command goes on after them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from warmup.errors import UserError
from warmup.training.checkpoints.state import config_fields
from warmup.training.files import write_json
from warmup.training.probe.halving import Candidate, Result
from warmup.training.run.setup import Launched, RunSpec

_held: list[FileLock] = []


def path_of(folder: Path) -> Path:
    """The file of the probe that is to write `folder`."""
    return folder.with_name(f"{folder.name}.unfinished.json")


def claim(folder: Path) -> None:
    """Keep other probes from writing `folder`, for as long as this process lives. Raises UserError if one does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_of(folder))
    try:
        lock.acquire(timeout=2)  # rank 0 of a probe that was stopped may be about to end
    except Timeout:
        raise UserError(f"--output: another probe writes {folder}; wait for it, or give another --output") from None
    _held.append(lock)


def remove(folder: Path) -> None:
    """Remove the file, with its lock, once `folder` is complete."""
    for path in (path_of(folder), _lock_of(folder)):
        path.unlink(missing_ok=True)


def key(spec: RunSpec, launched: Launched) -> dict[str, Any]:
    """What trials must have in common: all but the candidates, the budget, and how many ranks there are."""
    fields = {name: value for name, value in config_fields(spec.config).items() if not name.startswith("launch.")}
    return fields | {
        "global batch": spec.plan.global_batch_size,
        "samples to train on": spec.plan.num_samples,
        "content of the data": spec.data.key,
        "device": launched.accelerator.device.type,
        "precision": launched.accelerator.mixed_precision,
    }


def read(folder: Path, probe_key: Mapping[str, Any]) -> list[Result]:
    """The trials that were made before. Raises UserError if they are of another probe, or the file is damaged."""
    path = path_of(folder)
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name, value in content["probe"].items() if probe_key.get(name) != value]
        other += probe_key.keys() - content["probe"].keys()
        results = [] if other else [_result(trial) for trial in content["trials"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--output: {path} is damaged ({error!r:.80}); remove it") from error
    if other:
        raise UserError(
            f"--output: {path} has trials of a probe with another {other[0]}; give another --output, or remove the file"
        )
    return results


def write(folder: Path, probe_key: Mapping[str, Any], results: Sequence[Result]) -> None:
    """Replace the file. Raises OSError if that is impossible."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    trials = [asdict(result) | {"loss": None if result.loss == math.inf else result.loss} for result in results]
    write_json(path_of(folder), {"probe": probe_key, "trials": trials})


def _result(trial: Mapping[str, Any]) -> Result:
    loss = math.inf if trial["loss"] is None else float(trial["loss"])
    fields: dict[str, Any] = {**trial, "candidate": Candidate(**trial["candidate"]), "loss": loss}
    return Result(**fields)


def _lock_of(folder: Path) -> Path:
    return path_of(folder).with_suffix(".lock")
