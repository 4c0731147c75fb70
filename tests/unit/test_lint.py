"""The linter: the code, level and advice of each finding, and that a healthy plan has none."""

from __future__ import annotations

import pytest

from warmup.config.recipe import Recipe
from warmup.config.run import Batch
from warmup.lint import Finding, examine, lint
from warmup.plan import Topology
from warmup.planning import make_plan

HEALTHY = {"reference_batch_size": 32, "warmup": "100 steps", "duration": "1000 steps"}


def examined(topology=Topology(1, 32), num_samples=10_000, **recipe):  # noqa: B008
    return examine(Recipe(**{**HEALTHY, **recipe}), topology, num_samples)


def codes(*arguments, **recipe):
    return [(finding.code, finding.level) for finding in examined(*arguments, **recipe)[1]]


@pytest.mark.parametrize("topology", [Topology(1, 32), Topology(2, 16, 2), Topology(8, 32), Topology(1, 1)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_healthy_plan_has_no_finding(topology, optimizer):
    plan, findings = examined(topology, 10_000, optimizer=optimizer)
    assert findings == []
    assert plan == make_plan(Recipe(optimizer=optimizer, **HEALTHY), topology, 10_000)


@pytest.mark.parametrize(
    ("code", "recipe", "advice"),
    [
        ("reference-missing", {"reference_batch_size": None}, "recipe.scaling: none"),
        ("length-unknown", {"decay": "step"}, "recipe.decay_length"),
        ("start-above-peak", {"start_lr": 1.0}, "start lower"),
        ("end-above-peak", {"end_lr": 1.0}, "end lower"),
        ("ramp-from-zero", {"ramp": "exponential"}, "give a rate above 0"),
        ("decay-to-zero", {"decay": "exponential"}, "recipe.decay_length"),
        ("beta-range", {"beta_scaling": "sde", "reference_batch_size": 2}, "half-life"),
        ("rules-conflict", {"scaled": "all", "scaling": "none"}, "leave it out"),
        ("noise-scale-missing", {"scaling": "noise"}, "recipe.scaling: auto"),
        ("decay-rule", {"optimizer": "adam", "weight_decay_scaling": "timescale"}, "use none"),
        ("shape", {"ramp": "linaer"}, "none of linear"),
        ("shape", {"scaling": "linaer"}, "none of linear"),
    ],
)
def test_without_a_plan_there_is_one_error_that_says_what_would_be_right(code, recipe, advice):
    plan, findings = examined(**recipe)
    assert plan is None
    assert [(finding.code, finding.level) for finding in findings] == [(code, "error")]
    assert findings[0].message.startswith("recipe.") and advice in findings[0].message


def test_a_warmup_longer_than_the_run_is_an_error():
    plan, findings = examined(warmup="1001 steps")
    assert [(finding.code, finding.level) for finding in findings] == [("peak-never-reached", "error")]
    assert "1001 steps of warmup in a run of 1000" in findings[0].message
    assert plan.warmup_steps == 1001  # there is a plan to look at


def test_a_warmup_that_grows_longer_than_the_run_with_the_batch():
    """The same steps at every scale: 100 of 1000 at 32 are 100 of 62 at 16 x 32."""
    assert codes(Topology(16, 32), warmup_scaling="steps", optimizer="sgd") == [("peak-never-reached", "error")]
    assert codes(Topology(8, 32), warmup_scaling="steps", optimizer="sgd") == []


def test_a_warmup_as_long_as_the_run_is_a_warning():
    assert codes(warmup="1000 steps") == [("warmup-is-whole-run", "warning")]
    assert codes(warmup="999 steps") == []


def test_overrun_begins_above_one_percent():
    assert codes(Topology(1, 101), optimizer="sgd", duration="100 samples", warmup="0 steps") == []
    assert codes(Topology(1, 102), optimizer="sgd", duration="100 samples", warmup="0 steps") == [
        ("overrun", "warning")
    ]
    message = examined(Topology(1, 102), optimizer="sgd", duration="100 samples", warmup="0 steps")[1][0].message
    assert "2 samples past the requested 100" in message


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "rmsprop", "lamb"])
def test_linear_with_an_adaptive_optimizer_above_k_8(optimizer):
    recipe = {"optimizer": optimizer, "duration": "9000 steps"}
    assert codes(Topology(8, 32), **recipe) == []
    assert codes(Topology(9, 32), **recipe) == [("linear-adaptive", "warning")]
    for rule in ("sqrt", "auto", "none"):
        assert codes(Topology(9, 32), scaling=rule, **recipe) == []


def test_sgd_may_be_scaled_linearly():
    assert codes(Topology(90, 32), optimizer="sgd", duration="9000 steps") == []


def test_a_batch_larger_than_the_data_is_an_error():
    assert codes(Topology(1, 32), 32) == []
    assert codes(Topology(1, 32), 31) == [("batch-exceeds-data", "error")]
    assert codes(Topology(1, 32), None) == []


def test_ranks_without_a_micro_batch_of_their_own():
    """4 samples on 3 ranks, one at a time: 2 micro-batches on each of 3 ranks are 6."""
    topology = Topology.from_batch(Batch(per_device=1, global_size=4), 3)
    assert codes(topology) == [("idle-ranks", "warning")]
    assert "4 samples fill only 4 of the 6 micro-batches" in examined(topology)[1][0].message


def test_ranks_that_get_unequal_numbers_of_samples():
    assert codes(Topology.from_batch(Batch(per_device=16, global_size=32), 3)) == [("uneven-ranks", "warning")]
    assert codes(Topology.from_batch(Batch(per_device=16, global_size=33), 3)) == []


def test_a_constant_ramp_at_zero():
    assert codes(ramp="constant") == [("warmup-at-zero", "warning")]
    assert codes(ramp="constant", start_lr=1e-5) == codes(ramp="constant", warmup="0 steps") == []


@pytest.mark.parametrize(
    ("decay", "early", "late"),
    [
        ("multistep", {"decay_milestones": ("99 steps", "500 steps")}, {"decay_milestones": ("100 steps",)}),
        ("step", {"decay_length": "99 steps"}, {"decay_length": "100 steps"}),
    ],
)
def test_a_drop_within_the_warmup(decay, early, late):
    assert codes(decay=decay, **early) == [("drop-in-warmup", "warning")]
    assert codes(decay=decay, **late) == []
    assert codes(decay="linear", **early) == []


def test_errors_come_first():
    findings = codes(Topology(9, 32), 100, duration="90 steps", warmup="80 steps")
    assert findings == [("batch-exceeds-data", "error"), ("linear-adaptive", "warning")]
    findings = codes(Topology(9, 32), 100, duration="90 steps", warmup="120 steps")
    assert [level for _, level in findings] == ["error", "error", "warning"]


def test_every_message_names_a_flag_and_is_one_line():
    topology = Topology.from_batch(Batch(per_device=1, global_size=400), 300)
    findings = lint(make_plan(Recipe(**HEALTHY | {"warmup": "2000 steps", "duration": "500 samples"}), topology, 99))
    assert len(findings) >= 4
    for finding in findings:
        assert finding.message.startswith(("recipe.", "batch")) and "\n" not in finding.message


def test_as_json():
    finding = Finding("overrun", "warning", "too long")
    assert finding.to_dict() == {"code": "overrun", "level": "warning", "message": "too long"}
