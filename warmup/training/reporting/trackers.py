"""Experiment trackers, by Accelerate's classes for them. A resumed run goes on with its own; one that fails ends no
training.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from tqdm import tqdm

from warmup.config import Config
from warmup.errors import UserError
from warmup.training.checkpoints import run_directory
from warmup.training.checkpoints.state import ResumePoint, config_fields
from warmup.training.distributed import collectives

FILE = "trackers.json"  # what names the run to each tracker that it was begun with
_FINISH_SECONDS = 20.0
_TAKE_AGAIN = ("wandb", "trackio")  # a configuration; trackio forgets the old one


def start(accelerator: Accelerator, folder: Path, config: Config, origin: ResumePoint) -> Trackers | None:
    """Those that the configuration names, on rank 0. Raises UserError where one does not start. A collective call."""
    if not config.log.trackers:
        return None
    step = origin.state["clock"]["step"] if origin.checkpoint else -1
    made: list[Trackers] = []

    def make() -> None:
        try:
            made.append(Trackers(folder, config, step))
        except UserError:
            if not origin.checkpoint:
                (folder / FILE).unlink(missing_ok=True)
                run_directory.abandon(folder)
            raise

    collectives.on_main(accelerator, make)
    return made[0] if made else None


class Trackers:
    """Of one run. They are talked to from a thread, so that training does not wait for their network."""

    def __init__(self, folder: Path, config: Config, step: int):
        """step: the last one that the run has done, -1 for none."""
        self._warned: set[str] = set()
        self._thread = ThreadPoolExecutor(1, "trackers")
        self._trackers: dict[str, GeneralTracker] = self._thread.submit(begin, folder, config, step).result()

    def log(self, values: dict[str, float], step: int) -> None:
        for name, tracker in self._trackers.items():
            self._thread.submit(self._try, name, lambda tracker=tracker: tracker.log(values, step=step))

    def finish(self) -> None:
        """Wait for what is still to be sent, within reason."""
        ends = [self._thread.submit(self._try, name, tracker.finish) for name, tracker in self._trackers.items()]
        if wait(ends, _FINISH_SECONDS).not_done:
            _warn(", ".join(self._trackers), "does not take the last lines")
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _try(self, name: str, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:  # whatever a library or its server comes up with
            if name not in self._warned:
                _warn(name, _line(error))
            self._warned.add(name)


def begin(folder: Path, config: Config, step: int) -> dict[str, GeneralTracker]:
    """Start each tracker, or go on with what it has of this run beyond no step but `step`. By name."""
    file = folder / FILE
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    begun = {}
    for name in config.log.trackers:
        mine = known.get(name) or _new(name, folder)
        try:
            tracker = begun[name] = _make(name, config.log.project, folder, mine, step, resumes=name in known)
            if name == "mlflow":  # its server chooses
                mine["run_id"] = tracker.tracker.info.run_id
            if name not in known or name in _TAKE_AGAIN:
                tracker.store_init_configuration(settings(config))
        except Exception as error:
            raise UserError(f"log.trackers: {name} does not start: {_line(error)}") from error
        known[name] = mine
        run_directory.write_json(file, known)
    return begun


def settings(config: Config) -> dict[str, bool | int | float | str]:
    """The configuration as trackers take it: flat, and without values of several parts."""
    fields = config_fields(config).items()
    return {name: value if isinstance(value, bool | int | float | str) else json.dumps(value) for name, value in fields}


def _new(name: str, folder: Path) -> dict[str, str]:
    """What is to name a run that a tracker does not know yet: after its directory and the one that holds it."""
    title = "/".join(folder.resolve().parts[-2:])
    return {"name": title} | ({"id": uuid.uuid4().hex[:8]} if name == "wandb" else {})


def _make(name: str, project: str, folder: Path, mine: dict[str, str], step: int, resumes: bool) -> GeneralTracker:
    kind = LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":  # takes points of an earlier attempt beyond this step back
        tracker = kind("tensorboard", str(folder), purge_step=step + 1)
    elif name == "wandb":
        tracker = kind(project, id=mine["id"], name=mine["name"], resume="allow", dir=str(folder))
    elif name == "mlflow":
        tracker = kind(project, run_id=mine.get("run_id"), run_name=mine["name"])
    elif name == "trackio":
        tracker = kind(project, name=mine["name"], resume="allow" if resumes else "never")
    else:
        tracker = kind(project, str(folder)) if kind.requires_logging_directory else kind(project)
    tracker.start()
    return tracker


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _warn(name: str, text: str) -> None:
    tqdm.write(f"warning: log.trackers: {name}: {text}; training goes on, and metrics.jsonl has all", file=sys.stderr)
