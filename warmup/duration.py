"""Durations with a unit: "10000 steps", "5 epochs", "2.56M samples", "2B tokens", "6%". Exact Fractions, no floats."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from warmup.errors import PlanError, UserError, shorten

UNITS = ("steps", "epochs", "samples", "tokens", "%")
_MULTIPLIERS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_PATTERN = re.compile(r"\s*([0-9_]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,2})?)\s*([kKMGB]?)\s*([a-zA-Z%]+)\s*")
_MOST_CHARACTERS = 100
_HELP = 'write it like "10000 steps", "5 epochs", "2.56M samples", "2B tokens" or "6%"'


@dataclass(frozen=True)
class DataSize:
    """The size of a training set, which durations in epochs and in tokens are converted with."""

    num_samples: int | None = None
    """Samples of the training set, which is one epoch; None if it is not known, as for a stream."""
    tokens_per_sample: Fraction | None = None
    """Mean number of tokens in a sample, special tokens included; None if it is not known."""


@dataclass(frozen=True)
class Duration:
    """An amount of training."""

    value: Fraction
    """How many of `unit`."""
    unit: str
    """One of UNITS. Steps are steps at the reference batch size; % is relative to the duration of the run."""

    @classmethod
    def parse(cls, text: str, flag: str = "duration") -> Duration:
        """Parse a duration such as "5 epochs".

        Args:
            text: a non-negative number, optionally with a multiplier (k, M, G, B), and a unit.
            flag: the field that the text was given for, named in the error.

        Raises:
            UserError: `text` is not a duration.
        """
        match = _PATTERN.fullmatch(str(text))
        if not match or len(str(text)) > _MOST_CHARACTERS:
            raise UserError(f"{flag}: {shorten(text)} is not a duration; {_HELP}")
        number, multiplier, unit = match.groups()
        unit = unit + "s" if unit in ("step", "epoch", "sample", "token") else unit
        if unit not in UNITS:
            raise UserError(f"{flag}: {text!r} has the unknown unit {unit!r}; {_HELP}")
        return cls(Fraction(number.replace("_", "")) * _MULTIPLIERS[multiplier], unit)

    def samples(
        self,
        batch_size: int | None,
        data_size: DataSize,
        run_samples: Fraction | None,
        flag: str = "duration",
    ) -> Fraction:
        """Convert this duration to samples, which need not be a whole number.

        Args:
            batch_size: samples per step, for durations in steps.
            data_size: the size of the training set, for durations in epochs and tokens.
            run_samples: the duration of the run in samples, for durations in %.
            flag: the field that the duration was given for, named in the error.

        Raises:
            PlanError: the number that the unit needs is None.
        """
        tokens_per_sample = data_size.tokens_per_sample
        samples_per_unit, missing = {
            "steps": (batch_size, "recipe.reference_batch_size"),
            "epochs": (
                data_size.num_samples,
                "the number of training samples (--num-samples); it is not known for a stream: use steps, samples or "
                "tokens",
            ),
            "samples": (1, ""),
            "tokens": (
                tokens_per_sample and 1 / Fraction(tokens_per_sample),
                "the mean number of tokens per sample (--tokens-per-sample)",
            ),
            "%": (
                None if run_samples is None else run_samples / 100,
                "a duration that it is a percentage of; use steps, epochs or samples",
            ),
        }[self.unit]
        if samples_per_unit is None:
            raise PlanError("length-unknown", f'{flag}: "{self}" needs {missing}')
        return self.value * samples_per_unit

    def __str__(self) -> str:
        value = str(self.value) if self.value.denominator == 1 else f"{float(self.value):g}"
        return value + ("%" if self.unit == "%" else f" {self.unit}")


def round_half_up(value: Fraction) -> int:
    """The nearest integer, with halves rounded up (Python's `round` rounds halves to even)."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def seconds_text(seconds: float) -> str:
    """A time as a person says it: 45 s, 12 min 5 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
