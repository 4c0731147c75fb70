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


@pytest.mark.parametrize("topology", [Topology(1, 32), Topology(2, 16, 2), Topology(8, 32), Topology(1, 4)])
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
def test_linear_with_an_adaptive_optimizer_below_an_eighth(optimizer):
    recipe = {"optimizer": optimizer, "weight_decay": 0.0}
    assert codes(Topology(1, 4), **recipe) == []
    assert codes(Topology(1, 3), **recipe) == [("linear-adaptive", "warning")]
    assert "rarely works below 1/8: consider sqrt or auto" in examined(Topology(1, 3), **recipe)[1][0].message
    assert codes(Topology(1, 3), scaling="auto", **recipe) == []


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "rmsprop", "lamb"])
def test_linear_with_an_adaptive_optimizer_above_k_8(optimizer):
    recipe = {"optimizer": optimizer, "duration": "9000 steps", "weight_decay": 0.0}
    assert codes(Topology(8, 32), **recipe) == []
    assert codes(Topology(9, 32), **recipe) == [("linear-adaptive", "warning")]
    for rule in ("sqrt", "auto", "none"):
        assert ("linear-adaptive", "warning") not in codes(Topology(9, 32), scaling=rule, **recipe)


def test_sgd_may_be_scaled_linearly():
    assert codes(Topology(1, 1), optimizer="sgd") == []
    assert codes(Topology(90, 32), optimizer="sgd", duration="9000 steps") == []


WARNING = {
    "sde": ("sde-without-sqrt", "warning"), "betas": ("unscaled-betas", "warning"),
    "beyond": ("beyond-sde", "warning"),
    "warmup": ("short-warmup", "warning"), "decay": ("weight-decay-drift", "warning"),
    "relative": ("relative-steps", "warning"), "noise": ("noise-batch", "warning"),
}  # fmt: skip


def test_sde_without_the_square_root():
    recipe = {"optimizer": "adamw", "weight_decay": 0.0, "beta_scaling": "sde"}
    assert codes(Topology(2, 32), scaling="linear", **recipe) == [WARNING["sde"]]
    assert codes(Topology(2, 32), scaling="none", **recipe) == [WARNING["sde"]]
    message = examined(Topology(4, 32), scaling="linear", **recipe)[1][0].message
    assert (
        "multiplied by sqrt(k) = 2, and recipe.scaling: linear multiplies it by 4; use recipe.scaling: sqrt" in message
    )
    assert codes(Topology(2, 32), scaling="sqrt", **recipe) == codes(Topology(1, 32), scaling="linear", **recipe) == []
    assert codes(Topology(2, 32), scaling="linear", **recipe | {"beta_scaling": "half-life"}) == []
    noisy = {"scaling": "noise", **recipe}
    assert codes(Topology(2, 32), noise_scale="1e9 samples", **noisy) == []  # which is the square root
    assert WARNING["sde"] in codes(Topology(2, 32), noise_scale="1 samples", **noisy)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "rmsprop"])
