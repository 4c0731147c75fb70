"""How an option of another program becomes what is written here: the kinds of rows of the table in `other_names`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Rewrite(NamedTuple):
    """What is written here in place of an option of another program."""

    options: tuple[str, ...] = ()
    """Words for train.py; none if it is to be left out."""
    launcher: tuple[str, ...] = ()
    """Words for `accelerate launch`, which go before train.py."""
    note: str = ""
    """Why it is left out, or what else there is to know."""


Rule = Callable[[str, Mapping[str, str]], Rewrite]
"""Takes the option's value ("" for none) and the values of all options of the command by name."""


class OtherName(NamedTuple):
    """An option of another program."""

    example: str
    """A typical value, for the documentation; "" for an option that stands alone."""
    rule: Rule


def is_false(value: str) -> bool:
    """Whether the value of an option that may stand alone turns it off."""
    return value.lower() in ("false", "no", "0", "none")


def to_field(field: str, text: str = "{}", note: str = "") -> Rule:
    """A field here, with the value put into `text`."""
    return lambda value, given: Rewrite((f"--{field}", text.format(value)) if value else (f"--{field}",), note=note)


def to_fields(field: str) -> Rule:
    """A field here that takes several values, whose values may be parted by commas there."""
    return lambda value, given: Rewrite((f"--{field}", *value.replace(",", " ").split()))


def to_switch(field: str) -> Rule:
    """A field here that is false by default."""
    return lambda value, given: (
        Rewrite(note="off is the default") if is_false(value) else Rewrite((f"--{field}", "true"))
    )


def to_choice(field: str, values: Mapping[str, str], otherwise: str) -> Rule:
    """A field here by the value there; `otherwise` says what else there is."""

    def rule(value: str, given: Mapping[str, str]) -> Rewrite:
        return Rewrite((f"--{field}", values[value])) if value in values else Rewrite(note=otherwise)

    return rule


def to_launcher(option: str, value_there: str = "") -> Rule:
    """An option of `accelerate launch`, with a value of its own or the one that was given."""

    def rule(value: str, given: Mapping[str, str]) -> Rewrite:
        if value_there and is_false(value):
            return Rewrite(note="off unless the launcher says otherwise")
        return Rewrite(launcher=(f"--{option}", value_there or value))

    return rule


def to_nothing(note: str) -> Rule:
    """Nothing here: it is left out."""
    return lambda value, given: Rewrite(note=note)


def length(value: str, unit: str = "steps") -> str:
    """A number of steps or epochs as a duration; below 1 it is a fraction of the run, as in the Trainer."""
    if re.fullmatch(r"0?\.\d+", value) and unit == "steps":
        return percent(value)
    return f"{value.removesuffix('.0')} {unit}"


def percent(value: str) -> str:
    """A fraction as a percentage: 0.06 -> 6%."""
    try:
        return f"{float(value) * 100:g}%"
    except ValueError:
        return f"{value}%"
