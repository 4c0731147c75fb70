"""The model card: what a model was trained from and how, for those who find it without its run directory."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from warmup.commandline.whole_command import quote
from warmup.commandline.words import Option
from warmup.config import Config
from warmup.config.tasks import TASKS
from warmup.explain import explain_plan
from warmup.plan import Plan
from warmup.training.data.prepare import Prepared
from warmup.training.models.build import is_new_model
from warmup.training.reporting.console import library_versions

_LOCAL_OPTIONS = ("run_dir", "resume", "traceback")
"""Options of train.py that do not change the model."""
_HUB = "hub:"  # begins the name of a data file on the hub


def model_card(
    config: Config, plan: Plan, data: Prepared, metrics: Mapping[str, float], step: int, arguments: Sequence[Option]
) -> str:
    """The text of an exported model's README.md.

    A card may be published, so of the paths of this machine it contains only the last part.

    Args:
        config: The configuration.
        plan: The plan.
        data: The prepared data.
        metrics: Held-out metrics of the exported weights.
        step: The step after which they were evaluated.
        arguments: The options of train.py.
    """
    facts = TASKS[config.task]
    pipeline = facts.pipeline
    return f"""---
library_name: transformers
pipeline_tag: {pipeline}
{_header(config)}---

# {pipeline} model

```python
from transformers import pipeline
model = pipeline("{pipeline}", model="path/to/this/folder"{facts.pipeline_options})
```

## Held-out metrics

After step {step}, on {len(data.validation)} samples:

{_table(("metric", "value"), [(name, f"{value:.6g}") for name, value in metrics.items()])}

## Model, data and versions

{_table(("what", "value"), _sources(config, data))}

## Plan

{_table(("what", "value", "how it was computed"), explain_plan(plan))}

## Command and configuration

{_block("bash", _command(arguments))}

The whole configuration, which `train.py --config` accepts:

{_block("yaml", _configuration(config))}
"""


def _header(config: Config) -> str:
    """The metadata that the hub reads: the base model and the data sets, if they are on the hub."""
    data_files = [*config.data.train_files, *config.data.validation_files]
    names = {name.split(":")[1]: None for name in data_files if name.startswith(_HUB)}
    base = f"base_model: {_scalar(config.model)}\n" if _is_on_hub(config.model) else ""
    return base + (f"datasets:\n{''.join(f'- {_scalar(name)}' + chr(10) for name in names)}" if names else "")


def _scalar(text: str) -> str:
    """A string in YAML, on one line: a line `---` in it would end the header."""
    plain = re.fullmatch(r"[A-Za-z][\w./-]*", text) and yaml.safe_load(text) == text
    return text if plain else json.dumps(text)


def _is_on_hub(model: str) -> bool:
    return not is_new_model(model) and not os.path.exists(model) and not os.path.isabs(model)


def _sources(config: Config, data: Prepared) -> list[tuple[str, str]]:
    """Rows (name, value): model, data and libraries."""
    train_files, validation_files = config.data.train_files, config.data.validation_files
    train = _names(train_files) or "docstrings of the installed Python packages"
    validation = _names(validation_files) or f"{config.data.validation_fraction:g} of the training rows, held out"
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    kind = TASKS[config.task].new_model
    return [
        ("base model", f"a new {kind}, {config.model}" if is_new_model(config.model) else _code(_name(config.model))),
        ("training data", f"{train}: {data.amount}"),
        ("validation data", f"{validation}: {len(data.validation)} samples"),
        ("versions", versions),
    ]


def _names(files: Sequence[str]) -> str:
    return ", ".join(_code(_name(file)) for file in files)


def _code(text: str) -> str:
    """A name as code in Markdown: one line, and in more backticks than it has in a row itself."""
    text = " ".join(text.splitlines())
    fence = "`" * (_longest_backticks(text) + 1)
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _block(language: str, text: str) -> str:
    """Lines of code in Markdown, between fences that do not occur in them."""
    fence = "`" * max(3, _longest_backticks(text) + 1)
    return f"{fence}{language}\n{text.rstrip(chr(10))}\n{fence}"


def _longest_backticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _name(text: str) -> str:
    """The last part of an absolute path; any other text as it is."""
    return os.path.basename(text.rstrip("/")) if text.startswith(("/", "~")) else text


def _command(arguments: Sequence[Option]) -> str:
    """The command that started the run, without the options that do not change the model."""
    words = ["accelerate", "launch", "train.py"]
    for name, values in arguments:
        if name not in _LOCAL_OPTIONS:
            words += (f"--{name}", *map(_without_folders, values))
    return quote(words)


def _without_folders(value: str) -> str:
    """An option's value with only the last part of each path; several may be given as a JSON list."""
    try:
        items = json.loads(value) if value.startswith("[") else None
    except ValueError:
        items = None
    return json.dumps(_shorten_paths(items)) if items is not None else _name(value)


def _configuration(config: Config) -> str:
    data = dataclasses.replace(config.data, cache_dir=None)
    fields = dataclasses.asdict(dataclasses.replace(config, run_dir=None, data=data))
    return yaml.safe_dump(_shorten_paths(fields), sort_keys=False)


def _shorten_paths(content: Any) -> Any:
    """Nested dicts and lists, with only the last part of each absolute path in them."""
    if isinstance(content, dict):
        return {name: _shorten_paths(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_shorten_paths(value) for value in content]
    return _name(content) if isinstance(content, str) else content


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown. What is in a cell cannot end it."""
    cells = [[" ".join(cell.splitlines()).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
