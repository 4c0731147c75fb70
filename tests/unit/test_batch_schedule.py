"""The warmup of the batch: which size a step has, how many steps there are, and which rate they have."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmup.batch_schedule import BatchSchedule, Phase
from warmup.config.recipe import Recipe
from warmup.config.run import Batch
from warmup.duration import round_half_up
from warmup.errors import PlanError, UserError
from warmup.explain import explain_plan
from warmup.lint import lint
from warmup.plan import Plan, Topology
from warmup.planning import make_plan


@st.composite
def schedules(draw: st.DrawFn, most: int = 60) -> BatchSchedule:
    size = draw(st.integers(1, most))
    return BatchSchedule(size, draw(st.integers(1, size)), draw(st.integers(0, 3000)))


def walk(schedule: BatchSchedule, end: int, start: int = 0) -> list[tuple[int, int]]:
    """(position, size) of each step from `start` until the position is `end` or beyond."""
    steps = []
    while start < end:
        steps.append((start, schedule.size_at(start)))
        start += steps[-1][1]
    return steps


# Which size a step has


def test_the_sizes_of_a_batch_that_grows_from_2_to_5_over_12_samples():
    """At 4 samples 3, at 8 samples 4 and at 12 samples 5: 2 2 3 3(at 7) 4(at 10), then 5."""
    schedule = BatchSchedule(5, 2, 12)
    assert [size for _, size in walk(schedule, 30)] == [2, 2, 3, 3, 4, 5, 5, 5, 5]
    assert list(schedule.phases()) == [Phase(0, 0, 2), Phase(2, 4, 3), Phase(4, 10, 4), Phase(5, 14, 5)]
    assert [schedule.size_at(samples) for samples in (3, 4, 7, 8, 11, 12, 10**30)] == [2, 3, 3, 4, 4, 5, 5]


@given(schedules(), st.integers(0, 4000))
def test_a_size_is_the_rounded_down_line_from_start_to_size(schedule, samples):
    share = Fraction(min(samples, schedule.warmup_samples), schedule.warmup_samples) if schedule.warmup_samples else 1
    line = schedule.start_size + (schedule.size - schedule.start_size) * share
    assert schedule.size_at(samples) == math.floor(line)


@given(schedules(), st.integers(0, 4000), st.integers(1, 4000))
def test_phases_and_counts_are_those_of_a_walk_step_by_step(schedule, start, length):
    steps = walk(schedule, start + length, start)
    assert schedule.steps_between(start, start + length) == len(steps)
    phases = list(schedule.phases(start))
    assert all(before.size < after.size for before, after in pairwise(phases)) and phases[-1].size == schedule.size
    for phase in phases:
        if phase.step < len(steps):
            assert (phase.samples, phase.size) == steps[phase.step]
            assert phase.step == 0 or steps[phase.step - 1][1] < phase.size
    if start == 0:
        assert [schedule.position(step) for step in range(len(steps))] == [position for position, _ in steps]
    assert schedule.steps_between(start, start) == schedule.steps_between(start, 0) == 0


def test_more_samples_than_floats_can_tell_apart():
    schedule = BatchSchedule(3, 1, 10**30)
    assert schedule.size_at(10**30 // 2 - 1) == 1 and schedule.size_at(10**30 // 2) == 2
    assert schedule.warmup_steps == 10**30 // 2 + 10**30 // 4
    assert schedule.position(schedule.warmup_steps) == 10**30


# The plan


def plan_of(start: int | None = 8, batch_warmup: str = "1000 samples", lr: str = "scale", **recipe: object) -> Plan:
    """At a batch of 32 that is its reference: 3200 samples, the first 320 of them warmup."""
    fields = {"optimizer": "sgd", "lr": 0.1, "warmup": "10 steps", "duration": "100 steps"} | recipe
    return make_plan(Recipe(reference_batch_size=32, **fields), Topology(1, 32, 1, 32, batch_warmup, start, lr))


@given(
    st.integers(1, 64), st.integers(1, 64), st.integers(0, 3000), st.integers(1, 3000), st.integers(0, 2000),
    st.sampled_from(["samples", "steps"]),
)  # fmt: skip
def test_a_plan_covers_each_of_its_samples_once(start, more, growth, duration, warmup, warmup_scaling):
    size = start + more
    lengths = {"warmup": f"{warmup} samples", "duration": f"{duration} samples", "warmup_scaling": warmup_scaling}
    recipe = Recipe("sgd", 0.1, 16, **lengths)
    plan = make_plan(recipe, Topology(1, size, 1, size, f"{growth} samples", start))
    steps = walk(plan.batch_schedule, duration)
    covered = [sample for position, count in steps for sample in range(position, position + count)]
    assert covered == list(range(plan.total_samples)) and plan.total_samples - size < duration <= plan.total_samples
    assert (plan.total_steps, plan.duration_samples) == (len(steps), duration)
    sizes = [count for _, count in steps]
    assert sizes == sorted(sizes) and sizes[0] == (start if growth else size)
    assert plan.batch_warmup_samples == growth
    small = [count for _, count in walk(plan.batch_schedule, growth + size) if count < size]
    assert plan.batch_warmup_steps == len(small)
    ends = [
        0,
        *(position + count for position, count in walk(plan.batch_schedule, warmup * (2 + size // 8) + 3 * size)),
    ]
    assert plan.warmup_samples == ends[plan.warmup_steps]
    if not warmup:
        assert plan.warmup_steps == 0
    elif warmup_scaling == "steps":
        assert plan.warmup_steps == max(1, round_half_up(Fraction(warmup, 16)))
    else:
        assert abs(plan.warmup_samples - warmup) == min(abs(end - warmup) for end in ends[1:])


def test_without_a_warmup_of_the_batch_nothing_changes():
    plan = plan_of(None, "0 steps")
    assert (plan.batch_start_size, plan.batch_warmup_steps, plan.batch_warmup_samples) == (None, 0, 0)
    assert plan == make_plan(Recipe("sgd", 0.1, 32, warmup="10 steps", duration="100 steps"), Topology(1, 32))
    assert {plan.batch_at(samples) for samples in (0, 1, 10**9)} == {32} and plan.lr_at_step(4) == 0.1 * 0.5
    old = {name: value for name, value in plan.to_dict().items() if not name.startswith("batch_")}
    assert Plan.from_dict(old) == plan  # a plan.json of an earlier version


def test_a_batch_that_is_at_its_size_from_the_start():
    """As where batch.per_device times ranks is the start size."""
    plan = plan_of(32)
    assert (plan.batch_warmup_steps, plan.total_steps, plan.total_samples) == (0, 100, 3200)
    assert [plan.lr_at_step(step) for step in range(101)] == [
        plan_of(None, "0 steps").lr_at_step(step) for step in range(101)
    ]


@pytest.mark.parametrize(
    ("text", "samples"),
    [("1000 samples", 1000), ("10 steps", 320), ("12.5%", 400), ("2 epochs", 200), ("1k tokens", 125)],
)
def test_the_length_is_written_like_that_of_the_warmup(text, samples):
    """Steps are at the reference batch, % is of the duration: not at the batch that the run has."""
    recipe = Recipe("sgd", 0.1, 32, duration="100 steps")
    plan = make_plan(recipe, Topology(2, 32, 1, 64, text, 8), num_samples=100, tokens_per_sample=Fraction(8))
    assert plan.batch_warmup_samples == samples


@pytest.mark.parametrize(("scaling", "factor"), [("linear", 1 / 4), ("sqrt", 1 / 2), ("none", 1)])
def test_the_rate_is_that_of_the_curve_times_the_rule_at_the_size_over_the_rule_at_the_batch(scaling, factor):
    plan, whole = plan_of(decay="constant", warmup="0 steps", scaling=scaling), plan_of(None, "0 steps")
    assert plan.lr_at(0) == pytest.approx(0.1 * factor, rel=1e-15)
    k = {"linear": lambda size: size / 32, "sqrt": lambda size: math.sqrt(size / 32), "none": lambda size: 1.0}[scaling]
    for samples in (0, 3, 500, 999, 1000, 3000):
        assert plan.lr_at(samples) == pytest.approx(0.1 * k(plan.batch_at(samples)), rel=1e-14)
    assert plan.lr_at(1000) == 0.1 and whole.lr_at(1000) == pytest.approx(0.1 * (1 - 680 / 2880), rel=1e-14)


def test_the_rate_can_be_kept():
    plan = plan_of(lr="keep", decay="constant", warmup="0 steps")
    assert {plan.lr_at_step(step) for step in range(60)} == {0.1}


def test_the_warmup_of_the_rate_ends_at_the_end_of_a_step():
    """The fraction of the ramp is that at the end of the step, so the step that ends it is at the peak."""
    plan = plan_of(lr="keep")
    first, last = plan.batch_schedule.position(0), plan.batch_schedule.position(plan.warmup_steps - 1)
    assert last + plan.batch_at(last) == plan.warmup_samples and abs(plan.warmup_samples - 320) < 16
    assert plan.lr_at(first) == pytest.approx(0.1 * 8 / plan.warmup_samples, rel=1e-14)
    assert plan.lr_at(last) == 0.1


def test_the_peak_that_is_capped_is_what_shrinks():
    plan = plan_of(max_lr=0.05, decay="constant", warmup="0 steps")
    assert plan.lr_at(0) == pytest.approx(0.05 / 4, rel=1e-15)


def test_moments_are_those_of_the_whole_batch():
    assert plan_of(beta_scaling="half-life").momentum == plan_of(None, "0 steps", beta_scaling="half-life").momentum


def test_what_is_said_of_it():
    rows = {name: (value, how) for name, value, how in explain_plan(plan_of())}
    value, how = rows["batch warmup"]
    assert (value, plan_of().total_steps) == ("61 steps", 130)
    assert how == (
        "from 8 to 32 over 1000 samples, 30 steps more than without; 14 from sample 254 on, 20 from sample 516 on, 26 "
        "from sample 762 on, 32 from sample 1017 on; the learning rate follows its size"
    )
    assert "batch warmup" not in {name for name, _, _ in explain_plan(plan_of(None, "0 steps"))}
    (short,) = [how for name, _, how in explain_plan(plan_of(31, "7 samples")) if name == "batch warmup"]
    assert "; 32 from sample 31 on; " in short


# What is refused


def codes(plan: Plan) -> list[str]:
    return [finding.code for finding in lint(plan)]


def test_findings():
    assert codes(plan_of()) == []
    assert codes(plan_of(8, "2000 samples")) == [] and codes(plan_of(8, "4000 samples")) == ["batch-never-full"]
    split = Topology(4, 4, 2, 32, "1000 samples", 6)
    (finding,) = lint(make_plan(Recipe("sgd", 0.1, 32, duration="100 steps"), split))
    assert (finding.code, finding.level) == ("idle-ranks", "warning")
    assert finding.message.startswith(
        "batch.start_size: 6 samples fill only 6 of the 8 micro-batches of a step, so some ranks idle for the first "
    )
    (finding,) = lint(make_plan(Recipe("sgd", 0.1, 32, duration="100 steps"), replace(split, batch_start_size=1)))
    assert finding.message.startswith("batch.start_size: 1 sample fills only 1 of the 8 micro-batches of a step")
    with pytest.raises(PlanError, match=r"batch.start_size: 33 is above the global batch size of 32") as caught:
        plan_of(33)
    assert caught.value.code == "batch-shrinks"
    with pytest.raises(PlanError, match="more than 100000 sizes") as caught:
        make_plan(Recipe("sgd", 0.1, 32), Topology(1, 10**6, 1, 10**6, "1e12 samples", 1), num_samples=10**7)
    assert caught.value.code == "too-large"
    with pytest.raises(PlanError, match='batch.warmup: "2 epochs" needs the number of training samples'):
        plan_of(8, "2 epochs")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"warmup": "10%"}, "batch.warmup and batch.start_size: give both"),
        ({"start_size": 8}, "batch.warmup and batch.start_size: give both"),
        ({"warmup": "10 miles", "start_size": 8}, "batch.warmup: '10 miles' has the unknown unit"),
        ({"warmup": "10%", "start_size": 0}, "batch.start_size: 0 is not 1 or above"),
    ],
)
def test_the_section_is_checked(fields, message):
    with pytest.raises(UserError) as caught:
        Batch(**fields)
    assert str(caught.value).startswith(message)


def test_the_topology_of_a_section_has_its_warmup():
    batch = Batch(per_device=4, global_size=30, warmup="10%", start_size=6, warmup_lr="keep")
    assert Topology.from_batch(batch, 3) == Topology(3, 4, 3, 30, "10%", 6, "keep")
