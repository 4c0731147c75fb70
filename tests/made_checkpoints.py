"""Checkpoints of a run that was not trained."""

from __future__ import annotations

import json
from pathlib import Path

from warmup.clock import StepClock
from warmup.config import Config
from warmup.config.recipe import Recipe
from warmup.elastic import LRSchedule
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints.state import RunState, config_fields

RECIPE = Recipe("sgd", 0.1, 32, warmup="10 steps", duration="100 steps")
CONFIG = Config(recipe=RECIPE, dropout=0.1, seed=7)
LR_SCHEDULE = LRSchedule(make_plan(RECIPE, Topology(2, 16), 1000))


def clock_at(step: int) -> StepClock:
    made = StepClock(32, 1000)
    for _ in range(step):
        made.advance(tokens=10)
    return made


def state_at(step: int, config: Config = CONFIG, lr_schedule: LRSchedule = LR_SCHEDULE, **given: object) -> dict:
    run_state = RunState(config_fields(config), "key of the data", lr_schedule, **given)
    return run_state.state(clock_at(step), world_size=2)


def save(run: Path, step: int, state: dict) -> Path:
    def fill(stage: Path) -> None:
        for name in (checkpoint_format.MODEL, checkpoint_format.OPTIMIZER):
            (stage / name).write_bytes(b"weights")
        (stage / checkpoint_format.STATE).write_text(json.dumps(state))

    checkpoint_format.write(checkpoint_format.checkpoint_path(run, step), fill)
    return checkpoint_format.checkpoint_path(run, step)


def at(run: Path, step: int) -> Path:
    return checkpoint_format.checkpoint_path(run, step)


def harm(folder: Path) -> str:
    """Damage a checkpoint; what is then said of it."""
    (folder / checkpoint_format.MODEL).write_bytes(b"weighty")
    return f"{folder}: model.safetensors is not what was written (its SHA-256 differs)"


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
