"""Configuration: what is refused, with a message that names its flag."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest

from warmup.config import Config
from warmup.config.checks import parse_interval, parse_seconds
from warmup.config.data import Data
from warmup.config.recipe import Recipe
from warmup.config.run import Batch, Checkpoint, Elastic, Evaluation, Launch, Log
from warmup.duration import Duration
from warmup.errors import UserError

ABOVE_ZERO = ("lr", "max_lr", "ramp_power", "decay_power", "decay_gamma", "eps")
ZERO_OR_ABOVE = ("end_lr", "weight_decay", "max_grad_norm", "start_lr")


def refusal(cls, **fields):
    with pytest.raises(UserError) as caught:
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
def test_coefficients_of_moving_averages_are_below_one(name, value):
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
        (Launch, "launch.", "start_timeout", 1),
        (Checkpoint, "checkpoint.", "keep", 2),
        (Log, "log.", "every", 1),
        (Evaluation, "evaluation.", "patience", 1),
    ],
)
def test_counts_have_a_lowest_value(cls, prefix, name, lowest):
    assert refusal(cls, **{name: lowest - 1}).startswith(f"{prefix}{name}: {lowest - 1} is not {lowest}")
    others = {"every": "1 steps"} if name == "patience" else {}
    assert getattr(cls(**{name: lowest}, **others), name) == lowest


@pytest.mark.parametrize("name", ["validation_fraction", "mask_rate"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, math.nan])
def test_fractions_are_between_zero_and_one(name, value):
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
    assert refusal(Recipe, start_lr="low") == "recipe.start_lr: 'low' is not 0 or above, or 'reference'"
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
    assert parse_seconds(text, "time_limit") == value
    assert Config(time_limit=text).time_limit == text


@pytest.mark.parametrize(
    "text", ["90", "minutes", "90min", "2 fortnights", "", "-1 hours", "0 hours", "nan hours", "inf hours"]
)
def test_invalid_times_are_refused_with_their_flag(text):
    assert refusal(Config, time_limit=text).startswith(f"time_limit: {text!r} is not ")


# Checkpoints and changes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("15 minutes", 900.0),
        ("1 hour", 3600.0),
        ("0.5 days", 43_200.0),
        ("500 steps", Duration(Fraction(500), "steps")),
        ("0.5 epochs", Duration(Fraction(1, 2), "epochs")),
        ("1M samples", Duration(Fraction(10**6), "samples")),
        ("10%", Duration(Fraction(10), "%")),
        (" 10 % ", Duration(Fraction(10), "%")),
    ],
)
def test_an_interval_is_of_training_or_of_time(text, value):
    """Seconds are floats, so that the two can be told apart."""
    interval = parse_interval(text, "checkpoint.every")
    assert interval == value and type(interval) is type(value)
    assert Checkpoint(every=text).every == text


@pytest.mark.parametrize(
    "text",
    ["15", "minutes", "", "often", "0 steps", "0%", "0 minutes", "-1 minutes", "-5 steps", "nan hours", "5 weeks"],
)
def test_invalid_intervals_are_refused_with_their_flag(text):
    assert refusal(Checkpoint, every=text).startswith(f"checkpoint.every: {text!r} ")
    with pytest.raises(UserError, match="^log.other: "):
        parse_interval(text, "log.other")


@pytest.mark.parametrize(
    ("every", "kept"),
    [
        (200, "200 steps"),
        ("200", "200 steps"),
        (" 7 ", "7 steps"),
        ("1 epochs", "1 epochs"),
        ("10%", "10%"),
        (None, None),
    ],
)
def test_evaluations_may_be_given_as_a_number_of_steps(every, kept):
    assert Evaluation(every=every).every == kept


@pytest.mark.parametrize("every", [0, -5, "0", "0%", "1.5", "often", ""])
def test_invalid_intervals_of_evaluations_are_refused(every):
    assert refusal(Evaluation, every=every).startswith("evaluation.every: ")


def test_evaluations_are_not_scheduled_by_time():
    assert refusal(Evaluation, every="15 minutes") == (
        "evaluation.every: '15 minutes' is a time, which would make the evaluations depend on the hardware; give "
        "steps, epochs, samples, tokens or %"
    )


def test_checkpoints_may_be_made_at_the_end_alone():
    assert Checkpoint(every=None).every is None
    assert refusal(Checkpoint, keep=1) == "checkpoint.keep: 1 is not 2 or above (one may be damaged)"


@pytest.mark.parametrize("text", ["5 minutes", "100", "-1 steps", ""])
def test_a_rewarm_is_a_length_of_training(text):
    assert refusal(Elastic, rewarm=text).startswith(f"elastic.rewarm: {text!r} ")
    assert Elastic(rewarm="1%").rewarm == "1%"


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_the_score_of_a_spike_is_zero_or_above(value):
    assert refusal(Log, spike_score=value).startswith(f"log.spike_score: {value!r} is not 0 or above")
    assert Log(spike_score=0.0).spike_score == 0.0


@pytest.mark.parametrize("value", ["bert", "ada/", "/bert", "a/b/c", "ada/my bert", "https://huggingface.co/ada/bert"])
def test_a_repository_of_the_hub(value):
    assert refusal(Log, push_to_hub=value) == f"log.push_to_hub: {value!r} is not a hub repository: user/name"
    assert Log(push_to_hub="ada/bert-1.0_x").push_to_hub == "ada/bert-1.0_x"


def test_the_time_limit_is_not_part_of_the_launch_section():
    assert "time_limit" not in {field.name for field in dataclasses.fields(Launch)}
    assert (
        Config().time_limit is None and refusal(Config, time_limit="0 hours") == "time_limit: '0 hours' is not above 0"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_columns": ("toxic", "Toxic ")}, "data.label_columns: names 'toxic' twice; name each column once"),
        ({"choice_columns": ("a",), "choice_column": "b"}, "data.choice_column: data.choice_columns is given too"),
        ({"label_columns": ("a",), "label_column": "b"}, "data.label_column: data.label_columns is given too"),
        ({"label_columns": ("a",), "label_names": "x.txt"}, "data.label_names: data.label_columns names the labels"),
    ],
)
def test_columns_that_are_named_twice(fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        Data(**fields)
