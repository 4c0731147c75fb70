"""The words of a command line -> options with their values -> the tokens that jsonargparse takes."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from warmup.commandline.fields import FIELDS, SWITCHES
from warmup.errors import UserError

_ASSIGNMENT = re.compile(r"\+{0,2}([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)  # Hydra's overrides: recipe.lr=5e-5
_TRUTH = {"true": "true", "yes": "true", "on": "true", "1": "true", "false": "false", "no": "false", "off": "false"}
_TRUTH |= {"0": "false"}


class Option(NamedTuple):
    """An option as it was typed."""

    name: str
    """Without the hyphens in front, and with underscores for those inside."""
    values: tuple[str, ...] = ()


def read_options(argv: Sequence[str], lists: Collection[str]) -> list[Option]:
    """Split a command line into options: `--name value`, `--name=value`, `--name value value`, `name=value`.

    Args:
        argv: the arguments as given.
        lists: the names of options that take several values.

    Raises:
        UserError: a word that belongs to no option.
    """
    options: list[Option] = []
    index = 0
    while index < len(argv):
        word = argv[index]
        index += 1
        if word in ("-h", "--help"):
            options.append(Option("help"))
            continue
        assignment = _ASSIGNMENT.fullmatch(word)
        if not word.startswith("--") and not assignment:
            raise UserError(f"{word!r}: not an option; {_instead(word)}")
        name, equals, value = (word.lstrip("+") if assignment else word[2:]).partition("=")
        name = name.replace("-", "_")
        values = [value] if equals else []
        while index < len(argv) and not _begins_option(argv[index], name, values, lists):
            values.append(argv[index])
            index += 1
        options.append(Option(name, tuple(values)))
    return options


def _instead(word: str) -> str:
    if word.endswith((".yaml", ".yml")):
        return f"a file of fields is given as --config {word}"
    return "options are written --name value"


def _begins_option(word: str, name: str, values: Sequence[str], lists: Collection[str]) -> bool:
    """Whether a word after the option `name` and some of its values begins the next option."""
    if word.startswith("--"):
        return True
    assignment = _ASSIGNMENT.fullmatch(word)
    if not assignment:
        return False
    other = assignment.group(1).replace("-", "_")
    if "." in other and other in FIELDS:
        return bool(values) or name in SWITCHES
    return name not in lists and bool(values)  # classifier=10 is a value of recipe.lr_ratios


def tokens_of(option: Option, lists: Collection[str]) -> list[str]:
    """An option of a known name as tokens of the form --name=value, several values as one JSON list.

    Args:
        option: the option.
        lists: the names of options that take several values.

    Raises:
        UserError: it has more than one value and takes one.
    """
    name, values = option
    if name in lists:
        only = values[0] if len(values) == 1 else ""
        return [f"--{name}={only if only.startswith('[') else json.dumps(split_values(values))}"]
    if len(values) > 1:
        raise UserError(f"{name}: takes one value, not {len(values)}: {' '.join(values)}")
    if name in SWITCHES:
        word = values[0] if values else "true"
        return [f"--{name}={_TRUTH.get(word.lower(), word)}"]
    return [f"--{name}={values[0]}"] if values else [f"--{name}"]


def split_values(values: Sequence[str]) -> list[str]:
    """The values of a list: a JSON list, or those that blanks and commas part.

    A file with a comma in its name is not parted, nor a text with a blank behind the comma.
    """
    if len(values) == 1 and values[0].startswith("["):
        with suppress(ValueError):
            return [str(value) for value in json.loads(values[0])]
    parts: list[str] = []
    for value in values:
        parts += [value] if "," not in value or Path(value).exists() else re.split(r",(?=\S)", value)
    return parts
