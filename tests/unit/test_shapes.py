"""Ramps and decays: known points, edges, and the curves of transformers and torch.

The shift: these count the rate of step s at progress s / W in the warmup, so their first step is at 0. Ours is at
(s + 1) / W, so that the first step moves. Hence ours at step s of the ramp is theirs at s + 1, and ours at step s of
the decay is theirs at s.
"""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as theirs
from transformers import get_scheduler, get_wsd_schedule

from warmup import shapes
from warmup.config.recipe import Recipe
from warmup.errors import PlanError
from warmup.plan import Topology
from warmup.planning import make_plan

rates = st.floats(1e-8, 10.0)
fractions = st.fractions(0, 1, max_denominator=10**6)
NAN = math.nan


def curve(steps, **recipe):
    """Rates of steps 0..steps-1 at a batch of 1, the reference's."""
    plan = make_plan(Recipe(**{"optimizer": "sgd", "lr": 1.0, "reference_batch_size": 1} | recipe), Topology(1, 1))
    return [plan.lr_at_step(step) for step in range(steps)]


def their_curve(steps, make, lr=1.0):
    """Rates of steps 0..steps-1 by a scheduler of torch's or transformers', called once per step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    lrs = []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler.step()
    return lrs


def assert_same_but_for_the_shift(ours, other, warmup):
    """`other` has one rate more than `ours`."""
    assert ours == pytest.approx([*other[1 : warmup + 1], *other[warmup:-1]], rel=1e-12, abs=1e-15)


# Known points


@pytest.mark.parametrize(
    ("name", "values"),  # at fractions -1, 0, 1/4, 1/2, 1, 2
    [
        ("linear", (1, 1, 2, 3, 5, 5)),
        ("exponential", (1, 1, 5**0.25, 5**0.5, 5, 5)),
        ("cosine", (1, 1, 1 + 4 * (1 - math.sqrt(0.5)) / 2, 3, 5, 5)),
        ("constant", (1, 1, 1, 1, 1, 1)),
        ("polynomial", (1, 1, 1.25, 2, 5, 5)),  # power 2
    ],
)
def test_ramps_from_1_to_5(name, values):
    ramp = shapes.ramp(name, power=2.0)
    for fraction, value in zip((-1, 0, Fraction(1, 4), Fraction(1, 2), 1, 2), values, strict=True):
        assert ramp(1.0, 5.0, fraction) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("name", "parameters", "values"),  # from 8 to 2 at fractions -1, 0, 1/4, 1/2, 3/4, 1, 2 after a warmup of 1/5
    [
        ("constant", {}, (8, 8, 8, 8, 8, 8, 8)),
        ("linear", {}, (8, 8, 6.5, 5, 3.5, 2, 2)),
        ("cosine", {"cycles": 1}, (8, 8, 5 + 3 * 0.5**0.5, 5, 5 - 3 * 0.5**0.5, 2, 2)),
        ("cosine", {"cycles": 2}, (8, 8, 5, 8, 5, 2, 2)),
        ("polynomial", {"power": 1.0}, (8, 8, 6.5, 5, 3.5, 2, 2)),
        ("polynomial", {"power": 2.0}, (8, 8, 2 + 6 * 0.5625, 3.5, 2.375, 2, 2)),
        # the run's position is 1/5 + 4/5 of these: 0.2, 0.4, 0.6, 0.8, 1
        ("step", {"length": Fraction(3, 10), "gamma": 0.5}, (8, 8, 4, 2, 2, 2, 2)),
        ("multistep", {"milestones": (Fraction(2, 5), Fraction(3, 4)), "gamma": 0.5}, (8, 8, 4, 4, 2, 2, 2)),
        ("multistep", {"milestones": (), "gamma": 0.5}, (8, 8, 8, 8, 8, 8, 8)),
        ("exponential", {"length": None, "gamma": NAN}, (8, 8, 8 * 0.25**0.25, 4, 8 * 0.25**0.75, 2, 2)),
        ("exponential", {"length": Fraction(2, 5), "gamma": 0.5}, (8, 8, 8 * 0.5**0.5, 4, 8 * 0.5**1.5, 2, 2)),
        ("inverse_sqrt", {"length": None}, (8, 8, 8 / 2**0.5, 8 / 3**0.5, 4, 8 / 5**0.5, 8 / 5**0.5)),
        ("inverse_sqrt", {"length": Fraction(1, 15)}, (8, 8, 4, 8 / 7**0.5, 8 / 10**0.5, 8 / 13**0.5, 8 / 13**0.5)),
        ("wsd", {"length": Fraction(2, 5), "cooldown": "linear"}, (8, 8, 8, 8, 5, 2, 2)),
        ("wsd", {"length": Fraction(4, 5), "cooldown": "linear"}, (8, 8, 6.5, 5, 3.5, 2, 2)),
        ("1-sqrt", {}, (8, 8, 5, 8 - 6 * 0.5**0.5, 8 - 6 * 0.75**0.5, 2, 2)),
        ("wsd", {"length": Fraction(2, 5), "cooldown": "1-sqrt"}, (8, 8, 8, 8, 8 - 6 * 0.5**0.5, 2, 2)),
        ("wsd", {"length": Fraction(4, 5), "cooldown": "cosine"}, (8, 8, 5 + 3 * 0.5**0.5, 5, 5 - 3 * 0.5**0.5, 2, 2)),
    ],
)
def test_decays_from_8_to_2(name, parameters, values):
    decay = shapes.decay(name, **parameters)
    for fraction, value in zip((-1, 0, *(Fraction(n, 4) for n in (1, 2, 3)), 1, 2), values, strict=True):
        assert decay(8.0, 2.0, fraction, Fraction(1, 5)) == pytest.approx(value, rel=1e-14)


def test_floored_decays_never_go_below_the_end():
    for name in ("step", "multistep", "exponential"):
        decay = shapes.decay(name, length=Fraction(1, 10), milestones=(Fraction(1, 10),) * 5, gamma=0.1)
        assert decay(8.0, 2.0, Fraction(9, 10), 0) == 2.0
    assert shapes.decay("inverse_sqrt", length=Fraction(1, 100))(8.0, 2.0, 1, 0) == 2.0


@given(st.sampled_from(["linear", "exponential", "cosine", "polynomial"]), rates, rates, fractions, fractions)
def test_ramps_are_exact_at_both_ends_and_monotone_between(name, start, peak, first, second):
    ramp = shapes.ramp(name, power=1.5)
    assert (ramp(start, peak, 0), ramp(start, peak, 1)) == (start, peak)
    low, high = (ramp(start, peak, fraction) for fraction in sorted((first, second)))
    slack = 1e-12 * max(start, peak)
    assert (low <= high + slack) if start <= peak else (low >= high - slack)
    assert min(start, peak) - slack <= low <= max(start, peak) + slack


@given(st.sampled_from(sorted(shapes.DECAYS)), rates, st.floats(0.01, 1.0), fractions, fractions)
def test_decays_start_at_the_peak_never_rise_and_stay_above_the_end(name, peak, end_ratio, first, second):
    end, warmup_fraction = end_ratio * peak, Fraction(1, 5)
    parameters = {
        "cycles": 1, "power": 1.5, "gamma": 0.5, "length": Fraction(3, 10), "milestones": (Fraction(1, 2),),
        "cooldown": "1-sqrt",
    }  # fmt: skip
    decay = shapes.decay(name, **parameters)
    assert decay(peak, end, 0, warmup_fraction) == peak
    early, late = (decay(peak, end, fraction, warmup_fraction) for fraction in sorted((first, second)))
    slack = 1e-12 * peak
    assert late <= early + slack and end - slack <= late
    if name in ("linear", "cosine", "polynomial", "1-sqrt", "wsd"):
        assert decay(peak, end, 1, warmup_fraction) == end


@pytest.mark.parametrize(("ramp", "decay"), list(product(shapes.RAMPS, shapes.DECAYS)))
def test_any_ramp_joins_any_decay(ramp, decay):
    lrs = curve(
        41, ramp=ramp, decay=decay, warmup="10 steps", duration="40 steps", start_lr=0.25, end_lr=0.125,
        decay_length="20 steps", decay_milestones=("20 steps", "30 steps"), decay_gamma=0.5,
    )  # fmt: skip
    assert lrs[9] == (0.25 if ramp == "constant" else 1.0)
    assert lrs[10] == 1.0
    if ramp != "constant":
        assert lrs[0] > 0.25 and all(early < late for early, late in pairwise(lrs[:10]))
    assert all(early >= late for early, late in pairwise(lrs[10:]))
    ends = {"constant": 1.0, "inverse_sqrt": 0.4**0.5, "exponential": 0.5**1.5, "step": 0.25, "multistep": 0.25}
    assert lrs[40] == pytest.approx(ends.get(decay, 0.125), rel=1e-14)


# Refusals


@pytest.mark.parametrize(("start", "peak"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0)])
def test_an_exponential_cannot_touch_zero(start, peak):
    with pytest.raises(ValueError, match="needs rates above 0 at both ends, not"):
        shapes.exponential_ramp(start, peak, 0.5)


def test_an_inverse_square_root_needs_a_time_scale():
    with pytest.raises(ValueError, match="needs a warmup or recipe.decay_length as its time scale"):
        shapes.inverse_sqrt_decay(1.0, 0.0, 0.5, 0)
    assert shapes.inverse_sqrt_decay(1.0, 0.0, 1.0, 0, 1.0) == math.sqrt(0.5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cosin", "recipe.ramp: 'cosin' is none of linear, exponential, cosine, constant, polynomial, nor module:fun"),
        ("no_such_module:f", "recipe.ramp: 'no_such_module:f' cannot be imported: No module named 'no_such_module'"),
        ("math:no_such", "recipe.ramp: 'math:no_such' cannot be imported: module 'math' has no attribute 'no_such'"),
        ("math:", "recipe.ramp: 'math:' cannot be imported"),
    ],
)
def test_unknown_names_and_functions_are_refused(name, message):
    with pytest.raises(PlanError) as caught:
        shapes.ramp(name, power=2.0)
    assert caught.value.code == "shape"
    assert str(caught.value).startswith(message)


def test_a_users_own_shapes(tmp_path, monkeypatch):
    (tmp_path / "own_shapes.py").write_text(
        "def quarter(start, peak, fraction):\n    return peak / 4 if fraction < 1 else peak\n"
        "def fall(peak, end, fraction, warmup_fraction):\n    return peak * (1 - float(fraction))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    lrs = curve(7, ramp="own_shapes:quarter", decay="own_shapes:fall", warmup="2 steps", duration="4 steps")
    assert lrs == [0.25, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0]  # it need not clamp: the fraction ends at 1


# transformers, get_scheduler


@pytest.mark.parametrize("warmup", [0, 1, 4, 10])
@pytest.mark.parametrize(
    ("name", "specific", "recipe"),
    [
        ("constant_with_warmup", {}, {"decay": "constant"}),
        ("linear", {}, {"decay": "linear"}),
        ("cosine", {}, {"decay": "cosine"}),
        ("cosine_with_min_lr", {"min_lr": 0.1}, {"decay": "cosine", "end_lr": 0.1}),
        ("cosine_with_restarts", {"num_cycles": 3}, {"decay": "cosine", "decay_cycles": 3}),
        (
            "polynomial",
            {"power": 2.0, "lr_end": 0.1},
            {"decay": "polynomial", "decay_power": 2.0, "end_lr": 0.1},
        ),
        ("inverse_sqrt", {"timescale": 7}, {"decay": "inverse_sqrt", "decay_length": "7 steps"}),
    ],
)
def test_the_schedules_of_transformers(name, specific, recipe, warmup):
    total = 17

    def make(optimizer):
        return get_scheduler(name, optimizer, warmup, total, scheduler_specific_kwargs=specific)

    ours = curve(total + 1, warmup=f"{warmup} steps", duration=f"{total} steps", **recipe)
    assert_same_but_for_the_shift(ours, their_curve(total + 2, make), warmup)


def test_the_inverse_square_root_of_transformers_has_the_warmup_as_its_time_scale():
    ours = curve(12, warmup="4 steps", duration="12 steps", decay="inverse_sqrt")
    other = their_curve(13, lambda optimizer: get_scheduler("inverse_sqrt", optimizer, 4))
    assert_same_but_for_the_shift(ours, other, 4)


@pytest.mark.parametrize("cooldown", ["linear", "cosine", "1-sqrt"])
def test_the_warmup_stable_decay_of_transformers(cooldown):
    def make(optimizer):
        return get_wsd_schedule(
            optimizer, 4, num_decay_steps=5, num_training_steps=20, decay_type=cooldown, warmup_type="linear"
        )

    ours = curve(21, warmup="4 steps", duration="20 steps", decay="wsd", decay_length="5 steps", cooldown=cooldown)
    assert_same_but_for_the_shift(ours, their_curve(22, make), 4)


def test_the_cooldown_of_haegele_et_al():
    """arXiv:2405.18392, section 3: the peak until step N - N_decay, then 1 - sqrt((n - (N - N_decay)) / N_decay)."""
    steps, decay_steps = 400, 80  # N and N_decay: they recommend 20 % of the run
    lrs = curve(401, warmup="40 steps", duration="400 steps", decay="wsd", decay_length="80 steps", cooldown="1-sqrt")
    assert lrs[39:321] == [1.0] * 282
    for n in range(steps - decay_steps, steps + 1):
        assert lrs[n] == pytest.approx(1 - math.sqrt((n - (steps - decay_steps)) / decay_steps), abs=1e-12)
    assert (lrs[340], lrs[400]) == (0.5, 0.0)  # half of the way down after a quarter of the steps


# torch.optim.lr_scheduler


def test_the_linear_ramp_of_torch():
    ours = curve(8, warmup="5 steps", duration="8 steps", start_lr=0.1, decay="constant")
    other = their_curve(9, lambda optimizer: theirs.LinearLR(optimizer, start_factor=0.1, total_iters=5))
    assert_same_but_for_the_shift(ours, other, 5)


@pytest.mark.parametrize(
    ("make", "recipe"),
    [
        (lambda o: theirs.StepLR(o, 3, gamma=0.5), {"decay": "step", "decay_length": "3 steps", "decay_gamma": 0.5}),
        (
            lambda o: theirs.MultiStepLR(o, [3, 7], gamma=0.1),
            {"decay": "multistep", "decay_milestones": ("3 steps", "7 steps")},
        ),
        (
            lambda o: theirs.ExponentialLR(o, 0.9),
            {"decay": "exponential", "decay_length": "1 step", "decay_gamma": 0.9},
        ),
        (lambda o: theirs.CosineAnnealingLR(o, 10, eta_min=0.1), {"decay": "cosine", "end_lr": 0.1}),
        (lambda o: theirs.LinearLR(o, 1.0, 0.25, total_iters=10), {"decay": "linear", "end_lr": 0.25}),
        (lambda o: theirs.PolynomialLR(o, 10, power=3), {"decay": "polynomial", "decay_power": 3.0}),
    ],
    ids=["step", "multistep", "exponential", "cosine", "linear", "polynomial"],
)
def test_the_decays_of_torch_without_a_warmup(make, recipe):
    """Their cosine comes back up after its end; ours stays."""
    assert curve(11, duration="10 steps", **recipe) == pytest.approx(their_curve(11, make), rel=1e-12, abs=1e-15)


# Values printed by torch 2.13 and transformers 5.23 at a peak of 1, written down once: independent of what is installed


@pytest.mark.parametrize(
    ("recipe", "values"),
    [
        (
            {"warmup": "4 steps", "duration": "10 steps"},  # transformers "linear", shifted
            (0.25, 0.5, 0.75, 1, 1, 0.833333, 0.666667, 0.5, 0.333333, 0.166667, 0),
        ),
        (
            {"warmup": "4 steps", "duration": "10 steps", "decay": "cosine"},  # theirs rises again: 0.066987 at 11
            (0.25, 0.5, 0.75, 1, 1, 0.933013, 0.75, 0.5, 0.25, 0.066987, 0, 0),
        ),
        (
            {"warmup": "2 steps", "duration": "10 steps", "decay": "cosine", "decay_cycles": 2},
            (0.5, 1, 1, 0.853553, 0.5, 0.146447, 1, 0.853553, 0.5, 0.146447, 0),
        ),
        (
            {"warmup": "4 steps", "duration": "10 steps", "decay": "polynomial", "decay_power": 2.0, "end_lr": 0.1},
            (0.25, 0.5, 0.75, 1, 1, 0.725, 0.5, 0.325, 0.2, 0.125, 0.1),
        ),
        (
            {"warmup": "4 steps", "duration": "10 steps", "decay": "inverse_sqrt"},
            (0.25, 0.5, 0.75, 1, 1, 0.894427, 0.816497, 0.755929, 0.707107),
        ),
        (
            {"warmup": "4 steps", "duration": "10 steps", "decay": "cosine", "end_lr": 0.1},
            (0.25, 0.5, 0.75, 1, 1, 0.939711, 0.775, 0.55, 0.325, 0.160289, 0.1),
        ),
        (
            {"warmup": "5 steps", "duration": "15 steps", "decay": "cosine", "start_lr": 0.1},
            (0.28, 0.46, 0.64, 0.82, 1, 1, 0.9755, 0.9045),  # torch SequentialLR of LinearLR(0.1, 5), Cosine(10)
        ),
    ],
)
def test_curves_that_were_written_down(recipe, values):
    assert curve(len(values), **recipe) == pytest.approx(values, abs=5e-5 if len(values) == 8 else 6e-7)
