"""Durations with a unit: "10000 steps", "5 epochs", "2.56M samples", "2B tokens", "6%". Exact Fractions, no floats."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

UNITS = ("steps", "epochs", "samples", "tokens", "%")
_MULTIPLIERS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_PATTERN = re.compile(r"\s*([0-9_]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,2})?)\s*([kKMGB]?)\s*([a-zA-Z%]+)\s*")
_HELP = 'write it like "10000 steps", "5 epochs", "2.56M samples", "2B tokens" or "6%"'


@dataclass(frozen=True)
class Duration:
    """An amount of training in one of UNITS. Steps are steps of the reference batch, % is of the run's duration."""

    value: Fraction
    unit: str

    @classmethod
    def parse(cls, text: str, flag: str = "duration") -> Duration:
        """Read `text`. Raises ValueError, naming `flag`, where it is not a non-negative number with a unit."""
        match = _PATTERN.fullmatch(str(text))
        if not match:
            raise ValueError(f"{flag}: {text!r} is not a duration; {_HELP}")
        number, multiplier, unit = match.groups()
        unit = unit + "s" if unit in ("step", "epoch", "sample", "token") else unit
        if unit not in UNITS:
            raise ValueError(f"{flag}: {text!r} has the unit {unit!r}; {_HELP}")
        return cls(Fraction(number.replace("_", "")) * _MULTIPLIERS[multiplier], unit)

    def samples(
        self,
        reference_batch_size: int | None,
        num_samples: int | None,
        whole: Fraction | None,
        flag: str = "duration",
        tokens_per_sample: Fraction | None = None,
    ) -> Fraction:
        """This duration in samples, at the reference batch size, in a training set of `num_samples` that have
        `tokens_per_sample` on average.

        `whole` is the run's duration in samples, which a percentage is of. Raises ValueError where what the unit
        needs is None.
        """
        needs = {
            "steps": (reference_batch_size, "recipe.reference_batch_size"),
            "epochs": (
                num_samples,
                "the number of training samples (--num-samples); of a stream it is not known: use steps, samples or "
                "tokens",
            ),
            "samples": (1, ""),
            "tokens": (
                tokens_per_sample and 1 / Fraction(tokens_per_sample),
                "the mean number of tokens in a sample (--tokens-per-sample)",
            ),
            "%": (None if whole is None else whole / 100, "a duration to be a part of; use steps, epochs or samples"),
        }
        unit_samples, name = needs[self.unit]
        if unit_samples is None:
            raise ValueError(f'{flag}: "{self}" needs {name}')
        return self.value * unit_samples

    def __str__(self) -> str:
        value = str(self.value) if self.value.denominator == 1 else f"{float(self.value):g}"
        return value + ("%" if self.unit == "%" else f" {self.unit}")


def round_half_up(value: Fraction) -> int:
    """The nearest integer, halves upwards (Python's round() takes halves to even)."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
