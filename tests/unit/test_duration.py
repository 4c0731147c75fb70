"""Durations with a unit: exact numbers, and errors that name the flag."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmup.duration import UNITS, DataSize, Duration, round_half_up
from warmup.errors import PlanError, UserError


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("10000 steps", 10_000, "steps"),
        ("1 step", 1, "steps"),
        ("5 epochs", 5, "epochs"),
        ("1 epoch", 1, "epochs"),
        ("0.5 epochs", Fraction(1, 2), "epochs"),
        (".5epochs", Fraction(1, 2), "epochs"),
        ("2.56M samples", 2_560_000, "samples"),
        ("3 sample", 3, "samples"),
        ("32k samples", 32_000, "samples"),
        ("32K samples", 32_000, "samples"),
        ("1G samples", 10**9, "samples"),
        ("1.5 Bsamples", 1_500_000_000, "samples"),
        ("2B tokens", 2 * 10**9, "tokens"),
        ("300M token", 300 * 10**6, "tokens"),
        ("6%", 6, "%"),
        (" 0.1 % ", Fraction(1, 10), "%"),
        ("1_000_000 steps", 10**6, "steps"),
        ("1e6 steps", 10**6, "steps"),
        ("2.5E-1 epochs", Fraction(1, 4), "epochs"),
        ("0 steps", 0, "steps"),
    ],
)
def test_a_number_a_multiplier_and_a_unit(text, value, unit):
    assert Duration.parse(text) == Duration(Fraction(value), unit)


@given(st.integers(0, 10**12), st.integers(0, 999), st.sampled_from("kMGB"), st.sampled_from(UNITS))
def test_decimals_stay_exact(whole, thousandths, multiplier, unit):
    """0.1 is a tenth, not the float nearest to it."""
    power = {"k": 3, "M": 6, "G": 9, "B": 9}[multiplier]
    value = Fraction(1000 * whole + thousandths, 1000) * 10**power
    assert Duration.parse(f"{whole}.{thousandths:03d}{multiplier} {unit}") == Duration(value, unit)


@pytest.mark.parametrize(
    "text",
    ["100", "", "steps", "%", "-5 steps", "-0.1%", "nan steps", "inf samples", "1,000 steps", "5 steps 6", "1..5%"],
)
def test_invalid_durations_are_refused_with_their_flag_and_an_example(text):
    with pytest.raises(UserError) as caught:
        Duration.parse(text, "recipe.warmup")
    message = str(caught.value)
    assert message.startswith(f"recipe.warmup: {text!r} ") and '"10000 steps"' in message and "\n" not in message


@pytest.mark.parametrize(("text", "unit"), [("6 percent", "percent"), ("5 parsecs", "parsecs"), ("5 Epochs", "Epochs")])
def test_an_unknown_unit_is_named(text, unit):
    message = f"recipe.warmup: '{text}' has the unknown unit '{unit}'; write it like"
    with pytest.raises(UserError, match=message) as caught:
        Duration.parse(text, "recipe.warmup")
    assert '"6%"' in str(caught.value)


def test_a_huge_exponent_is_refused_instead_of_computed():
    """10 ** 999999999 has a billion digits."""
    with pytest.raises(UserError, match="recipe.duration: '1e999999999 steps' is not a duration"):
        Duration.parse("1e999999999 steps", "recipe.duration")


@pytest.mark.parametrize(
    ("text", "samples"),
    [
        ("10 steps", 10 * 256),
        ("0.5 steps", 128),
        ("1.5 epochs", Fraction(3, 2) * 1001),
        ("77 samples", 77),
        ("6%", Fraction(6, 100) * 12_345),
        ("0.001%", Fraction(12_345, 100_000)),
        ("7 tokens", Fraction(7 * 3, 100)),
    ],
)
def test_in_samples_at_the_reference(text, samples):
    assert Duration.parse(text).samples(256, DataSize(1001, Fraction(100, 3)), Fraction(12_345)) == samples


@pytest.mark.parametrize(
    ("text", "arguments", "needed"),
    [
        ("5 steps", (None, DataSize(1), Fraction(1)), "recipe.reference_batch_size"),
        ("5 epochs", (1, DataSize(), Fraction(1)), "--num-samples"),
        ("5%", (1, DataSize(1), None), "a duration that it is a percentage of"),
        ("5 tokens", (1, DataSize(1), None), "--tokens-per-sample"),
    ],
)
def test_a_unit_that_cannot_be_resolved_says_what_it_needs(text, arguments, needed):
    with pytest.raises(PlanError) as caught:
        Duration.parse(text).samples(*arguments, "recipe.warmup")
    assert caught.value.code == "length-unknown"
    assert str(caught.value).startswith(f'recipe.warmup: "{text}" needs ') and needed in str(caught.value)


def test_samples_need_nothing():
    assert Duration.parse("2.5k samples").samples(None, DataSize(), None) == 2500


@given(st.integers(0, 10**15), st.sampled_from(UNITS))
def test_what_is_printed_can_be_read_again(number, unit):
    duration = Duration(Fraction(number), unit)
    assert Duration.parse(str(duration)) == duration


def test_fractions_print_as_decimals():
    assert str(Duration.parse("2.5 epochs")) == "2.5 epochs" and str(Duration.parse("0.1%")) == "0.1%"


@pytest.mark.parametrize(
    ("value", "rounded"),
    [("1/2", 1), ("3/2", 2), ("5/2", 3), ("7/2", 4), ("0", 0), ("1/3", 0), ("2/3", 1), ("-1/2", 0), ("-3/2", -1)],
)
def test_halves_go_up(value, rounded):
    """Python's round() gives 0, 2, 2, 4 for the first four."""
    assert round_half_up(Fraction(value)) == rounded


@given(st.fractions())
def test_rounding_is_to_the_nearest(value):
    assert value - Fraction(1, 2) < round_half_up(value) <= value + Fraction(1, 2)


@given(st.integers(0, 10**30))
def test_rounding_is_exact_where_floats_are_not(number):
    tiny = Fraction(1, 10**40)
    assert round_half_up(number + Fraction(1, 2)) == number + 1
    assert round_half_up(number + Fraction(1, 2) - tiny) == number
