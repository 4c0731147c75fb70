"""The model card: what a model was made of and how, for those who find it without its run directory."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from warmup.config import Config
from warmup.explain import explain_plan
from warmup.plan import Plan
from warmup.training.data.prepare import Prepared
from warmup.training.models.build import is_new_model
from warmup.training.reporting.console import library_versions

_PIPELINES = {
    "mlm": "fill-mask",
    "clm": "text-generation",
    "classification": "text-classification",
    "regression": "text-classification",
    "token-classification": "token-classification",
}
_OPTIONS = {  # with which a pipeline says what was trained: the number itself; a word's tag, which its first piece has
    "regression": ', function_to_apply="none"',
    "token-classification": ', aggregation_strategy="first"',
}
_OF_A_PLACE = ("run_dir", "resume", "traceback")  # options that say where a run was written, and not what it did
_HUB = "hub:"


def model_card(
    config: Config, plan: Plan, data: Prepared, metrics: Mapping[str, float], step: int, arguments: Sequence[str]
) -> str:
    """The README.md of a model with these held-out metrics after `step`. arguments: those of train.py.

    Files and folders of this machine go by their last name alone: a card may be published.
    """
    pipeline = _PIPELINES[config.task]
    return f"""---
library_name: transformers
pipeline_tag: {pipeline}
{_header(config)}---

# {pipeline} model

```python
from transformers import pipeline
model = pipeline("{pipeline}", model="path/to/this/folder"{_OPTIONS.get(config.task, "")})
```

## Held-out metrics

After step {step}, on {len(data.validation)} samples:

{_table(("metric", "value"), [(name, f"{value:.6g}") for name, value in metrics.items()])}

## What it was made of

{_table(("what", "value"), _ingredients(config, data))}

## Plan

{_table(("what", "value", "how it came about"), explain_plan(plan))}

## How it was made

```bash
{_command(arguments)}
```

with this configuration in all, which `train.py --config` takes:

```yaml
{_configuration(config)}```
"""


def _header(config: Config) -> str:
    """What the hub reads of it: names on the hub, and none of this machine."""
    sources = [*config.data.train_files, *config.data.validation_files]
    names = {name.split(":")[1]: None for name in sources if name.startswith(_HUB)}
    base = f"base_model: {config.model}\n" if _on_hub(config.model) else ""
    return base + (f"datasets:\n{''.join(f'- {name}' + chr(10) for name in names)}" if names else "")


def _on_hub(model: str) -> bool:
    return not is_new_model(model) and not os.path.exists(model) and not os.path.isabs(model)


def _ingredients(config: Config, data: Prepared) -> list[tuple[str, str]]:
    files = config.data
    trained = _names(files.train_files) or "docstrings of the installed Python packages"
    held_out = _names(files.validation_files) or f"{files.validation_fraction:g} of the training rows, held out"
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    kind = "GPT-2" if config.task == "clm" else "BERT"
    return [
        ("base model", f"a new {kind}, {config.model}" if is_new_model(config.model) else f"`{_name(config.model)}`"),
        ("training data", f"{trained}: {data.amount}"),
        ("validation data", f"{held_out}: {len(data.validation)} samples"),
        ("versions", versions),
    ]


def _names(files: Sequence[str]) -> str:
    return ", ".join(f"`{_name(file)}`" for file in files)


def _name(text: str) -> str:
    """A path of this machine by its last part; all else as it is."""
    return os.path.basename(text.rstrip("/")) if text.startswith(("/", "~")) else text


def _command(arguments: Sequence[str]) -> str:
    words, leave_out = ["accelerate", "launch", "train.py"], False
    for word in arguments:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        leave_out = option[2:].replace("-", "_") in _OF_A_PLACE if option else leave_out
        if not leave_out:
            words.append(option + equals + _value(value))
    return shlex.join(words)


def _value(text: str) -> str:
    """Of an option: a path, several as a JSON list, or something else."""
    try:
        several = json.loads(text) if text.startswith("[") else None
    except ValueError:
        several = None
    return json.dumps(_plain(several)) if several is not None else _name(text)


def _configuration(config: Config) -> str:
    data = dataclasses.replace(config.data, cache_dir=None)
    named = _plain(dataclasses.asdict(dataclasses.replace(config, run_dir=None, data=data)))
    return yaml.safe_dump(named, sort_keys=False)


def _plain(content: Any) -> Any:
    """The same, with the names of its paths alone."""
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return _name(content) if isinstance(content, str) else content


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" if line[0] != "---" else "|---" * len(line) + "|" for line in lines)
