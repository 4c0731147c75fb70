"""What `--model` of a prediction names: a run directory, a folder in one, another model folder, or a hub name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from warmup.commandline import leaves
from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import run_directory
from warmup.training.checkpoints.format import BrokenCheckpoint
from warmup.training.checkpoints.state import read_run_state
from warmup.training.models.build import is_new_model, load_config
from warmup.training.models.positions import empty_model, max_positions

_TAKEN = re.compile(r"task|data\.(\w+_columns?|max_length)|batch\.evaluation|speed\.(packing|masked_only)")
"""Fields of the run that a prediction of any task is made with too."""


def model_folder(model: str) -> str:
    """The folder or hub name of the weights. Raises UserError where a run directory holds no model yet."""
    if is_new_model(model):
        raise UserError(
            f"--predict: needs a trained --model: a run directory, a model folder or a hub name; {model} is a new one"
        )
    run = Path(model)
    run_directory.check_not_sweep(run, "--model")
    if not _is_run(run) or (run / "model").is_dir():
        return str(run / "model") if _is_run(run) else model
    newest, _ = checkpoint_format.newest_valid(run)
    there = f"its newest checkpoint is {newest}, which is a folder for --model too" if newest else "nor a checkpoint"
    raise UserError(f"--model: the run in {run} has not come to its end: there is no {run / 'model'}; {there}")


def model_settings(where: str) -> dict[str, Any]:
    """The config of a model, which holds what an evaluation chose; of a checkpoint, with what its evaluation chose."""
    found = load_config(where).to_dict()
    if not (Path(where) / checkpoint_format.STATE).is_file():
        return found
    state = read_run_state(Path(where), "--model")
    evaluations = state.get("evaluations", {})
    own = evaluations.get("evaluated", {}).get("step") == state["clock"]["step"]
    return found | (evaluations.get("details", {}).get("model_settings", {}) if own else {})


def config_defaults(model: str) -> dict[str, Any]:
    """Fields of the configuration by dotted names: as the run had them that made the model, where that is known."""
    where = model_folder(model)
    recorded = _recorded(Path(where))
    facts = TASKS.get(recorded.get("task", ""))
    own = facts.prediction_fields if facts else ()
    found = {name: value for name, value in recorded.items() if name in own or _TAKEN.fullmatch(name)}
    found = found or _of_architecture(where)
    facts = TASKS.get(found.get("task", ""))
    if facts and facts.no_prediction:
        raise UserError(f"--predict: {facts.no_prediction.format(model=where)}")
    return found


def _recorded(where: Path) -> dict[str, Any]:
    """The configuration of the run that a model/ or a checkpoint is of; {} for other folders."""
    config = where.resolve().parent / "config.yaml"
    try:
        if (where / checkpoint_format.STATE).is_file():
            return dict(checkpoint_format.read_state(where)["config"])
        if where.name == "model" and _is_run(config.parent) and config.is_file():
            return dict(leaves(yaml.safe_load(config.read_text(encoding="utf-8"))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, BrokenCheckpoint) as error:
        raise UserError(f"--model: the configuration of the run of {where} cannot be read: {error}") from error
    return {}


def _of_architecture(where: str) -> dict[str, Any]:
    """What a model's own configuration tells: its task, and how long its inputs may be."""
    config = load_config(where)
    positions = max_positions(empty_model(config, where))
    found: dict[str, Any] = {"data.max_length": positions} if positions else {}
    architecture = (getattr(config, "architectures", None) or [""])[0]
    tasks = [facts for facts in TASKS.values() if architecture.endswith(facts.architectures)]
    if len(tasks) > 1:  # a head of one output predicts a number
        kind = config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")
        tasks = [facts for facts in tasks if facts.problem_type == kind]
    return found | ({"task": tasks[0].name} if tasks else {})


def _is_run(folder: Path) -> bool:
    return (folder / "metrics.jsonl").is_file()
