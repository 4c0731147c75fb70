"""Checks and parsers that several sections of the configuration use."""

from __future__ import annotations

import math
import os

from warmup.duration import Duration
from warmup.errors import UserError, shorten

LARGEST_COUNT = 10**30
"""The largest number of ranks, samples or steps: far beyond what can be trained on, and still a finite float."""


def require(condition: bool, flag: str, value: object, expected: str) -> None:
    """Raise UserError unless `condition` holds.

    Args:
        condition: whether the value is valid.
        flag: the name of the field.
        value: what the user gave.
        expected: what would be valid, as in "1 or above".
    """
    if not condition:
        raise UserError(f"{flag}: {shorten(value)} is not {expected}")


def require_count(flag: str, value: int | None) -> None:
    """Raise UserError unless `value`, if there is one, is from 1 to LARGEST_COUNT. `flag` is the name of the field."""
    require(value is None or 1 <= value <= LARGEST_COUNT, flag, value, "1 or above, and at most 1e30")


def expand_home(config: object, *names: str) -> None:
    """Expand ~ in the named fields, which the shell does neither in YAML files nor after an equals sign."""
    for name in names:
        value = getattr(config, name)
        object.__setattr__(config, name, os.path.expanduser(value) if value else value)


def parse_seconds(text: str, flag: str) -> float:
    """The seconds of a time such as "90 minutes". Raises UserError, which names `flag`."""
    units = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
    number, _, unit = str(text).partition(" ")
    try:
        value = float(number) * units[unit.strip().rstrip("s")]
    except (KeyError, ValueError):
        raise UserError(f'{flag}: {text!r} is not a time; write it like "90 minutes" or "11.5 hours"') from None
    require(0 < value < math.inf, flag, text, "above 0")
    return value


def parse_interval(text: str, flag: str) -> Duration | float:
    """A duration such as "500 steps", or the seconds of a time such as "15 minutes". Raises UserError naming `flag`."""
    number, _, unit = str(text).strip().partition(" ")
    if unit.strip().rstrip("s") in ("second", "minute", "hour", "day"):
        return parse_seconds(text, flag)
    duration = Duration.parse(text, flag)
    require(duration.value > 0, flag, text, "above 0")
    return duration
