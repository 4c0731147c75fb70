"""Warmup ramps and decays: pure functions of a fraction.

A ramp is f(start, peak, fraction), a decay f(peak, end, fraction, warmup_fraction); both clamp outside 0..1.
`warmup_fraction` is W/T, the part of the run that the warmup took: it places the fraction of the decay in the run.
Fractions may be floats or fractions.Fraction; with the latter, steps fall exactly where they should.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import partial

Ramp = Callable[[float, float, float], float]
Decay = Callable[[float, float, float, float], float]


def clamp(fraction: float) -> float:
    return min(max(fraction, 0), 1)


# ---- ramps ----------------------------------------------------------------------------------------------------------


def linear_ramp(start: float, peak: float, fraction: float) -> float:
    """start + x * (peak - start): gradual warmup of Goyal et al. 2017 (arXiv:1706.02677, section 2.2)."""
    x = clamp(fraction)
    return start * float(1 - x) + peak * float(x)  # exact at both ends


def exponential_ramp(start: float, peak: float, fraction: float) -> float:
    """start * (peak / start)^x: the same factor every step. Raises ValueError unless start > 0 and peak > 0."""
    if start <= 0 or peak <= 0:
        raise ValueError(f"an exponential ramp goes from a rate above 0 to a rate above 0, not from {start} to {peak}")
    x = float(clamp(fraction))
    return start ** (1 - x) * peak**x


def cosine_ramp(start: float, peak: float, fraction: float) -> float:
    """start + (1 - cos(pi x)) / 2 * (peak - start)."""
    return linear_ramp(start, peak, (1 - math.cos(math.pi * clamp(fraction))) / 2)


def constant_ramp(start: float, peak: float, fraction: float) -> float:
    """start throughout, then a jump to the peak: constant warmup of Goyal et al. 2017, section 2.2."""
    return start


def polynomial_ramp(start: float, peak: float, fraction: float, power: float) -> float:
    """start + x^power * (peak - start)."""
    return linear_ramp(start, peak, float(clamp(fraction)) ** power)


# ---- decays ---------------------------------------------------------------------------------------------------------


def constant_decay(peak: float, end: float, fraction: float, warmup_fraction: float) -> float:
    """peak throughout."""
    return peak


def linear_decay(peak: float, end: float, fraction: float, warmup_fraction: float) -> float:
    """peak + x * (end - peak)."""
    return linear_ramp(peak, end, fraction)


def cosine_decay(peak: float, end: float, fraction: float, warmup_fraction: float, cycles: int = 1) -> float:
    """end + (1 + cos(pi x)) / 2 * (peak - end), `cycles` times over: SGDR's restarts (arXiv:1608.03983, eq. 5)."""
    x = clamp(fraction)
    return cosine_ramp(peak, end, 1 if x == 1 else (cycles * x) % 1)


def polynomial_decay(peak: float, end: float, fraction: float, warmup_fraction: float, power: float) -> float:
    """end + (1 - x)^power * (peak - end)."""
    return linear_ramp(end, peak, float(1 - clamp(fraction)) ** power)


def step_decay(peak: float, end: float, fraction: float, warmup_fraction: float, length: float, gamma: float) -> float:
    """peak * gamma^n after n whole lengths (a part of the run each, counted from step 0), never below end."""
    return max(end, peak * gamma ** int(_position(fraction, warmup_fraction) // length))


def multistep_decay(
    peak: float, end: float, fraction: float, warmup_fraction: float, milestones: tuple[float, ...], gamma: float
) -> float:
    """peak * gamma^n after n milestones (parts of the run, counted from step 0), never below end."""
    position = _position(fraction, warmup_fraction)
    return max(end, peak * gamma ** sum(position >= milestone for milestone in milestones))


def exponential_decay(
    peak: float, end: float, fraction: float, warmup_fraction: float, length: float | None, gamma: float
) -> float:
    """With a length (a part of the run): peak * gamma^(distance from the peak / length), never below end.

    Without: peak * (end / peak)^x, which needs end > 0 and raises ValueError otherwise.
    """
    if length is None:
        return exponential_ramp(peak, end, fraction)
    return max(end, peak * gamma ** float(clamp(fraction) * (1 - warmup_fraction) / length))


def inverse_sqrt_decay(
    peak: float, end: float, fraction: float, warmup_fraction: float, length: float | None = None
) -> float:
    """peak * sqrt(W / s) (Vaswani et al. 2017, arXiv:1706.03762, eq. 3), never below end.

    `length` (a part of the run) takes the place of W as the time scale. Raises ValueError where both are 0.
    """
    length = length or warmup_fraction
    if length == 0:
        raise ValueError("an inverse square root decay needs a warmup or recipe.decay_length as its time scale")
    distance = clamp(fraction) * (1 - warmup_fraction)
    return max(end, peak * math.sqrt(length / (length + distance)))


def warmup_stable_decay(peak: float, end: float, fraction: float, warmup_fraction: float, length: float) -> float:
    """peak until `length` (a part of the run) before the end, then linear to end (MiniCPM, arXiv:2404.06395, 4.2)."""
    start = 1 - length
    position = _position(fraction, warmup_fraction)
    return linear_ramp(peak, end, (position - start) / length if position > start else 0)


def _position(fraction: float, warmup_fraction: float) -> float:
    """Where in the whole run a fraction of the decay is: 0 at step 0, 1 at the end."""
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
    "wsd": warmup_stable_decay,
}


def find(name: str, table: dict[str, Callable], flag: str) -> Callable:
    """The function `name` stands for: one of the table's, or the user's own, written as module:function.

    Raises ValueError, naming `flag`, where there is none.
    """
    if ":" not in name:
        if name not in table:
            raise ValueError(f"{flag}: {name!r} is none of {', '.join(table)}, nor module:function")
        return table[name]
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{flag}: {name!r} cannot be imported: {error}") from error


def ramp(name: str, power: float) -> Ramp:
    """The ramp of that name; `power` is for the polynomial one."""
    function = find(name, RAMPS, "recipe.ramp")
    return partial(function, power=power) if name == "polynomial" else function


def decay(name: str, **parameters: object) -> Decay:
    """The decay of that name, given those of `parameters` that it takes (cycles, power, length, milestones, gamma)."""
    function = find(name, DECAYS, "recipe.decay")
    taken = {
        "cosine": ("cycles",),
        "polynomial": ("power",),
        "step": ("length", "gamma"),
        "multistep": ("milestones", "gamma"),
        "exponential": ("length", "gamma"),
        "inverse_sqrt": ("length",),
        "wsd": ("length",),
    }.get(name, ())
    return partial(function, **{key: parameters[key] for key in taken}) if taken else function
