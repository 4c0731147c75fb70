"""Recipe x topology -> plan: which rate at which step, and how long everything takes, at any scale."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from warmup.config.recipe import Recipe
from warmup.config.run import Batch
from warmup.errors import PlanError
from warmup.explain import explain_plan
from warmup.plan import Plan, Topology
from warmup.planning import make_plan

REFERENCE = ("reference_betas", "reference_eps", "reference_momentum", "reference_alpha", "reference_weight_decay")
BASE = {"optimizer": "sgd", "lr": 1.0, "reference_batch_size": 1, "warmup": "4 steps", "duration": "10 steps"}


def plan_of(topology: Topology = Topology(1, 1), num_samples: int | None = None, **recipe: object) -> Plan:  # noqa: B008
    return make_plan(Recipe(**{**BASE, **recipe}), topology, num_samples)


def at(batch: int, num_samples: int | None = None, **recipe: object) -> Plan:
    """The plan at a global batch of one rank."""
    return plan_of(Topology(1, batch), num_samples, **recipe)


def rates(plan: Plan, steps: int) -> list[float]:
    return [plan.lr_at_step(step) for step in range(steps)]


def refusal(code: str, topology: Topology = Topology(1, 1), **recipe: object) -> str:  # noqa: B008
    with pytest.raises(PlanError) as caught:
        plan_of(topology, **recipe)
    assert caught.value.code == code and "\n" not in str(caught.value)
    return str(caught.value)


# Which rate at which step


def test_the_first_step_moves_steps_W_1_and_W_are_at_the_peak_and_the_end_is_one_step_away():
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0, 0.0, 0.0]
    assert rates(plan_of(), 13) == pytest.approx(expected, rel=1e-15)
    assert plan_of().lr_at_step(10**9) == 0.0


def test_the_ramp_is_the_textbook_one_at_t_one_more():
    """start + t/W * (peak - start), and start * (peak / start)^(t/W)."""
    linear = plan_of(start_lr=0.2)
    assert rates(linear, 4) == pytest.approx([0.2 + t / 4 * 0.8 for t in (1, 2, 3, 4)], rel=1e-15)
    exponential = plan_of(start_lr=0.0625, ramp="exponential")
    assert rates(exponential, 4) == [0.125, 0.25, 0.5, 1.0]


def test_without_a_warmup_the_first_step_is_at_the_peak():
    plan = plan_of(warmup="0 steps")
    assert (plan.warmup_steps, plan.warmup_samples) == (0, 0)
    assert rates(plan, 11) == pytest.approx([(10 - step) / 10 for step in range(11)], rel=1e-15)


def test_a_warmup_of_one_step_is_at_the_peak_at_once():
    assert rates(plan_of(warmup="1 step"), 3) == [1.0, 1.0, pytest.approx(8 / 9, rel=1e-15)]


def test_a_warmup_as_long_as_the_run_ends_at_the_peak():
    plan = plan_of(warmup="10 steps")
    assert (plan.lr_at_step(9), plan.lr_at_step(10)) == (1.0, 0.0)


def test_a_run_of_one_step():
    assert rates(plan_of(warmup="0 steps", duration="1 step"), 2) == [1.0, 0.0]


@given(st.integers(0, 50), st.integers(1, 50), st.integers(1, 1000), st.floats(1e-6, 10), st.floats(0, 1), st.data())
def test_linear_ramp_and_decay_in_closed_form(warmup, rest, batch, lr, start_ratio, data):
    total = warmup + rest
    step = data.draw(st.integers(0, total + 3))
    plan = make_plan(
        Recipe("sgd", lr, batch, warmup=f"{warmup} steps", duration=f"{total} steps", start_lr=start_ratio * lr),
        Topology(1, batch),
    )
    start, peak = Fraction(start_ratio * lr), Fraction(lr)
    if step < warmup:
        expected = start + (peak - start) * Fraction(step + 1, warmup)
    else:
        expected = peak * max(0, 1 - Fraction(step - warmup, rest))
    assert plan.lr_at_step(step) == pytest.approx(float(expected), rel=1e-14)


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_equal_batches_have_equal_rates_however_they_are_split(world, accumulation, data):
    """Bit by bit, at the same samples."""
    per_device = data.draw(st.integers(1, 8))
    size = world * accumulation * per_device
    recipe = {"reference_batch_size": 32, "warmup": "13 steps", "duration": "97 steps", "decay": "cosine"}
    split, whole = plan_of(Topology(world, per_device, accumulation), **recipe), at(size, **recipe)
    samples = data.draw(st.integers(0, 2 * whole.total_samples))
    assert split.lr_at(samples) == whole.lr_at(samples)
    one_rank = {"world_size": 1, "per_device_batch_size": size, "accumulation": 1}
    assert split.to_dict() | one_rank == whole.to_dict()


def test_the_rate_between_two_step_boundaries_is_a_function_of_the_samples():
    """A position that another batch size left behind."""
    plan = at(8, reference_batch_size=8)
    assert plan.lr_at(4) == (4 + 8) / 32
    assert plan.lr_at(32 + 12) == pytest.approx(1 - 12 / 48, rel=1e-15)


@pytest.mark.parametrize("decay", ["linear", "wsd"])
def test_large_numbers_stay_exact(decay):
    """At 10^20 samples a float no longer tells one sample from the next."""
    plan = at(3, reference_batch_size=3, warmup="1e19 samples", duration="1e20 samples", decay=decay)
    assert plan.warmup_steps == (10**19 + 1) // 3 and plan.total_samples == 10**20 + 2
    assert plan.lr_at(plan.warmup_samples - 3) == plan.lr_at(plan.warmup_samples) == 1.0
    left = plan.decay_length_samples or plan.total_samples - plan.warmup_samples
    assert plan.lr_at(plan.total_samples - 3) == pytest.approx(3 / left, rel=1e-15)
    assert plan.lr_at(plan.total_samples) == 0.0
    assert plan.lr_at(0) == pytest.approx(3 / plan.warmup_samples, rel=1e-15)


@pytest.mark.parametrize(("recipe", "message"), [
    ({"duration": "1e31 samples"}, "recipe.duration: its samples are more than 1e30"),
    ({"warmup": "1e31 samples"}, "recipe.warmup: its samples are more than 1e30"),
    ({"decay": "step", "decay_length": "1e31 samples"}, "recipe.decay_length: its samples are more than 1e30"),
    ({"decay": "multistep", "decay_milestones": ("1e31 samples",)}, "recipe.decay_milestones: their samples are more"),
])  # fmt: skip
def test_lengths_beyond_all_measure_are_refused(recipe, message):
    assert message in refusal("too-large", **recipe)
    assert "batch: the samples of a step are more than 1e30" in refusal("too-large", Topology(10**20, 10**20))


def test_moments_that_leave_their_range_are_refused():
    """At 1e-20 of the reference batch, a float of 1 - 1e-22 is 1."""
    for rule in ("sde", "half-life"):
        text = refusal("beta-range", optimizer="adam", scaling="none", beta_scaling=rule, reference_batch_size=10**20)
        assert f"recipe.beta_scaling: {rule} changes beta1 to 1 at k = 1e-20, which is not in its range" in text


@pytest.mark.parametrize("decay", ["exponential", "inverse_sqrt", "step", "linear"])
def test_after_a_warmup_that_is_longer_than_the_run_the_decay_is_at_its_start_or_end(decay):
    """No part of the run is left for the decay, and none less than none."""
    plan = plan_of(decay=decay, warmup="30 steps", duration="10 steps", decay_length="1 samples", decay_gamma=0.5)
    after = {"exponential": 1.0, "inverse_sqrt": 1.0, "step": 0.5**10, "linear": 0.0}[decay]
    assert plan.lr_at(30) == plan.lr_at(40) == after
    assert rates(plan, 10) == pytest.approx([(step + 1) / 30 for step in range(10)])


def test_a_billion_steps_do_not_drift():
    plan = plan_of(warmup="0 steps", duration="1G steps")
    for step in (1, 123_456_789, 10**9 - 1):
        assert plan.lr_at_step(step) == pytest.approx((10**9 - step) / 10**9, rel=1e-15)


@given(st.floats(1e-3, 1e3), st.integers(0, 12))
def test_the_multiplier_of_a_group_applies_to_start_peak_and_end(lr_multiplier, step):
    plan = plan_of(start_lr=0.1, end_lr=0.05, decay="cosine")
    assert plan.lr_at(step, lr_multiplier) == pytest.approx(lr_multiplier * plan.lr_at_step(step), rel=1e-14)


# The batch


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 4), (2, 2), (3, 2), (4, 1), (7, 1), (32, 1)])
def test_global_size_decides_the_accumulation(world_size, accumulation):
    """ceil(B / (world size * per device)): 7 ranks too."""
    topology = Topology.from_batch(Batch(per_device=8, global_size=32), world_size)
    assert (topology.world_size, topology.accumulation, topology.global_batch_size) == (world_size, accumulation, 32)


def test_without_global_size_the_batch_is_the_product():
    assert Topology.from_batch(Batch(per_device=8, accumulation=3), 5).global_batch_size == 120
    assert Topology.from_batch(Batch(per_device=8), 5) == Topology(5, 8, 1, 40)


@given(st.integers(1, 10_000), st.integers(1, 64), st.integers(1, 10_000))
def test_the_accumulation_is_the_least_that_holds_the_batch(size, per_device, world_size):
    assume(world_size <= size)
    topology = Topology.from_batch(Batch(per_device=per_device, global_size=size), world_size)
    at_once = world_size * per_device
    assert (topology.accumulation - 1) * at_once < size <= topology.accumulation * at_once


def test_more_ranks_than_samples_are_refused():
    with pytest.raises(PlanError) as caught:
        Topology.from_batch(Batch(per_device=8, global_size=32), 33)
    assert caught.value.code == "idle-ranks"
    assert str(caught.value) == "batch.global_size: 32 is too small for 33 ranks; use 32 at most"


@pytest.mark.parametrize("numbers", [(0, 8, 1), (2, 0, 1), (2, 8, 0), (-1, -8, 1)])
def test_a_topology_is_made_of_numbers_from_one(numbers):
    with pytest.raises(ValueError, match="world_size, per_device_batch_size and accumulation must be 1 or above"):
        Topology(*numbers)


def test_a_topology_holds_its_batch():
    with pytest.raises(ValueError, match="a step of at most 32 samples cannot hold a global batch of 33"):
        Topology(2, 8, 2, 33)


# Scaling of the target


@pytest.mark.parametrize(
    ("scaling", "optimizer", "batch", "peak"),
    [
        ("linear", "sgd", 64, 8.0),
        ("linear", "adamw", 64, 8.0),
        ("sqrt", "adamw", 64, math.sqrt(8)),
        ("none", "adamw", 64, 1.0),
        ("auto", "sgd", 64, 8.0),
        ("auto", "adamw", 64, math.sqrt(8)),
        ("linear", "sgd", 2, 0.25),
        ("sqrt", "sgd", 2, 0.5),
        ("linear", "sgd", 12, 1.5),
        ("linear", "sgd", 8, 1.0),
    ],
)
def test_peaks(scaling, optimizer, batch, peak):
    plan = at(batch, reference_batch_size=8, scaling=scaling, optimizer=optimizer)
    assert plan.peak_lr == plan.uncapped_lr == pytest.approx(peak, rel=1e-15)
    assert plan.scale == batch / 8 and plan.lr == 1.0
    assert plan.scaling == {"auto": "linear" if optimizer == "sgd" else "sqrt"}.get(scaling, scaling)


def test_max_lr_caps_the_scaled_peak_and_says_so():
    plan = at(64, reference_batch_size=8, max_lr=3.0)
    assert (plan.peak_lr, plan.uncapped_lr) == (3.0, 8.0)
    assert ("peak lr", "3", "lr 1 x k (linear scaling), capped from 8 by max_lr") in explain_plan(plan)
    assert max(rates(plan, plan.total_steps)) == 3.0
    assert at(64, reference_batch_size=8, max_lr=9.0).peak_lr == 8.0


def test_start_and_end_are_absolute_and_reference_is_the_unscaled_rate():
    plan = at(4, start_lr=0.1, end_lr=0.01, warmup="40 samples", duration="100 samples")
    assert (plan.start_lr, plan.peak_lr, plan.end_lr) == (0.1, 4.0, 0.01)
    assert plan.lr_at_step(0) == pytest.approx(0.1 + 3.9 / 10, rel=1e-15)
    assert at(4, start_lr="reference").start_lr == 1.0


def test_below_the_reference_a_ramp_from_the_reference_goes_down():
    plan = at(2, reference_batch_size=8, start_lr="reference", warmup="1 step", duration="10 steps")
    assert (plan.start_lr, plan.peak_lr, plan.warmup_steps) == (1.0, 0.25, 4)
    assert rates(plan, 5) == [0.8125, 0.625, 0.4375, 0.25, 0.25]


# Scaling of lengths


@pytest.mark.parametrize(
    ("batch", "samples_school", "steps_school"),
    [(256, 100, 100), (512, 50, 100), (128, 200, 100), (1024, 25, 100), (2048, 13, 100), (25_600, 1, 100)],
)
def test_the_two_schools_of_warmup(batch, samples_school, steps_school):
    """100 steps at 256: the same samples (12.5 steps at 2048, half up), or the same steps."""
    recipe = {"reference_batch_size": 256, "warmup": "100 steps", "duration": "10 epochs"}
    same_samples = at(batch, 10**6, **recipe)
    same_steps = at(batch, 10**6, warmup_scaling="steps", **recipe)
    assert (same_samples.warmup_steps, same_samples.warmup_samples) == (samples_school, samples_school * batch)
    assert (same_steps.warmup_steps, same_steps.warmup_samples) == (steps_school, steps_school * batch)


def test_a_warmup_that_is_not_zero_has_a_step():
    recipe = {"reference_batch_size": 8, "warmup": "1 step", "duration": "1000 steps"}
    assert at(4096, **recipe).warmup_steps == 1  # 8 of 4096 samples
    assert at(4096, **recipe | {"warmup": "0.01 samples", "warmup_scaling": "steps"}).warmup_steps == 1
    assert at(4096, **recipe | {"warmup": "0 steps"}).warmup_steps == 0


@pytest.mark.parametrize(
    ("school", "batch", "steps"), [("samples", 10, 60), ("samples", 40, 15), ("steps", 10, 60), ("steps", 40, 60)]
)
def test_a_percentage_is_of_the_duration_or_of_the_references_steps(school, batch, steps):
    """6% of 1000 steps of 10."""
    plan = at(batch, reference_batch_size=10, warmup="6%", duration="1000 steps", warmup_scaling=school)
    assert plan.warmup_steps == steps


def test_a_percentage_is_exact():
    """0.07 * 100 is 7.000000000000001 in floats, and 7.5 rounds to 8."""
    assert plan_of(warmup="7%", duration="100 steps").warmup_steps == 7
    assert plan_of(warmup="7.5%", duration="100 steps").warmup_steps == 8
    assert plan_of(warmup="7.49999999999999999999%", duration="100 steps").warmup_steps == 7


@pytest.mark.parametrize(
    ("duration", "batch", "total", "excess"),
    [
        ("1000000 steps", 256, 1_000_000, 0),
        ("1000000 steps", 512, 500_000, 0),
        ("1000000 steps", 300, 853_334, 200),  # 853333.33
        ("3 epochs", 256, 12, 72),  # 3 * 1000 samples
        ("100 samples", 256, 1, 156),
        ("256 samples", 256, 1, 0),
        ("257 samples", 256, 2, 255),
        ("0.1 samples", 256, 1, 255),
    ],
)
def test_the_duration_is_samples_and_the_last_step_is_whole(duration, batch, total, excess):
    plan = at(batch, 1000, reference_batch_size=256, duration=duration, warmup="0 steps")
    assert (plan.total_steps, plan.total_samples) == (total, total * batch)
    assert plan.total_samples - plan.duration_samples == excess
    (how,) = (how for name, _, how in explain_plan(plan) if name == "duration")
    past = f"; the last step runs {excess} samples past the requested duration" if excess else ""
    assert how.startswith(f"{total * batch} samples, ") and how.partition("epoch")[2].removeprefix("s") == past


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**9), st.integers(0, 10**9))
def test_lengths_at_any_batch(reference, batch, duration, warmup):
    plan = at(batch, reference_batch_size=reference, duration=f"{duration} samples", warmup=f"{warmup} samples")
    assert 0 <= plan.total_samples - plan.duration_samples < batch
    assert plan.duration_samples == duration and plan.total_samples == plan.total_steps * batch
    if plan.warmup_steps > 1:
        assert -batch < 2 * (plan.warmup_samples - warmup) <= batch  # within half a step, halves up
    assert (plan.warmup_steps == 0) == (warmup == 0)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_larger_batch_never_needs_more_steps(first, second):
    small, large = sorted((first, second))
    recipe = {"reference_batch_size": 100, "duration": "1234 steps", "warmup": "77 steps"}
    one, other = at(small, **recipe), at(large, **recipe)
    assert one.total_steps >= other.total_steps and one.warmup_steps >= other.warmup_steps
    assert one.peak_lr <= other.peak_lr and one.duration_samples == other.duration_samples


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["linear", "cosine", "polynomial", "wsd"]))
def test_the_rate_rises_to_the_peak_and_falls_from_there(warmup, rest, decay):
    plan = plan_of(warmup=f"{warmup} steps", duration=f"{warmup + rest} steps", decay=decay, decay_length="1 step")
    curve = rates(plan, warmup + rest + 2)
    assert all(early < late for early, late in pairwise(curve[:warmup]))
    assert all(early >= late for early, late in pairwise(curve[warmup:]))
    assert curve[warmup - 1] == curve[warmup] == max(curve) == 1.0 and curve[-1] == curve[-2] == 0.0 and curve[0] > 0


# Decays that are placed in the run


def test_milestones_count_from_step_0_and_scale_as_samples():
    recipe = {"decay": "multistep", "decay_gamma": 0.5, "warmup": "2 steps", "duration": "12 steps"}
    recipe |= {"reference_batch_size": 4, "decay_milestones": ("5 steps", "75%")}
    assert rates(at(4, **recipe), 12) == [0.5, *[1.0] * 4, *[0.5] * 4, *[0.25] * 3]  # 5 and 9
    double = at(8, **recipe)
    assert double.decay_milestones_samples == (20, 36)
    assert rates(double, 6) == [2.0, 2.0, 2.0, 1.0, 1.0, 0.5]  # the first step at or after 2.5 and 4.5


def test_step_decay_scales_as_samples():
    recipe = {"decay": "step", "decay_length": "4 steps", "decay_gamma": 0.5, "warmup": "0 steps"}
    recipe |= {"duration": "12 steps", "reference_batch_size": 4}
    assert rates(at(4, **recipe), 12) == [*[1.0] * 4, *[0.5] * 4, *[0.25] * 4]
    assert rates(at(8, **recipe), 6) == [2.0, 2.0, 1.0, 1.0, 0.5, 0.5]


def test_warmup_stable_decay_takes_a_tenth_by_default():
    """MiniCPM, arXiv:2404.06395: about a tenth of the run is enough for the decay."""
    plan = plan_of(decay="wsd", warmup="10 steps", duration="100 steps")
    assert plan.decay_length_samples == 10
    assert rates(plan, 101)[9:91] == [1.0] * 82
    assert rates(plan, 101)[91:] == pytest.approx([n / 10 for n in range(9, -1, -1)], rel=1e-14)
    assert ("decay", "wsd", "to 0 over the last 10 samples (linear)") in explain_plan(plan)


def test_inverse_square_root_takes_the_warmup_as_its_time_scale():
    """Vaswani et al. 2017, arXiv:1706.03762, eq. 3: peak * sqrt(W / s)."""
    plan = plan_of(decay="inverse_sqrt", warmup="4 steps", duration="100 steps")
    assert rates(plan, 100)[4:] == pytest.approx([math.sqrt(4 / step) for step in range(4, 100)], rel=1e-14)
    assert refusal("shape", decay="inverse_sqrt", warmup="0 steps").endswith("as its time scale")


# Moments


def test_moments_are_scaled_where_the_optimizer_has_them():
    adam = at(4, optimizer="adamw", beta_scaling="sde", eps=1e-8, momentum=0.9, alpha=0.99)
    assert adam.betas == pytest.approx((0.6, 0.996), rel=1e-12) and adam.eps == 5e-9
    assert (adam.momentum, adam.alpha) == (0.9, 0.99)
    sgd = at(4, optimizer="sgd", beta_scaling="half-life")
    assert sgd.momentum == pytest.approx(0.6561, rel=1e-12) and sgd.betas == (0.9, 0.999)
    assert adam.momentum_correction == 1
    rmsprop = at(4, optimizer="rmsprop", beta_scaling="sde", momentum=0.0)
    assert rmsprop.alpha == pytest.approx(0.96, rel=1e-12) and rmsprop.momentum == 0.0
    assert at(4, optimizer="adamw").betas == (0.9, 0.999)


@pytest.mark.parametrize("k", [Fraction(1, 16), Fraction(1, 4), 1, 2, 4, 16])
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_a_scaled_momentum_leaves_the_effective_rate_to_the_rule(optimizer, k):
    """lr / (1 - momentum) is k times that of the reference, as the linear rule says; uncorrected it was 0.53, 0.29 and
    0.18 of it at k = 2, 4 and 8 for 0.9.
    """
    batch = int(16 * k)
    plan = at(batch, lr=0.1, reference_batch_size=16, optimizer=optimizer, scaling="linear", beta_scaling="half-life")
    assert plan.momentum == pytest.approx(0.9 ** float(k), rel=1e-12)
    assert plan.peak_lr == pytest.approx(0.1 * float(k) * (1 - 0.9 ** float(k)) / (1 - 0.9), rel=1e-12)
    assert plan.peak_lr / (1 - plan.momentum) == pytest.approx(float(k) * 0.1 / (1 - 0.9), rel=1e-12)
    assert plan.peak_lr == plan.uncapped_lr


# All that belongs together


@pytest.mark.parametrize(
    ("optimizer", "batch", "rules"),
    [
        ("sgd", 64, ("linear", "none", "timescale")),
        ("adamw", 4, ("sqrt", "sde", "timescale")),
        ("adamw", 144, ("sqrt", "sde", "timescale")),
        ("adamw", 160, ("sqrt", "half-life", "timescale")),  # k = 10 = 1 / (1 - 0.9), where sde ends
        ("adam", 64, ("sqrt", "sde", "none")),
        ("rmsprop", 1584, ("sqrt", "sde", "none")),
        ("rmsprop", 1600, ("sqrt", "half-life,none", "none")),  # k = 100 = 1 / (1 - 0.99); the momentum stays
        ("lamb", 64, ("sqrt", "none", "none")),
    ],
)
def test_the_set_of_each_optimizer_is_its_rules_one_by_one(optimizer, batch, rules):
    recipe = {"optimizer": optimizer, "reference_batch_size": 16, "lr": 0.01}
    plan = at(batch, scaled="all", **recipe)
    fields = dict(zip(("scaling", "beta_scaling", "weight_decay_scaling"), rules, strict=True))
    assert plan == at(batch, **recipe, **fields) == at(batch, scaled="all", **recipe, scaling="auto")
    assert (plan.scaling, plan.beta_scaling, plan.weight_decay_scaling) == rules
    assert at(16, scaled="all", **recipe).peak_lr == 0.01


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            {"optimizer": "adamw", "scaling": "none"},
            "recipe.scaling: none contradicts recipe.scaled: all, which stands",
        ),
        ({"optimizer": "sgd", "scaling": "sqrt"}, "which stands for linear with sgd at k = 4; leave it out, or leave"),
        ({"optimizer": "adamw", "beta_scaling": "half-life"}, "recipe.beta_scaling: half-life contradicts"),
        ({"optimizer": "adam", "weight_decay_scaling": "timescale"}, "which stands for none with adam at k = 4"),
        ({"optimizer": "sgd", "scaling": "noise", "noise_scale": "9 samples"}, "recipe.scaling: noise contradicts"),
        ({"optimizer": "adafactor"}, "recipe.scaled: all has no rules for adafactor"),
    ],
)
def test_what_contradicts_the_set_is_refused(recipe, message):
    assert message in refusal("rules-conflict", Topology(1, 4), scaled="all", **recipe)


@pytest.mark.parametrize(
    ("optimizer", "batch", "rules"),
    [("adamw", 64, "sde,sde"), ("rmsprop", 64, "sde,none"), ("rmsprop", 1600, "half-life, none")],
)
def test_the_set_written_in_another_way_is_no_contradiction(optimizer, batch, rules):
    recipe = {"optimizer": optimizer, "reference_batch_size": 16, "scaled": "all"}
    assert at(batch, **recipe, beta_scaling=rules) == at(batch, **recipe)


def test_one_rule_for_each_beta():
    betas = at(2, optimizer="adamw", betas=(0.9, 0.99), beta_scaling="none,half-life").betas
    assert betas == (0.9, pytest.approx(0.9801, rel=1e-12))
    assert at(2, optimizer="adamw", betas=(0.9, 0.99), beta_scaling="half-life, sde").betas == (
        pytest.approx(0.81, rel=1e-12), pytest.approx(0.98, rel=1e-12),
    )  # fmt: skip
    plan = at(2, optimizer="rmsprop", alpha=0.9, momentum=0.5, beta_scaling="sde,half-life", lr=1.0)
    assert (plan.alpha, plan.momentum) == (pytest.approx(0.8, rel=1e-12), 0.25)
    assert plan.peak_lr == pytest.approx(2 * 0.75 / 0.5, rel=1e-12)
    assert "has 2 rules, and sgd only a momentum" in refusal("beta-range", optimizer="sgd", beta_scaling="none,none")
    assert "momentum of rmsprop" in refusal("beta-range", optimizer="rmsprop", beta_scaling="sde,sde")


def test_the_floor_of_half_life():
    recipe = {"optimizer": "adamw", "betas": (0.9, 0.99), "beta_scaling": "half-life"}
    assert at(16, **recipe, beta_floor=0.8).betas == (0.8, pytest.approx(0.99**16, rel=1e-12))
    assert at(16, **recipe, beta_floor=0.95).betas == (0.9, 0.95)  # it raises nothing
    momentum = at(16, optimizer="sgd", beta_scaling="half-life", beta_floor=0.5, lr=1.0)
    assert (momentum.momentum, momentum.peak_lr) == (0.5, pytest.approx(16 * 0.5 / 0.1, rel=1e-12))
    assert "recipe.beta_floor: is for" in refusal("beta-range", optimizer="adamw", beta_floor=0.5)


# The noise scale, and the weight decay


@pytest.mark.parametrize(("optimizer", "power"), [("sgd", 1.0), ("adamw", 0.5)])
def test_the_noise_rule_in_samples_and_tokens(optimizer, power):
    recipe = {"optimizer": optimizer, "scaling": "noise", "reference_batch_size": 32, "lr": 1.0}
    plan = at(256, **recipe, noise_scale="96 samples")  # 8 x (32 + 96) / (256 + 96)
    assert plan.peak_lr == pytest.approx((8 * 128 / 352) ** power, rel=1e-12) and plan.noise_scale == 96.0
    same = make_plan(Recipe(**BASE | recipe, noise_scale="9.6k tokens"), Topology(1, 256), None, Fraction(100))
    assert same.peak_lr == plan.peak_lr
    assert "mean number of tokens" in refusal("length-unknown", **recipe, noise_scale="1k tokens")
    assert "recipe.noise_scale: needed by" in refusal("noise-scale-missing", **recipe)


def test_the_timescale_of_the_weight_decay():
    """Effective rate x decay / B stays: with sqrt the decay grows as sqrt(k), with linear not, with a cap more."""

    def decay(**recipe):
        return at(16, weight_decay=0.1, weight_decay_scaling="timescale", lr=0.5, **recipe).weight_decay

    assert decay(optimizer="adamw", scaling="sqrt") == pytest.approx(0.4, rel=1e-12)
    assert decay(optimizer="adamw", scaling="linear") == decay(optimizer="sgd") == pytest.approx(0.1, rel=1e-12)
    assert decay(optimizer="adamw", scaling="linear", max_lr=1.0) == pytest.approx(0.8, rel=1e-12)  # 16 x 0.5 / 1
    assert decay(optimizer="sgd", beta_scaling="half-life") == pytest.approx(0.1, rel=1e-12)
    for optimizer in ("adam", "rmsprop", "lamb", "adafactor"):
        message = refusal("decay-rule", optimizer=optimizer, weight_decay_scaling="timescale")
        assert f"that of {optimizer} does not: use none" in message


# Refusals: every code, with its message


def test_reference_missing():
    message = refusal("reference-missing", reference_batch_size=None)
    assert message.startswith("recipe.reference_batch_size: needed") and message.endswith("recipe.scaling: none")
    refusal("reference-missing", reference_batch_size=None, scaling="none", beta_scaling="half-life")
    plan = at(64, reference_batch_size=None, scaling="none")
    assert (plan.reference_batch_size, plan.scale, plan.peak_lr, plan.warmup_steps) == (64, 1.0, 1.0, 4)


COUNT = "the number of training samples (--num-samples); it is not known for a stream: use steps, samples or tokens"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"duration": "3 epochs"}, f'recipe.duration: "3 epochs" needs {COUNT}'),
        ({"warmup": "1 epoch"}, f'recipe.warmup: "1 epochs" needs {COUNT}'),
        (
            {"duration": "2B tokens"},
            'recipe.duration: "2000000000 tokens" needs the mean number of tokens per sample (--tokens-per-sample)',
        ),
        (
            {"duration": "5%"},
            'recipe.duration: "5%" needs a duration that it is a percentage of; use steps, epochs or samples',
        ),
        (
            {"decay": "multistep", "decay_milestones": ("1 epoch",)},
            f'recipe.decay_milestones: "1 epochs" needs {COUNT}',
        ),
        ({"decay": "step"}, 'recipe.decay_length: a step decay needs it, e.g. "30 epochs"'),
    ],
)
def test_length_unknown(recipe, message):
    assert refusal("length-unknown", **recipe) == message


def test_start_above_peak():
    assert refusal("start-above-peak", start_lr=1.5).startswith("recipe.start_lr: 1.5 is above the peak of 1;")
    assert "above the peak of 0.25" in refusal("start-above-peak", reference_batch_size=4, start_lr=0.5)


def test_a_reference_above_a_capped_peak_is_no_ramp_either():
    """`reference` may lie above the peak only where k < 1 brought the peak down."""
    assert "1 is above the peak of 0.5" in refusal("start-above-peak", start_lr="reference", max_lr=0.5)
    assert at(1, reference_batch_size=2, start_lr="reference", max_lr=0.4).peak_lr == 0.4


def test_end_above_peak():
    assert refusal("end-above-peak", end_lr=2.0) == "recipe.end_lr: 2 is above the peak of 1; end lower"


def test_beta_range():
    message = refusal("beta-range", Topology(16, 1), optimizer="adamw", beta_scaling="sde")
    assert "sde changes beta 0.9 to -0.6 at k = 16; it is valid for k < 10 only" in message
    assert "use half-life for sgd" in refusal("beta-range", optimizer="sgd", beta_scaling="sde")


def test_exponentials_from_and_to_zero():
    assert "cannot start at 0" in refusal("ramp-from-zero", ramp="exponential")
    assert "cannot end at 0" in refusal("decay-to-zero", decay="exponential")
    assert plan_of(ramp="exponential", warmup="0 steps").lr_at_step(0) == 1.0


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"ramp": "linaer"}, "recipe.ramp: 'linaer' is none of linear, "),
        ({"decay": "linaer"}, "recipe.decay: 'linaer' is none of constant, "),
        ({"scaling": "linaer"}, "recipe.scaling: 'linaer' is none of linear, sqrt, none"),
        ({"ramp": "math:sqrt"}, "takes exactly one argument (3 given)"),
        ({"decay": "os:name"}, "recipe.decay: 'os:name' is not a function"),
        ({"decay": "operator:no_such"}, "recipe.decay: 'operator:no_such' cannot be imported"),
        ({"ramp": "bad_shapes:infinite"}, "recipe.ramp: 'bad_shapes:infinite' returned inf, not a finite number of 0"),
        ({"decay": "bad_shapes:negative"}, "recipe.decay: 'bad_shapes:negative' returned -1, not a finite number of 0"),
        ({"ramp": "bad_shapes:refuses"}, "recipe.ramp: 'bad_shapes:refuses' failed: ValueError: not today"),
        ({"scaling": "bad_shapes:nothing"}, "recipe.scaling: 'bad_shapes:nothing' makes the peak 0.0 at k = 1"),
        ({"scaling": "bad_shapes:none"}, "recipe.scaling: 'bad_shapes:none' returned None, not a finite number of 0"),
        ({"scaling": "sys:exit"}, "recipe.scaling: 'sys:exit' failed: SystemExit: 1"),
        ({"ramp": "sys:exit"}, "recipe.ramp: 'sys:exit' failed: TypeError: exit expected at most 1 argument, got 3"),
        ({"decay": "bad_shapes:leaves"}, "recipe.decay: 'bad_shapes:leaves' failed: SystemExit: 0"),
        ({"decay": "bad_shapes:bare"}, "recipe.decay: 'bad_shapes:bare' failed: KeyError: 'two lines'"),
        ({"scaling": "bad_shapes:text"}, "recipe.scaling: 'bad_shapes:text' returned '2', not a finite number of 0"),
        ({"scaling": "bad_shapes:huge"}, "recipe.scaling: 'bad_shapes:huge' returned 1000"),
        ({"scaling": "exits_when_imported:f"}, "recipe.scaling: 'exits_when_imported:f' cannot be imported: 3"),
        ({"scaling": "no_python:f"}, "recipe.scaling: 'no_python:f' cannot be imported: "),
        ({"scaling": ":f"}, "recipe.scaling: ':f' cannot be imported: Empty module name"),
        ({"decay": "exponential", "decay_length": "1 samples", "decay_gamma": 1e300}, "step 9 would be inf"),
        ({"decay": "step", "decay_length": "1 samples", "decay_gamma": 1e300}, "of step 9 would be inf"),
    ],
)
def test_shapes_and_rules_that_cannot_be_computed(recipe, message, tmp_path, monkeypatch):
    (tmp_path / "bad_shapes.py").write_text(
        "def infinite(*_): return float('inf')\ndef negative(*_): return -1\ndef nothing(*_): return 0\n"
        "def none(*_): pass\ndef refuses(*_): raise ValueError('not today')\n"
        "def leaves(*_): raise SystemExit(0)\ndef bare(*_): raise KeyError('two lines')\ndef text(*_): return '2'\n"
        "def huge(*_): return 10**400\n"
    )
    (tmp_path / "exits_when_imported.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "no_python.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert message in refusal("shape", **recipe)


# As JSON, and in words


def test_a_plan_is_json_and_equal_for_equal_inputs():
    recipe = {"decay": "multistep", "decay_milestones": ("5 steps",), "optimizer": "adamw"}
    plan, same, other = at(4, **recipe), at(4, **recipe), at(5, **recipe)
    text = json.dumps(plan.to_dict(), allow_nan=False)
    assert text == json.dumps(same.to_dict()) and plan == same and hash(plan) == hash(same)
    assert json.loads(text) == plan.to_dict()  # nothing, such as a tuple or a Fraction, changed on the way
    assert json.loads(text) != other.to_dict()
    assert (json.loads(text)["betas"], json.loads(text)["decay_milestones_samples"]) == ([0.9, 0.999], [5])


def test_a_plan_comes_back_from_json():
    plan = at(3, 1000, decay="multistep", decay_milestones=("5 samples",), lr=math.nextafter(0.1, 1))
    content = json.loads(json.dumps(plan.to_dict()))
    again = Plan.from_dict(content)
    assert again == plan and hash(again) == hash(plan)  # lists have become tuples again
    assert [again.lr_at(samples).hex() for samples in range(12)] == [plan.lr_at(samples).hex() for samples in range(12)]
    added = ("noise_scale", "beta_scaling", "beta_floor", "weight_decay_scaling", *REFERENCE)
    old = Plan.from_dict({name: value for name, value in content.items() if name not in added})  # of an older version
    assert replace(old, **{name: getattr(plan, name) for name in added}) == plan
    for change in (content | {"later": 1}, {name: value for name, value in content.items() if name != "ramp"}):
        with pytest.raises(TypeError):
            Plan.from_dict(change)


def test_computing_a_rate_does_not_change_the_plan():
    plan, untouched = plan_of(), plan_of()
    plan.lr_at_step(3)
    assert plan == untouched and plan.to_dict() == untouched.to_dict()


def test_the_explanation_holds_the_numbers():
    plan = make_plan(
        Recipe(lr=1e-4, reference_batch_size=256, warmup="10000 steps", duration="1000000 steps"),
        Topology(8, 32, 4),
        10**8,
    )
    assert explain_plan(plan) == [
        ("global batch", "1024 samples", "8 ranks x 4 micro-batches x 32 samples"),
        ("reference batch", "256 samples", "scale k = global batch / reference batch = 4"),
        ("peak lr", "0.0004", "lr 0.0001 x k (linear scaling)"),
        (
            "warmup",
            "2500 steps",
            "2560000 samples, 1% of the run; linear from 0; the number of samples is the same at any batch size",
        ),
        ("duration", "250000 steps", "256000000 samples, 2.56 epochs"),
        ("decay", "linear", "to 0"),
        ("optimizer", "adamw", "betas 0.9, 0.999, eps 1e-08, weight decay 0.01"),
    ]


def test_the_explanation_shows_what_is_scaled_at_the_reference_and_now():
    rows = explain_plan(at(16, optimizer="adamw", scaled="all", reference_batch_size=4, lr=0.1))
    assert rows[-5:] == [
        ("optimizer", "adamw", "betas 0.6, 0.996, eps 5e-09, weight decay 0.02"),
        ("beta1", "0.6", "0.9 at the reference batch (sde scaling)"),
        ("beta2", "0.996", "0.999 at the reference batch (sde scaling)"),
        ("eps", "5e-09", "1e-08 at the reference batch (sde scaling)"),
        ("weight decay", "0.02", "0.01 at the reference batch (timescale scaling)"),
    ]
    rows = explain_plan(at(16, beta_scaling="half-life", beta_floor=0.8))
    assert rows[-1] == ("momentum", "0.8", "0.9 at the reference batch (half-life scaling, not below 0.8)")
    known = at(16, scaling="noise", noise_scale="32 samples", reference_batch_size=4, lr=1.0)
    assert ("peak lr", "3", "lr 1 x k (B0 + N) / (B + N) with N = 32 samples (noise scaling)") in explain_plan(known)
    old = replace(known, **dict.fromkeys(REFERENCE))  # of a version that did not note them
    assert explain_plan(old) == explain_plan(known)


@pytest.mark.parametrize(
    ("recipe", "how"),
    [
        ({"scaling": "linear"}, "lr 1 x k (linear scaling)"),
        ({"scaling": "sqrt"}, "lr 1 x sqrt(k) (sqrt scaling)"),
        ({"scaling": "auto", "optimizer": "adamw"}, "lr 1 x sqrt(k) (sqrt scaling)"),
        ({"scaling": "none"}, "lr 1 (no scaling)"),
        ({"scaling": "operator:abs"}, "lr 1 x operator:abs(k) (operator:abs scaling)"),
    ],
)
def test_the_explanation_of_a_scaling_rule(recipe, how):
    assert ("peak lr", how) in [(name, how) for name, _, how in explain_plan(at(4, **recipe))]


def test_the_explanation_of_a_duration_in_epochs_and_tokens():
    plan = make_plan(Recipe(**BASE | {"duration": "1 epoch"}), Topology(1, 7), 20, Fraction(5))
    rows = {name: how for name, _, how in explain_plan(plan)}
    assert rows["duration"] == (
        "21 samples, 1.05 epochs, about 105 tokens; the last step runs 1 sample past the requested duration"
    )
    assert dict((name, how) for name, _, how in explain_plan(at(5, 20, duration="1 epoch")))["duration"] == (
        "20 samples, 1 epoch"
    )


def test_the_explanation_of_an_uneven_split_and_of_no_warmup():
    plan = plan_of(Topology(3, 4, 1, 10), warmup="0 steps", optimizer="rmsprop")
    rows = {name: how for name, _, how in explain_plan(plan)}
    assert rows["global batch"] == "3 ranks x 1 micro-batch x at most 4 samples"
    assert rows["warmup"] == "no warmup"
    assert rows["optimizer"] == "alpha 0.99, eps 1e-08, momentum 0.9, weight decay 0.01"
