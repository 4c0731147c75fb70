"""A run as it may be published: its command and configuration, with no more of the machine's paths than file names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from warmup.commandline.fields import LISTS
from warmup.commandline.whole_command import quote
from warmup.commandline.words import Option, split_values
from warmup.config import Config
from warmup.training.models.build import is_new_model

HUB = "hub:"
"""Begins the name of a data file on the hub."""
_ROOT = Path(__file__).resolve().parents[3]
_LOCAL_OPTIONS = (
    *("run_dir", "resume", "traceback", "test", "seeds", "as_world_size", "data.cache_dir"),
    *("log.push_to_hub", "log.trackers", "log.project"),
)
"""Options of train.py that do not change the model, beside those of the section `launch`."""
_FILES = ("data.train_files", "data.validation_files")
_PATHS = ("model", "data.tokenizer", "data.label_names")


def is_on_hub(model: str) -> bool:
    """Whether a model or tokenizer is named as on the hub: no new one, and no folder that is there."""
    return not is_new_model(model) and not os.path.exists(model) and not os.path.isabs(model)


def published_path(path: str) -> str:
    """The last part of a path; what is on the hub as it is."""
    return path if path.startswith(HUB) or is_on_hub(path) and path.count("/") < 2 else _name(path)


def published_checkpoint(path: str) -> str:
    """A checkpoint's path from its run directory on: RUN/checkpoints/step-N. Of one that is in none, its name."""
    parts = Path(path).parts[-3:]
    return os.path.join(*parts) if len(parts) == 3 and parts[1] == "checkpoints" else _name(path)


def published_files(files: Sequence[str]) -> list[str]:
    """Data files without their folders; with the last of them where two would have one name."""
    names = [file if file.startswith(HUB) else _name(file) for file in files]
    if len(set(names)) == len(names):
        return names
    return [file if file.startswith(HUB) else os.path.join(_name(os.path.dirname(file)), _name(file)) for file in files]


def _name(path: str) -> str:
    return os.path.basename(path.rstrip("/"))


def configuration(config: Config) -> str:
    """The configuration as YAML that train.py accepts, on any number of ranks."""
    launch = replace(config.launch, world_size=None, device=None)
    log = replace(config.log, push_to_hub=None, trackers=())
    data = replace(config.data, cache_dir=None)
    own = replace(config, run_dir=None, data=data, launch=launch, log=log)
    return yaml.safe_dump(_published(asdict(own)), sort_keys=False)


def _published(content: Any, name: str = "") -> Any:
    """Nested dicts and lists, without the folders of paths. `name` is the dotted name of the field."""
    if isinstance(content, dict):
        return {key: _published(value, f"{name}.{key}".lstrip(".")) for key, value in content.items()}
    if name in _FILES:
        return published_files(content)
    if isinstance(content, list | tuple):
        return [_published(value) for value in content]
    if not isinstance(content, str):
        return content
    if name in _PATHS:
        return published_path(content)
    return _name(content) if content.startswith(("/", "~")) else content


def start_command(engine: str, device: str, precision: str, ranks: int) -> list[str]:
    """The words in front of train.py's options that start so many ranks alike.

    Args:
        engine: the engine's name.
        device: cpu or cuda.
        precision: as Accelerate calls it: no, bf16 or fp16.
        ranks: how many.
    """
    script = "cpu" if device == "cpu" else "gpus"
    if stage := re.search(r"ZeRO stage (\d)", engine):
        return ["bash", "launch/deepspeed.sh", stage[1], *(["--cpu"] if device == "cpu" else []), str(ranks)]
    if "FSDP" not in engine and precision == {"cpu": "no", "cuda": "bf16"}.get(device):
        return ["bash", f"launch/{script}.sh", str(ranks)]
    file = "fsdp2" if "FSDP" in engine else {"cpu": "cpu_2", "gpus": "multi_gpu"}[script]
    launch = ["accelerate", "launch", "--config_file", f"configs/accelerate/{file}.yaml", "--num_processes", str(ranks)]
    return [*launch, "--mixed_precision", precision, "train.py"]


def rerun(config: Config, launcher: Sequence[str], options: Sequence[Option], block: Callable[[str, str], str]) -> str:
    """How to train the model again: by the command that did, or if that named a file of its own, by the configuration.

    Args:
        config: the configuration.
        launcher: the words that start the ranks.
        options: the options of train.py as they were given.
        block: makes a block of code of a language and a text.
    """
    words = [*launcher]
    parent = [word for name, values in options if name == "branch_from" for word in (f"--{name}", *values)]
    for name, values in options:
        if name == "config" and not _is_ours(values[0]):
            command = block("bash", quote([*launcher, "--config", "config.yaml", *parent]))
            return (
                f"With the configuration below as `config.yaml` and the data in a clone of the repository:\n\n{command}"
            )
        if name not in _LOCAL_OPTIONS and not name.startswith("launch."):
            words += (f"--{name}", *_published_values(name, values))
    if any(option.name == "seeds" for option in options):
        words += ("--seed", str(config.seed))
    return f"In a clone of the repository, with the data in it:\n\n{block('bash', quote(words))}"


def _is_ours(config: str) -> bool:
    return Path(config).resolve().parent == _ROOT / "configs"


def _published_values(name: str, values: Sequence[str]) -> list[str]:
    if name == "config":
        return [f"configs/{_name(values[0])}"]
    if name in LISTS:
        values = split_values(values)
    return list(_published(tuple(values), name)) if name in _FILES else [_published(value, name) for value in values]
