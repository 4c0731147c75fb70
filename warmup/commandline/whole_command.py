"""A command of another program rewritten as a whole, with what its names leave unsaid."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence

from warmup.commandline.translation import Rewrite
from warmup.commandline.words import Option
from warmup.config.tasks import TASKS

COMMAND = "WARMUP_COMMAND"
"""The environment variable in which a launch script says how it was started, up to the options of train.py."""
_WIDTH = 100  # characters of a line
_FROM_SCRIPT = ("launch.world_size", "launch.device")
"""Options that launch scripts put in front of those of the user."""
_BATCH = ("per_device_train_batch_size", "train_batch_size", "batch_size")


def rewrite_command(options: Sequence[Option], rewrites: Mapping[Option, Rewrite], program: str) -> str:
    """The command with what its options are here, and below it what was assumed.

    Args:
        options: the command, without those options of which nothing is known.
        rewrites: what is written here, for those that have other names.
        program: what the options are given to, such as "train.py".
    """
    values = values_of(options)
    batch, task = _tuned_batch(options, values), _task(options, values)
    script = os.environ.get(COMMAND) if program == "train.py" else None
    launcher, words = [], []
    for option in options:
        if option in rewrites:
            launcher += rewrites[option].launcher
            words += rewrites[option].options if not (batch and option.name == "gradient_accumulation_steps") else ()
        elif not (script and option.name in _FROM_SCRIPT):
            words += (f"--{option.name}", *option.values)
    notes = []
    if task:
        words = ["--task", task, *words]
        notes.append(f"--task {task}: assumed; the others are in --help")
    if batch:
        words += ["--batch.global_size", str(batch), "--recipe.reference_batch_size", str(batch)]
        notes.append(
            f"the learning rate is taken to be for {batch} samples a step, which is what these options make here"
        )
    start = [*shlex.split(script)] if script else ["accelerate", "launch", *launcher, "train.py"]
    if program != "train.py":
        start = program.split()
    return "\n  ".join([_wrap([*start, *words]), *notes])


def _wrap(words: Sequence[str]) -> str:
    """A command, its lines parted in front of options as a shell reads them."""
    lines = [""]
    parts: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            parts.append([])
        parts[-1].append(word)
    for part in map(quote, parts):
        if len(lines[-1]) + len(part) > _WIDTH:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{part}"
    return " \\\n      ".join(lines)


def values_of(options: Iterable[Option]) -> dict[str, str]:
    """The values of all options, by their names without a section in front."""
    return {option.name.rpartition(".")[2]: " ".join(option.values) for option in options}


def quote(words: Iterable[str]) -> str:
    """Words as a shell reads them, in double quotes where any are needed and can be."""
    quoted = []
    for word in words:
        plain = shlex.quote(word)
        doubled = plain != word and not set(word) & set("\"'$`\\!\n")
        quoted.append(f'"{word}"' if doubled else plain)
    return " ".join(quoted)


def _tuned_batch(options: Sequence[Option], values: Mapping[str, str]) -> int | None:
    """The global batch size that the command's learning rate is for; None where it does not say, or a file does."""
    said = {"config", "preset", "recipe.reference_batch_size", "batch.global_size"}
    names = {option.name for option in options}
    if not ("learning_rate" in values or names & {"lr", "recipe.lr"}) or said & names:
        return None
    per_device = next((values[name] for name in _BATCH if name in values), "")
    accumulation = values.get("gradient_accumulation_steps", "1")
    if not (per_device.isdigit() and accumulation.isdigit()):
        return None
    return int(per_device) * int(accumulation) * int(os.environ.get("WORLD_SIZE", 1)) or None


def _task(options: Sequence[Option], values: Mapping[str, str]) -> str | None:
    """The task of the example script that the command is of; None where it is said, or there is no sign of it."""
    if {option.name for option in options} & {"task", "task_name", "config", "preset", "predict"}:
        return None
    for facts in TASKS.values():
        if any(name in values for name in facts.script_options):
            return facts.name
    if any(values.get("train_file", "").endswith(suffix) for suffix in (".csv", ".tsv", ".json")):
        return "classification"
    return None
