"""Resuming with another batch or recipe: which learning rate is followed, at once or after a transition."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmup.config.recipe import Recipe
from warmup.config.run import Elastic
from warmup.duration import DataSize
from warmup.elastic import LRSchedule, replan
from warmup.errors import PlanError
from warmup.plan import Plan, Topology
from warmup.planning import make_plan

N = 1000
"""Samples of the training set."""
DATA_SIZE = DataSize(N)
RECIPE = Recipe("sgd", 0.1, 32, warmup="10 steps", duration="100 steps")
"""At the reference of 32: a ramp of 320 samples, and 3200 in all."""
RESCALE, KEEP, ERROR = (Elastic(on_change=word) for word in ("rescale", "keep", "error"))


def topology(batch: int) -> Topology:
    return Topology(1, batch)


def planned(batch: int, recipe: Recipe = RECIPE) -> Plan:
    return make_plan(recipe, topology(batch), N)


def changed(
    before: LRSchedule,
    batch: int,
    samples: int,
    settings: Elastic = RESCALE,
    recipe: Recipe = RECIPE,
) -> LRSchedule:
    return replan(before, samples, recipe, topology(batch), DATA_SIZE, settings)


def closed_form(samples: int, batch: int) -> float:
    """The rate of RECIPE at a batch: linear in it, a ramp over 320 samples, down to 0 at the end."""
    peak = Fraction(1, 10) * Fraction(batch, 32)
    total = math.ceil(3200 / batch) * batch
    warmup = math.floor(Fraction(320, batch) + Fraction(1, 2)) * batch
    if samples < warmup:
        return float(peak * min(1, Fraction(samples + batch, warmup)))  # a change may come between its steps
    return float(peak * max(0, 1 - Fraction(samples - warmup, total - warmup)))


# A schedule


def test_a_run_that_did_not_change_follows_its_plan():
    plan = planned(64)
    schedule = LRSchedule(plan)
    assert (schedule.global_batch_size, schedule.before, schedule.plans()) == (64, None, [plan])
    for samples in range(0, 3300, 64):
        assert schedule.lr_at(samples) == plan.lr_at(samples) == pytest.approx(closed_form(samples, 64), rel=1e-12)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 3200), st.integers(0, 3300), st.floats(0.1, 10))
def test_rescale_is_the_plan_for_the_new_batch_at_the_same_samples(old, new, since, later, lr_multiplier):
    schedule = changed(LRSchedule(planned(old)), new, since)
    assert schedule.lr_at(since) == pytest.approx(closed_form(since, new), rel=1e-12, abs=1e-18)
    assert schedule.lr_at(since + later, lr_multiplier) == planned(new).lr_at(since + later, lr_multiplier)
    assert schedule.global_batch_size == new and schedule.plans() == [planned(new)]


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 3200), st.integers(0, 3300), st.floats(0.1, 10))
def test_keep_is_the_old_plan_at_the_same_samples(old, new, since, later, lr_multiplier):
    schedule = changed(LRSchedule(planned(old)), new, since, KEEP)
    assert schedule.lr_at(since + later, lr_multiplier) == planned(old).lr_at(since + later, lr_multiplier)
    assert schedule.lr_at(since) == pytest.approx(closed_form(since, old), rel=1e-12, abs=1e-18)
    assert schedule.global_batch_size == new  # which the scheduler counts by


def test_a_rewarm_goes_linearly_from_the_old_rate_to_the_new_one():
    """From 32 to 128 after 960 samples, over 5 steps of 128."""
    schedule = changed(LRSchedule(planned(32)), 128, 960, Elastic(rewarm="5 steps"))
    assert (schedule.since, schedule.rewarm_samples) == (960, 640)
    assert schedule.lr_at(960) == planned(32).lr_at(960)  # the first step is at the old rate: no jump
    for step in range(5):
        at = 960 + 128 * step
        expected = closed_form(at, 32) + step / 5 * (closed_form(at, 128) - closed_form(at, 32))
        assert schedule.lr_at(at) == pytest.approx(expected, rel=1e-12)
    for at in (960 + 640, 960 + 641, 3000, 5000):
        assert schedule.lr_at(at) == planned(128).lr_at(at)
    assert [plan.global_batch_size for plan in schedule.plans()] == [128, 32]


@given(
    st.integers(1, 200), st.integers(1, 200), st.integers(0, 3200), st.integers(1, 1000), st.integers(0, 999),
    st.floats(0.1, 10),
)  # fmt: skip
def test_during_a_transition_the_rate_is_between_the_two(old, new, since, length, passed, lr_multiplier):
    schedule = changed(LRSchedule(planned(old)), new, since, Elastic(rewarm=f"{length} samples"))
    at = since + passed
    rate, ends = schedule.lr_at(at, lr_multiplier), [planned(batch).lr_at(at, lr_multiplier) for batch in (old, new)]
    if passed >= length or old == new:
        assert rate == ends[1]
    else:
        progress = Fraction(passed, length)
        expected = Fraction(ends[0]) + (Fraction(ends[1]) - Fraction(ends[0])) * progress
        assert rate == pytest.approx(float(expected), rel=1e-12, abs=1e-18)
        assert min(ends) - 1e-15 <= rate <= max(ends) + 1e-15
    assert schedule.lr_at(since, lr_multiplier) == planned(new if old == new else old).lr_at(since, lr_multiplier)


def test_a_change_during_a_rewarm_begins_at_the_rate_of_the_transition():
    first = changed(LRSchedule(planned(32)), 64, 960, Elastic(rewarm="1000 samples"))
    second = changed(first, 128, 1152, Elastic(rewarm="4 steps"))
    assert [plan.global_batch_size for plan in second.plans()] == [128, 64, 32]
    assert second.lr_at(1152) == first.lr_at(1152)
    in_transition = closed_form(1152, 32) + 0.192 * (closed_form(1152, 64) - closed_form(1152, 32))
    assert second.lr_at(1152) == pytest.approx(in_transition, rel=1e-12)
    at = 1152 + 256  # the rate that it comes from moves on meanwhile
    old = closed_form(at, 32) + 0.448 * (closed_form(at, 64) - closed_form(at, 32))
    assert second.lr_at(at) == pytest.approx((old + closed_form(at, 128)) / 2, rel=1e-12)
    assert second.lr_at(1152 + 512) == planned(128).lr_at(1152 + 512)


def test_a_schedule_whose_transition_is_over_is_simplified():
    plain = LRSchedule(planned(64))
    schedule = LRSchedule(planned(128), 128, LRSchedule(planned(64)), since=640, rewarm_samples=256)
    assert plain.simplified(10**9) is plain
    assert schedule.simplified(895) is schedule
    assert schedule.simplified(896) == schedule.simplified(10**9) == LRSchedule(planned(128))
    kept = dataclasses.replace(schedule, global_batch_size=32)
    assert kept.simplified(896) == LRSchedule(planned(128), 32)
    for samples in range(896, 3300, 100):
        assert schedule.simplified(896).lr_at(samples) == schedule.lr_at(samples)


def test_a_change_after_a_rewarm_forgets_it():
    first = changed(LRSchedule(planned(32)), 64, 960, Elastic(rewarm="2 steps"))
    second = changed(first, 128, 960 + 128, Elastic(rewarm="2 steps"))
    assert [plan.global_batch_size for plan in second.plans()] == [128, 64]
    assert changed(first, 128, 960 + 127, Elastic(rewarm="2 steps")).plans() == [planned(128), planned(64), planned(32)]


# On disk


DETAILED = dataclasses.replace(
    RECIPE,
    decay="multistep",
    decay_milestones=("50 steps", "75%"),
    lr=math.nextafter(0.1, 1),
    betas=(0.9, 1 - 1e-16),
)


@pytest.mark.parametrize("recipe", [RECIPE, DETAILED, dataclasses.replace(RECIPE, decay="wsd", optimizer="adamw")])
def test_a_schedule_in_json_is_the_same_schedule(recipe):
    """Equal and with the same bits in every rate, with all that it is made of."""
    plain = LRSchedule(planned(48, recipe))
    rewarming = changed(plain, 64, 960, Elastic(rewarm="1000 samples"), recipe)
    nested = changed(rewarming, 128, 1152, Elastic(rewarm="4 steps"), recipe)
    kept = changed(nested, 96, 1280, KEEP, recipe)
    assert len(nested.plans()) == 3
    for schedule in (plain, rewarming, nested, kept):
        content = json.loads(json.dumps(schedule.to_dict(), allow_nan=False))
        again = LRSchedule.from_dict(content)
        assert again == schedule and again.to_dict() == schedule.to_dict() == content
        for samples in range(0, 3400, 37):
            assert again.lr_at(samples, 0.3) == schedule.lr_at(samples, 0.3)


@given(st.floats(1e-300, 1e3), st.floats(0, 0.999), st.integers(1, 10**6), st.integers(0, 10**15))
def test_no_bit_of_a_number_is_lost(lr, beta, batch, samples):
    recipe = dataclasses.replace(RECIPE, lr=lr, betas=(beta, 0.9), scaling="sqrt", duration="1G epochs")
    schedule = LRSchedule(planned(32, recipe), batch, LRSchedule(planned(batch, recipe), 7), samples, 2 * samples + 1)
    again = LRSchedule.from_dict(json.loads(json.dumps(schedule.to_dict())))
    assert again == schedule and again.lr_at(samples).hex() == schedule.lr_at(samples).hex()


GOOD = json.dumps(LRSchedule(planned(64), 64, LRSchedule(planned(32)), 640, 256).to_dict())


DAMAGES = {
    "no before": lambda content: content.pop("before"),
    "no plan": lambda content: content.pop("plan"),
    "too much": lambda content: content.update(extra=1),
    "a plan that lacks something": lambda content: content["plan"].pop("ramp"),
    "a plan with too much": lambda content: content["plan"].update(extra=1),
    "before without a plan": lambda content: content["before"].pop("plan"),
    "before is a word": lambda content: content.update(before="earlier"),
    "before is a list": lambda content: content.update(before=[1]),
    "plan is a list": lambda content: content.update(plan=[]),
    "plan is null": lambda content: content.update(plan=None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_schedule_is_refused(damage):
    content = json.loads(GOOD)
    assert LRSchedule.from_dict(content).since == 640
    DAMAGES[damage](content)
    with pytest.raises(ValueError, match="^not a learning-rate schedule: "):
        LRSchedule.from_dict(content)


@pytest.mark.parametrize("content", [None, [], "plan", 3])
def test_another_kind_of_json_is_no_schedule(content):
    with pytest.raises(ValueError, match="^not a learning-rate schedule: "):
        LRSchedule.from_dict(content)


# What a resumed run follows


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(["rescale", "keep", "error"]), st.integers(0, 3000))
def test_the_same_batch_split_differently_is_the_same_schedule(world, accumulation, on_change, samples):
    batch = 96
    schedule = LRSchedule(make_plan(RECIPE, Topology(2, 48), N))
    split = Topology(world, -(-batch // (world * accumulation)), accumulation, batch)
    assert replan(schedule, samples, RECIPE, split, DATA_SIZE, Elastic(on_change, rewarm="5 steps")) == schedule


def test_the_same_batch_during_a_transition_continues_it():
    schedule = changed(LRSchedule(planned(32)), 64, 960, Elastic(rewarm="1000 samples"))
    assert replan(schedule, 1024, RECIPE, Topology(4, 8, 2), DATA_SIZE, Elastic(rewarm="3 steps")) == schedule


def test_another_batch_is_refused_where_asked_for():
    with pytest.raises(PlanError) as caught:
        changed(LRSchedule(planned(32)), 48, 640, ERROR)
    assert caught.value.code == "batch-changed"
    assert str(caught.value) == (
        "elastic.on_change: the global batch was 32 and would be 48; keep it with --batch.global_size 32, or allow the "
        "change with rescale or keep"
    )


def test_the_batch_that_was_is_the_one_last_trained_with():
    """Not the one that a kept rate was planned for."""
    kept = changed(LRSchedule(planned(32)), 64, 640, KEEP)
    assert changed(kept, 64, 704, ERROR).global_batch_size == 64
    with pytest.raises(PlanError, match="the global batch was 64 and would be 32;"):
        changed(kept, 32, 704, ERROR)


@pytest.mark.parametrize("settings", [KEEP, RESCALE, ERROR, Elastic("keep", "5 steps")])
def test_a_kept_rate_stays_kept_when_the_run_is_started_again(settings):
    """With the same recipe and batch nothing has changed, whatever the setting is for when something does."""
    kept = changed(LRSchedule(planned(32)), 64, 640, KEEP)
    again = changed(kept, 64, 1280, settings)
    assert again == kept
    assert [again.lr_at(samples) for samples in (1280, 2560)] == [planned(32).lr_at(s) for s in (1280, 2560)]


def test_keep_after_rescale_keeps_the_rescaled_rate():
    rescaled = changed(LRSchedule(planned(32)), 64, 640)
    kept = changed(rescaled, 96, 1280, KEEP)
    assert (kept.global_batch_size, kept.plans()) == (96, [planned(64)])
    assert kept.lr_at(1280) == pytest.approx(closed_form(1280, 64), rel=1e-12)


def test_rescale_after_keep_is_for_the_new_batch():
    kept = changed(LRSchedule(planned(32)), 64, 640, KEEP)
    assert changed(kept, 96, 1280) == LRSchedule(planned(96))
    assert changed(kept, 32, 1280) == LRSchedule(planned(32))  # back at the batch that the rate is of


def test_keep_during_a_rewarm_goes_on_with_it():
    schedule = changed(LRSchedule(planned(32)), 64, 960, Elastic(rewarm="1000 samples"))
    kept = changed(schedule, 96, 1152, KEEP)
    assert kept.global_batch_size == 96
    assert [kept.lr_at(samples) for samples in (1152, 1500, 2000)] == [schedule.lr_at(s) for s in (1152, 1500, 2000)]


@pytest.mark.parametrize(
    ("rewarm", "samples"),
    [
        ("5 steps", 5 * 48),  # of the new batch
        ("0.5 steps", 24),
        ("0.1 epochs", 100),
        ("2k samples", 2000),
        ("10%", 320),
        ("0.01%", 0),  # 0.32 samples
        ("2.5 samples", 3),
    ],
)
def test_a_rewarm_in_every_unit(rewarm, samples):
    schedule = changed(LRSchedule(planned(32)), 48, 640, Elastic(rewarm=rewarm))
    assert (schedule.rewarm_samples, schedule.since, schedule.before) == (samples, 640, LRSchedule(planned(32)))
    assert schedule.lr_at(640 + samples) == planned(48).lr_at(640 + samples)


def test_a_rewarm_with_keep_has_nowhere_to_go():
    kept = changed(LRSchedule(planned(32)), 48, 640, Elastic("keep", "5 steps"))
    assert (kept.before, kept.rewarm_samples) == (None, 0)


def test_a_rewarm_in_epochs_needs_their_length():
    schedule = LRSchedule(make_plan(RECIPE, topology(32), None))
    with pytest.raises(PlanError, match='^elastic.rewarm: "1 epochs" needs the number of training samples'):
        replan(schedule, 640, RECIPE, topology(48), DataSize(), Elastic(rewarm="1 epochs"))


def test_another_recipe_at_the_same_batch_is_followed():
    other = dataclasses.replace(RECIPE, lr=0.05, decay="cosine")
    for settings in (RESCALE, KEEP, ERROR):
        assert changed(LRSchedule(planned(32)), 32, 640, settings, other) == LRSchedule(planned(32, other))
    schedule = changed(LRSchedule(planned(32)), 32, 640, Elastic(rewarm="10 steps"), other)
    assert schedule.lr_at(640) == planned(32).lr_at(640)
    assert schedule.lr_at(960) == planned(32, other).lr_at(960)


def test_another_recipe_with_a_kept_rate_is_planned_at_the_kept_batch():
    other = dataclasses.replace(RECIPE, lr=0.05)
    kept = changed(LRSchedule(planned(32)), 64, 640, KEEP, other)
    assert (kept.plan, kept.global_batch_size) == (planned(32, other), 64)


def test_a_schedule_of_an_older_version_is_the_same_schedule() -> None:
    """Its plan does not say where its numbers come from: that changes nothing."""
    recipe = Recipe(reference_batch_size=8, duration="100 steps", scaling="sqrt", beta_scaling="sde")
    plan = make_plan(recipe, Topology(1, 32))
    content = {name: value for name, value in plan.to_dict().items() if not name.startswith("reference_b")}
    for name in ("reference_eps", "reference_momentum", "reference_alpha", "reference_weight_decay", "beta_scaling"):
        del content[name]
    old = LRSchedule(Plan.from_dict({**content, "reference_batch_size": 8}))
    elastic = Elastic(rewarm="10 steps")
    assert replan(old, 64, recipe, Topology(2, 16), DataSize(), elastic) == old
    assert (
        replan(old, 64, dataclasses.replace(recipe, beta_scaling="half-life"), Topology(2, 16), DataSize(), elastic)
        != old
    )


@pytest.mark.parametrize("field", [{"weight_decay": 0.5}, {"betas": (0.8, 0.9)}, {"max_grad_norm": 7.0}])
def test_a_change_that_is_not_of_the_rate_is_followed_too(field):
    other = dataclasses.replace(RECIPE, **field)
    schedule = changed(LRSchedule(planned(32)), 32, 640, RESCALE, other)
    assert schedule.plan == planned(32, other) != planned(32)


def test_a_recipe_without_a_plan_is_refused():
    with pytest.raises(PlanError, match="recipe.reference_batch_size"):
        changed(LRSchedule(planned(32)), 48, 640, RESCALE, dataclasses.replace(RECIPE, reference_batch_size=None))


def test_a_noise_scale_counts_where_it_is_used_at_each_step() -> None:
    """With scaling noise and a warmup of the batch; otherwise the peak has all that comes of it."""
    recipe = dataclasses.replace(RECIPE, scaling="noise", noise_scale="100 samples")
    other = dataclasses.replace(recipe, noise_scale="900 samples")  # at the reference the peak is the same
    for grown, followed in (
        (Topology(1, 32, batch_warmup="50 steps", batch_start_size=8), True),
        (topology(32), False),
    ):
        old = LRSchedule(make_plan(recipe, grown, N))
        new = replan(old, 64, other, grown, DATA_SIZE, RESCALE)
        assert (new.plan.noise_scale == 900, new.plan.peak_lr) == (followed, 0.1)
