"""Experiment trackers, through Accelerate's classes for them. A resumed run continues its runs in the trackers, and a
tracker that fails does not end training.
"""

from __future__ import annotations

import io
import json
import sys
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from tqdm import tqdm

from warmup.config import Config
from warmup.errors import UserError, one_line
from warmup.training.checkpoints import run_directory
from warmup.training.checkpoints.state import ResumePoint, config_fields
from warmup.training.distributed import collectives
from warmup.training.files import write_json

FILE = "trackers.json"
"""The file in the run directory that holds, by the tracker's name, what identifies the run in it."""
_FINISH_SECONDS = 20.0
_CONFIG_ON_RESUME = ("wandb", "trackio")
"""Trackers that are sent the configuration on resuming too: wandb updates it, trackio has forgotten it."""


def start(accelerator: Accelerator, folder: Path, config: Config, resume_point: ResumePoint) -> Trackers | None:
    """Start the trackers of the configuration on rank 0. A collective call.

    Args:
        accelerator: Tells the rank.
        folder: The run directory. If a new run's trackers do not start, it is made unoccupied again.
        config: The configuration.
        resume_point: What the run starts from.

    Returns:
        The trackers; None on other ranks, and if there are none.

    Raises:
        UserError: One does not start; on all ranks.
    """
    if not config.log.trackers:
        return None
    last_step = resume_point.state["clock"]["step"] if resume_point.checkpoint else -1
    started: list[Trackers] = []

    def start_all() -> None:
        try:
            started.append(Trackers(folder, config, last_step))
        except UserError:
            if not resume_point.checkpoint or resume_point.branches:
                (folder / FILE).unlink(missing_ok=True)
                run_directory.abandon(folder)
            raise

    collectives.on_main(accelerator, start_all)
    return started[0] if started else None


class Trackers:
    """The trackers of one run. A thread talks to them, so that training does not wait for their network."""

    def __init__(self, folder: Path, config: Config, last_step: int):
        """Start them.

        Args:
            folder: The run directory.
            config: The configuration.
            last_step: The last step that the run has done; -1 for none.

        Raises:
            UserError: One does not start.
        """
        self._warned: set[str] = set()
        self._thread = ThreadPoolExecutor(1, "trackers")
        started = self._thread.submit(start_trackers, folder, config, last_step)
        self._trackers: dict[str, GeneralTracker] = started.result()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send metrics of a step, by name, to all trackers. Returns at once."""
        for name, tracker in self._trackers.items():
            self._thread.submit(self._try, name, lambda tracker=tracker: tracker.log(values, step=step))

    def log_pictures(self, pictures: Mapping[str, bytes], step: int) -> None:
        """Send figures, PNG files by name, to the trackers that take pictures. Returns at once."""
        for name, tracker in self._trackers.items():
            self._thread.submit(self._try, name, partial(_log_pictures, name, tracker, pictures, step))

    def finish(self) -> None:
        """Wait until everything is sent and close the trackers, with a time limit."""
        ends = [self._thread.submit(self._try, name, tracker.finish) for name, tracker in self._trackers.items()]
        if wait(ends, _FINISH_SECONDS).not_done:
            _warn(", ".join(self._trackers), "does not accept the last lines")
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _try(self, name: str, call: Callable[[], Any]) -> None:
        """Call a tracker. Its first error is a warning; later ones are ignored."""
        try:
            call()
        except Exception as error:  # a library or its server can raise anything
            if name not in self._warned:
                _warn(name, _error_text(error))
            self._warned.add(name)


def start_trackers(folder: Path, config: Config, last_step: int) -> dict[str, GeneralTracker]:
    """Start each tracker of the configuration, or continue this run in it.

    Args:
        folder: The run directory.
        config: The configuration.
        last_step: The last step that the run has done; points beyond it are removed where the tracker can do so.

    Returns:
        The trackers by name.

    Raises:
        UserError: One does not start.
    """
    path = folder / FILE
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    trackers = {}
    for name in config.log.trackers:
        identity = known.get(name) or _new_identity(name, folder)
        try:
            tracker = _start_one(name, config.log.project, folder, identity, last_step, resumes=name in known)
            if name == "mlflow":  # its server chooses the id
                identity["run_id"] = tracker.tracker.info.run_id
            if name == "wandb":  # in a sweep it has the one that the agent chose
                identity["id"] = tracker.tracker.id
            if name not in known or name in _CONFIG_ON_RESUME:
                tracker.store_init_configuration(settings(config))
        except Exception as error:
            raise UserError(f"log.trackers: {name} does not start: {_error_text(error)}") from error
        trackers[name] = tracker
        known[name] = identity
        write_json(path, known)
    return trackers


def settings(config: Config) -> dict[str, bool | int | float | str]:
    """The configuration as trackers accept it: values by dotted names, lists and None as JSON text."""
    fields = config_fields(config).items()
    return {name: value if isinstance(value, bool | int | float | str) else json.dumps(value) for name, value in fields}


def _log_pictures(name: str, tracker: GeneralTracker, pictures: Mapping[str, bytes], step: int) -> None:
    """Send pictures to one tracker, if it takes any."""
    from PIL import Image

    opened = {title: Image.open(io.BytesIO(png)).convert("RGB") for title, png in pictures.items()}
    images = {f"report/{title}": np.asarray(image) for title, image in opened.items()}
    if name == "tensorboard":
        tracker.log_images({title: image[None] for title, image in images.items()}, step=step, dataformats="NHWC")
    elif name == "mlflow":
        for title, image in opened.items():
            tracker.log_figure(image, f"report/{title}.png")
    elif hasattr(tracker, "log_images"):
        tracker.log_images({title: [image] for title, image in images.items()}, step=step)


def _new_identity(name: str, folder: Path) -> dict[str, str]:
    """What identifies a new run in a tracker: the last two parts of its directory's path, and for wandb a random id."""
    title = "/".join(folder.resolve().parts[-2:])
    return {"name": title} | ({"id": uuid.uuid4().hex[:8]} if name == "wandb" else {})


def _start_one(
    name: str, project: str, folder: Path, identity: Mapping[str, str], last_step: int, resumes: bool
) -> GeneralTracker:
    """Start one tracker.

    Args:
        name: The tracker's name in Accelerate.
        project: The project in it.
        folder: The run directory.
        identity: What identifies the run in it.
        last_step: The last step that the run has done.
        resumes: Whether the tracker knows the run already.
    """
    kind = LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":  # hides what an earlier attempt logged beyond this step
        tracker = kind("tensorboard", str(folder), purge_step=last_step + 1)
    elif name == "wandb":
        tracker = kind(project, id=identity["id"], name=identity["name"], resume="allow", dir=str(folder))
    elif name == "mlflow":
        tracker = kind(project, run_id=identity.get("run_id"), run_name=identity["name"])
    elif name == "trackio":
        tracker = kind(project, name=identity["name"], resume="allow" if resumes else "never")
    else:
        tracker = kind(project, str(folder)) if kind.requires_logging_directory else kind(project)
    tracker.start()
    return tracker


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _warn(name: str, text: str) -> None:
    line = f"warning: log.trackers: {name}: {text}; training goes on, and metrics.jsonl has everything"
    tqdm.write(line, file=sys.stderr)