def test_the_square_root_with_unscaled_betas_where_sde_holds(optimizer):
    recipe = {"optimizer": optimizer, "scaling": "sqrt", "weight_decay": 0.0, "duration": "9000 steps"}
    assert codes(Topology(4, 32), **recipe) == []
    assert codes(Topology(5, 32), **recipe) == [WARNING["betas"]]
    for advice in ({"beta_scaling": "sde"}, {"scaled": "all"}, {"beta_scaling": "half-life"}):
        assert codes(Topology(5, 32), **recipe | advice) == []
    ends = 100 if optimizer == "rmsprop" else 10  # 1 / (1 - 0.99) and 1 / (1 - 0.9)
    assert codes(Topology(ends - 1, 32), **recipe) == [WARNING["betas"]]
    assert (
        codes(Topology(ends, 32), **recipe) == codes(Topology(ends, 32), **recipe, scaled="all") == [WARNING["beyond"]]
    )
    assert f"is beyond k = {ends}, up to which betas go" in examined(Topology(ends, 32), **recipe)[1][0].message
    for batch in (5, ends):  # LAMB's authors leave the betas
        assert codes(Topology(batch, 32), **recipe | {"optimizer": "lamb"}) == []


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
@pytest.mark.parametrize("warmup_scaling", ["samples", "steps"])
def test_a_warmup_shorter_than_adams_own(optimizer, warmup_scaling):
    """2 / (1 - 0.999) = 2000 steps, in a run of 20,000 at twice the batch."""
    recipe = {"optimizer": optimizer, "duration": "40000 steps", "warmup_scaling": warmup_scaling}
    steps = 4000 if warmup_scaling == "samples" else 2000
    assert codes(Topology(2, 32), warmup=f"{steps - 2} steps", **recipe) == [WARNING["warmup"]]
    assert codes(Topology(2, 32), warmup="0 steps", **recipe) == [WARNING["warmup"]]
    assert codes(Topology(2, 32), warmup=f"{steps} steps", **recipe) == []
    message = examined(Topology(2, 32), warmup="9 steps", **recipe)[1][0].message
    advised = message.split('"')[1]
    plan, findings = examined(Topology(2, 32), **recipe | {"warmup": advised})
    assert (findings, plan.warmup_steps) == ([], 2000)
    assert message.endswith("or scale beta2 too with recipe.beta_scaling")
    assert codes(Topology(2, 32), warmup="2004 steps", **recipe, beta_scaling="none,half-life") == []  # 1001 needed
    assert codes(Topology(2, 32), warmup="400 steps", betas=(0.9, 0.98), **recipe) == []  # 100 steps
    assert codes(Topology(2, 32), warmup="9 steps", **recipe | {"duration": "39998 steps"}) == []  # beyond a tenth
    assert codes(Topology(2, 32), warmup="9 steps", **recipe | {"optimizer": "sgd"}) == []


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_weight_decay_that_loses_its_effect(optimizer):
    """rate x decay / B: with sqrt it goes as 1 / sqrt(k), so beyond k = 4 and below 1/4 it is off by more than 2."""
    recipe = {"optimizer": optimizer, "scaling": "sqrt", "beta_scaling": "half-life", "duration": "9000 steps"}
    assert codes(Topology(4, 32), **recipe) == codes(Topology(1, 8), **recipe) == []
    assert codes(Topology(5, 32), **recipe) == codes(Topology(1, 7), **recipe) == [WARNING["decay"]]
    weaker = examined(Topology(9, 32), **recipe)[1][0].message
    assert "3 times weaker than at the reference batch" in weaker and "timescale (0.03 here)" in weaker
    assert "4 times stronger" in examined(Topology(1, 2), **recipe)[1][0].message
    plan, findings = examined(Topology(9, 32), **recipe, weight_decay_scaling="timescale")
    assert findings == [] and plan.weight_decay == pytest.approx(0.03, rel=1e-12)
    assert codes(Topology(9, 32), **recipe, weight_decay=0.0) == []
    assert codes(Topology(9, 32), **recipe | {"optimizer": "adam"}) == []  # whose decay goes through the moments
    capped = {"optimizer": optimizer, "scaling": "linear", "duration": "9000 steps", "max_lr": 1e-4}
    assert codes(Topology(8, 32), **capped) == [WARNING["decay"]]


def test_adafactors_relative_steps():
    recipe = {"optimizer": "adafactor", "duration": "9000 steps"}
    for rule in ("linear", "sqrt", "auto"):
        assert codes(Topology(16, 32), scaling=rule, **recipe) == [WARNING["relative"]]
    assert codes(Topology(1, 32), **recipe) == codes(Topology(16, 32), scaling="none", **recipe) == []


def test_what_a_batch_costs_where_the_noise_scale_is_known():
    """(N + B) / (N + B0): (64 + 128) / (64 + 32) = 2, and at 64 samples two ranks of 32 are twice the least."""
    recipe = {"optimizer": "sgd", "noise_scale": "64 samples"}
    assert codes(Topology(4, 32), **recipe) == [WARNING["noise"]]
    message = examined(Topology(4, 32), **recipe)[1][0].message
    assert "of 128 is expected to need 2 times the samples that 32 needs" in message
    assert "with 32 samples per rank, more than 2 ranks cost more than they save" in message
    assert codes(Topology(1, 56), **recipe) == [] != codes(Topology(1, 57), **recipe)  # 120 / 96 = 1.25
    assert codes(Topology(4, 32), **recipe | {"noise_scale": "10k samples"}) == []
    assert codes(Topology(4, 32), optimizer="sgd") == []


def test_samples_of_another_length_than_at_the_reference():
    recipe = Recipe(**HEALTHY, reference_max_length=512)
    _, findings = examine(recipe, Topology(1, 32), 10_000, max_length=128)
    assert [(finding.code, finding.level) for finding in findings] == [("max-length-changed", "warning")]
    assert "a batch of 32 has 0.25 times the tokens; use recipe.reference_batch_size: 128 with" in findings[0].message
    assert examine(recipe, Topology(1, 32), 10_000, max_length=512)[1] == []
    same = Recipe(**HEALTHY | {"reference_batch_size": 128}, reference_max_length=128)
    assert examine(same, Topology(4, 32), 10_000, max_length=128)[1] == []
    assert examine(Recipe(**HEALTHY), Topology(1, 32), 10_000, max_length=128)[1] == []


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
    recipe = {"weight_decay": 0.0}
    findings = codes(Topology(9, 32), 100, duration="90 steps", warmup="80 steps", **recipe)
    assert findings == [("batch-exceeds-data", "error"), ("linear-adaptive", "warning")]
    findings = codes(Topology(9, 32), 100, duration="90 steps", warmup="120 steps", **recipe)
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
