"""Warmup ramps and decays: the learning rate as a pure function of how much of the ramp or the decay is over.

A ramp is f(start, peak, fraction) and a decay is f(peak, end, fraction, warmup_fraction); start, peak, end are rates.
A fraction below 0 counts as 0, one above 1 as 1. `warmup_fraction` is W/T, the warmup as a fraction of the run; decays
that are positioned in the whole run need it. Fractions are floats or fractions.Fraction; the latter are exact, so that
no drop happens one step early or late.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

from warmup.errors import PlanError, one_line

Number = float | Fraction
Ramp = Callable[[float, float, Number], float]
Decay = Callable[[float, float, Number, Number], float]


def clamp(fraction: Number) -> Number:
    """The nearest number in 0..1."""
    return min(max(fraction, 0), 1)


# ---- ramps ----------------------------------------------------------------------------------------------------------


def linear_ramp(start: float, peak: float, fraction: Number) -> float:
    """start + x * (peak - start): gradual warmup of Goyal et al. 2017 (arXiv:1706.02677, section 2.2)."""
    x = clamp(fraction)
    return start * float(1 - x) + peak * float(x)  # exact at both ends


def exponential_ramp(start: float, peak: float, fraction: Number) -> float:
    """start * (peak / start)^x: the same factor every step. Raises ValueError unless start > 0 and peak > 0."""
    if start <= 0 or peak <= 0:
        raise ValueError(f"an exponential ramp needs rates above 0 at both ends, not {start} and {peak}")
    x = float(clamp(fraction))
    return start ** (1 - x) * peak**x


def cosine_ramp(start: float, peak: float, fraction: Number) -> float:
    """start + (1 - cos(pi x)) / 2 * (peak - start)."""
    return linear_ramp(start, peak, (1 - math.cos(math.pi * clamp(fraction))) / 2)


def constant_ramp(start: float, peak: float, fraction: Number) -> float:
    """start throughout, then a jump to the peak: the constant warmup of Goyal et al. 2017, section 2.2."""
    return start


def polynomial_ramp(start: float, peak: float, fraction: Number, power: float) -> float:
    """start + x^power * (peak - start)."""
    return linear_ramp(start, peak, float(clamp(fraction)) ** power)


# ---- decays ---------------------------------------------------------------------------------------------------------


def constant_decay(peak: float, end: float, fraction: Number, warmup_fraction: Number) -> float:
    """peak throughout."""
    return peak


def linear_decay(peak: float, end: float, fraction: Number, warmup_fraction: Number) -> float:
    """peak + x * (end - peak)."""
    return linear_ramp(peak, end, fraction)


def cosine_decay(peak: float, end: float, fraction: Number, warmup_fraction: Number, cycles: int = 1) -> float:
    """end + (1 + cos(pi x)) / 2 * (peak - end), repeated `cycles` times: SGDR's restarts (arXiv:1608.03983, eq. 5)."""
    x = clamp(fraction)
    return cosine_ramp(peak, end, 1 if x == 1 else (cycles * x) % 1)


def one_minus_sqrt_decay(peak: float, end: float, fraction: Number, warmup_fraction: Number) -> float:
    """end + (1 - sqrt(x)) * (peak - end): "1-sqrt" of Haegele et al. 2024 (arXiv:2405.18392, section 3)."""
    return linear_ramp(peak, end, math.sqrt(clamp(fraction)))


def polynomial_decay(peak: float, end: float, fraction: Number, warmup_fraction: Number, power: float) -> float:
    """end + (1 - x)^power * (peak - end)."""
    return linear_ramp(end, peak, float(1 - clamp(fraction)) ** power)


