"""Configuration: what is refused, and that the refusal names its flag."""

from __future__ import annotations

import dataclasses
import math

import pytest

from warmup.config import Batch, Config, Data, Launch, Log, Recipe, seconds

ABOVE_ZERO = ("lr", "max_lr", "ramp_power", "decay_power", "decay_gamma", "eps")
ZERO_OR_ABOVE = ("end_lr", "weight_decay", "max_grad_norm", "start_lr")


def refusal(cls, **fields):
    with pytest.raises(ValueError) as caught:
        cls(**fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ABOVE_ZERO)
@pytest.mark.parametrize("value", [0.0, -1e-4, math.nan, math.inf, -math.inf])
def test_rates_and_powers_are_above_zero(name, value):
    assert refusal(Recipe, **{name: value}) == f"recipe.{name}: {value!r} is not above 0"


@pytest.mark.parametrize("name", ZERO_OR_ABOVE)
@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, -math.inf])
def test_others_may_be_zero(name, value):
    assert refusal(Recipe, **{name: value}).startswith(f"recipe.{name}: {value!r} is not 0")
    assert getattr(Recipe(**{name: 0.0}), name) == 0.0


@pytest.mark.parametrize("name", ["betas", "momentum", "alpha"])
@pytest.mark.parametrize("value", [1.0, -0.1, 1.5, math.nan, math.inf])
def test_averages_have_a_coefficient_below_one(name, value):
    given = {name: (0.9, value) if name == "betas" else value}
    assert refusal(Recipe, **given).startswith(f"recipe.{name}: {value!r} is not in 0 <= ")
    if name == "betas":
        assert refusal(Recipe, betas=(value, 0.9)).startswith(f"recipe.betas: {value!r} ")


@pytest.mark.parametrize(
    ("cls", "prefix", "name", "lowest"),
    [
        *((Recipe, "recipe.", name, 1) for name in ("reference_batch_size", "decay_cycles", "max_skipped")),
        *((Batch, "batch.", name, 1) for name in ("per_device", "accumulation", "global_size", "evaluation")),
        (Data, "data.", "max_length", 4),
        (Data, "data.", "vocab_size", 100),
        (Data, "data.", "max_bad_rows", 0),
        (Launch, "launch.", "world_size", 1),
        (Launch, "launch.", "timeout", 1),
        (Log, "log.", "every", 1),
        (Log, "log.", "evaluate_every", 1),
    ],
)
def test_counts_have_a_lowest_value(cls, prefix, name, lowest):
    assert refusal(cls, **{name: lowest - 1}).startswith(f"{prefix}{name}: {lowest - 1} is not {lowest}")
    assert getattr(cls(**{name: lowest}), name) == lowest


@pytest.mark.parametrize("name", ["validation_fraction", "mask_rate"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, math.nan])
def test_parts_are_between_zero_and_one(name, value):
    assert refusal(Data, **{name: value}) == f"data.{name}: {value!r} is not in 0 < x < 1"


@pytest.mark.parametrize("value", [1.0, -0.1, math.nan])
def test_dropout_is_below_one(value):
    assert refusal(Config, dropout=value).startswith(f"dropout: {value!r} is not in")
    assert Config(dropout=0.0).dropout == 0.0


@pytest.mark.parametrize("value", [-1, 2**63])
def test_the_seed_fits_torch(value):
    assert refusal(Config, seed=value).startswith(f"seed: {value} is not")
    assert Config(seed=2**63 - 1).seed == 2**63 - 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("warmup", "6 percent"),
        ("warmup", "100"),
        ("duration", "-5 steps"),
        ("duration", "5 parsecs"),
        ("decay_length", "long"),
        ("decay_milestones", ("30 epochs", "sixty epochs")),
    ],
)
def test_lengths_are_read_at_once(name, value):
    assert refusal(Recipe, **{name: value}).startswith(f"recipe.{name}: ")


@pytest.mark.parametrize("name", ["duration", "decay_length"])
def test_some_lengths_are_not_zero_and_a_warmup_may_be(name):
    assert refusal(Recipe, **{name: "0 steps"}) == f"recipe.{name}: '0 steps' is not above 0"
    assert Recipe(warmup="0%").warmup == "0%"


def test_start_lr_is_a_number_or_reference():
    assert refusal(Recipe, start_lr="low") == "recipe.start_lr: 'low' is not 0, above, or 'reference'"
    assert Recipe(start_lr="reference").start_lr == "reference"


def test_accumulation_and_global_size_are_two_ways_to_say_one_thing():
    message = refusal(Batch, accumulation=2, global_size=64)
    assert "batch.accumulation" in message and "batch.global_size" in message and "give one" in message


def test_lists_become_tuples_so_that_configurations_compare_and_hash():
    recipe = Recipe(decay_milestones=["30 epochs"], betas=[0.9, 0.98])
    assert (recipe.decay_milestones, recipe.betas) == (("30 epochs",), (0.9, 0.98))
    lists = Config(data=Data(train_files=["a.csv"], validation_files=["b.csv"]), log=Log(trackers=["wandb"]))
    tuples = Config(data=Data(train_files=("a.csv",), validation_files=("b.csv",)), log=Log(trackers=("wandb",)))
    assert lists == tuples and hash(lists) == hash(tuples)


def test_a_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().lr = 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90 minutes", 5400),
        ("1 minute", 60),
        ("11.5 hours", 41_400),
        ("30 seconds", 30),
        ("2 days", 172_800),
        ("1 day", 86_400),
    ],
)
def test_times_in_seconds(text, value):
    assert seconds(text, "launch.time_limit") == value
    assert Launch(time_limit=text).time_limit == text


@pytest.mark.parametrize(
    "text", ["90", "minutes", "90min", "2 fortnights", "", "-1 hours", "0 hours", "nan hours", "inf hours"]
)
def test_what_is_no_time_is_refused_with_its_flag(text):
    assert refusal(Launch, time_limit=text).startswith(f"launch.time_limit: {text!r} is not ")