def step_decay(
    peak: float, end: float, fraction: Number, warmup_fraction: Number, length: Number, gamma: float
) -> float:
    """peak * gamma^n after n whole lengths, counted from step 0, never below end. `length` is a fraction of the run."""
    return max(end, peak * _power(gamma, int(_position(fraction, warmup_fraction) // length)))


def multistep_decay(
    peak: float, end: float, fraction: Number, warmup_fraction: Number, milestones: tuple[Number, ...], gamma: float
) -> float:
    """peak * gamma^n after n milestones, which are fractions of the run counted from step 0, never below end."""
    position = _position(fraction, warmup_fraction)
    return max(end, peak * _power(gamma, sum(position >= milestone for milestone in milestones)))


def exponential_decay(
    peak: float, end: float, fraction: Number, warmup_fraction: Number, length: Number | None, gamma: float
) -> float:
    """With a length (a fraction of the run): peak * gamma^(distance from the peak / length), never below end.

    Without one: peak * (end / peak)^x, which raises ValueError unless end > 0.
    """
    if length is None:
        return exponential_ramp(peak, end, fraction)
    return max(end, peak * _power(gamma, float(clamp(fraction) * (1 - warmup_fraction) / length)))


def inverse_sqrt_decay(
    peak: float, end: float, fraction: Number, warmup_fraction: Number, length: Number | None = None
) -> float:
    """peak * sqrt(W / s) (Vaswani et al. 2017, arXiv:1706.03762, eq. 3), never below end.

    `length` (a fraction of the run) replaces W as the time scale. Raises ValueError if both are 0.
    """
    length = length or warmup_fraction
    if length == 0:
        raise ValueError("an inverse square root decay needs a warmup or recipe.decay_length as its time scale")
    distance = clamp(fraction) * (1 - warmup_fraction)
    return max(end, peak * math.sqrt(length / (length + distance)))


def warmup_stable_decay(
    peak: float, end: float, fraction: Number, warmup_fraction: Number, length: Number, cooldown: str = "linear"
) -> float:
    """peak, then down to end over the last `length` (a fraction of the run; MiniCPM, arXiv:2404.06395, 4.2).

    `cooldown` is the shape of the way down, of `COOLDOWNS`.
    """
    start = 1 - length
    position = _position(fraction, warmup_fraction)
    return COOLDOWNS[cooldown](peak, end, (position - start) / length if position > start else 0, warmup_fraction)


def _power(base: float, exponent: float) -> float:
    """base^exponent, infinite if that is too large for a float (Python raises OverflowError instead)."""
    try:
        return base**exponent
    except OverflowError:
        return math.inf


def _position(fraction: Number, warmup_fraction: Number) -> Number:
    """The fraction of the whole run that is over when `fraction` of the decay is: 0 at step 0, 1 at the end."""
    return warmup_fraction + clamp(fraction) * (1 - warmup_fraction)


# ---- by name --------------------------------------------------------------------------------------------------------

RAMPS = {
    "linear": linear_ramp,
    "exponential": exponential_ramp,
    "cosine": cosine_ramp,
    "constant": constant_ramp,
    "polynomial": polynomial_ramp,
}
DECAYS = {
    "constant": constant_decay,
    "linear": linear_decay,
    "cosine": cosine_decay,
    "polynomial": polynomial_decay,
    "step": step_decay,
    "multistep": multistep_decay,
    "exponential": exponential_decay,
    "inverse_sqrt": inverse_sqrt_decay,
    "1-sqrt": one_minus_sqrt_decay,
    "wsd": warmup_stable_decay,
}
COOLDOWNS = {name: DECAYS[name] for name in ("linear", "cosine", "1-sqrt")}
"""The shapes that the end of a `wsd` decay can have."""


def find(name: str, table: dict[str, Callable[..., Any]], flag: str) -> Callable[..., Any]:
    """The function that a name stands for.

    Args:
        name: a key of `table`, or module:function for the user's own function.
        table: the built-in functions by name.
        flag: the field that the name was given for, named in the error.

    Returns:
        The function. The user's own raises PlanError, whatever it raised itself, and if it returns anything but a
        finite number of 0 or above.

    Raises:
        PlanError: there is no such function.
    """
    if ":" not in name:
        if name not in table:
            raise PlanError("shape", f"{flag}: {name!r} is none of {', '.join(table)}, nor module:function")
        return table[name]
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # importing a module of the user's runs it
        raise PlanError("shape", f"{flag}: {name!r} cannot be imported: {one_line(error)}") from error
    if not callable(function):
        raise PlanError("shape", f"{flag}: {name!r} is not a function")
    return partial(_call, function, f"{flag}: {name!r}")


def _call(function: Callable[..., Any], name: str, *args: Number) -> float:
    """Call a user's function.

    Args:
        function: what the user named.
        name: the field and the name that it has there, for the error.
        *args: the function's arguments.

    Raises:
        PlanError: it raised anything, even SystemExit, or returned no rate or factor.
    """
    try:
        value = function(*args)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PlanError("shape", f"{name} failed: {type(error).__name__}: {one_line(error)}") from error
    try:
        number = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except Exception:  # anything that is no number
        number = math.nan
    if not 0 <= number < math.inf:
        text = one_line(ValueError(_text_of(value)), 80)
        raise PlanError("shape", f"{name} returned {text}, not a finite number of 0 or above")
    return number


def _text_of(value: object) -> str:
    """How a value is written in Python; the name of its type if it cannot be written."""
    try:
        return repr(value)
    except Exception:
        return type(value).__name__


def ramp(name: str, power: float) -> Ramp:
    """The ramp of that name. `power` is the exponent of the polynomial ramp."""
    function = find(name, RAMPS, "recipe.ramp")
    return partial(function, power=power) if name == "polynomial" else function


def decay(name: str, **parameters: object) -> Decay:
    """The decay of that name, with those of `parameters` that it takes.

    They are cycles, power, length, milestones, gamma and cooldown.
    """
    function = find(name, DECAYS, "recipe.decay")
    accepted = {
        "cosine": ("cycles",),
        "polynomial": ("power",),
        "step": ("length", "gamma"),
        "multistep": ("milestones", "gamma"),
        "exponential": ("length", "gamma"),
        "inverse_sqrt": ("length",),
        "wsd": ("length", "cooldown"),
    }.get(name, ())
    return partial(function, **{key: parameters[key] for key in accepted}) if accepted else function
