"""WarmupScheduler: the plan's rates on real optimizers, however often it is called, with Accelerate and a scaler.

Every rate is read inside `optimizer.step()`, from what the optimizer is about to use.
"""

from __future__ import annotations

import copy
import json

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import LRScheduler

from warmup.config.recipe import Recipe
from warmup.elastic import LRSchedule
from warmup.errors import UserError
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.scheduler import LRFunction, WarmupScheduler

STEPS = 12


def plan_at(batch=8, **recipe):
    """A ramp of 4 steps and a decay of 8, at a reference of half the batch: the peak is 2e-2."""
    return make_plan(
        Recipe(
            **{"lr": 1e-2, "reference_batch_size": batch // 2, "warmup": "8 steps", "duration": "24 steps"} | recipe
        ),
        Topology(1, batch),
    )


PLAN = plan_at()
EXPECTED = [PLAN.lr_at_step(step) for step in range(STEPS)]


def recorded(optimizer):
    """A list to which the rates of all groups are appended whenever the optimizer is about to step."""
    rates = []
    optimizer.register_step_pre_hook(
        lambda inner, args, kwargs: rates.append([float(group["lr"]) for group in inner.param_groups])
    )
    return rates


def parameter(value=1.0):
    return nn.Parameter(torch.full((2,), value))


def train(optimizer, parameters, steps, after=lambda: None):
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p**2).sum() for p in parameters).backward()
        optimizer.step()
        after()


def test_the_plan_is_what_these_tests_assume():
    assert (PLAN.warmup_steps, PLAN.total_steps, PLAN.peak_lr) == (4, STEPS, 2e-2)
    assert EXPECTED[:5] == pytest.approx([5e-3, 1e-2, 1.5e-2, 2e-2, 2e-2], rel=1e-15)
    assert EXPECTED[-1] == pytest.approx(2e-2 / 8, rel=1e-15)


# Plain torch


@pytest.mark.parametrize("calls", [0, 1, 3])
@pytest.mark.parametrize("make", [SGD, Adam, AdamW, RMSprop])
def test_rates_are_the_plans_however_often_it_is_called(make, calls):
    weights = parameter()
    optimizer = make([weights], lr=123.0)  # the rate comes from the plan alone
    scheduler = WarmupScheduler(optimizer, PLAN)
    assert isinstance(scheduler, LRScheduler)
    rates = recorded(optimizer)
    train(optimizer, [weights], STEPS, lambda: [scheduler.step() for _ in range(calls)])
    assert rates == [[pytest.approx(rate, rel=1e-15)] for rate in EXPECTED]
    assert scheduler.samples == PLAN.total_samples
    assert optimizer.param_groups[0]["lr"] == PLAN.lr_at_step(STEPS) == 0.0
    assert scheduler.get_last_lr() == [0.0]


def test_the_weights_are_those_of_a_loop_that_sets_the_rates_by_hand():
    ours, theirs = parameter(), parameter()
    optimizer, by_hand = AdamW([ours]), AdamW([theirs])
    WarmupScheduler(optimizer, PLAN)
    train(optimizer, [ours], STEPS)
    for rate in EXPECTED:
        by_hand.param_groups[0]["lr"] = rate
        train(by_hand, [theirs], 1)
    assert torch.equal(ours, theirs) and not torch.equal(ours, parameter())


def test_after_the_end_the_rate_stays():
    weights = parameter()
    optimizer = SGD([weights])
    WarmupScheduler(optimizer, plan_at(end_lr=1e-3))
    rates = recorded(optimizer)
    train(optimizer, [weights], STEPS + 3)
    assert rates[STEPS:] == [[1e-3]] * 3


def test_groups_keep_their_multiplier():
    """Their own in lr_multiplier, or else the group's lr over the optimizer's default."""
    parameters = [parameter() for _ in range(4)]
    groups = [{"params": [p]} for p in parameters]
    groups[1]["lr"], groups[2]["lr_multiplier"], groups[3]["lr"] = 0.05, 0.25, 0.0
    optimizer = SGD(groups, lr=0.1)
    WarmupScheduler(optimizer, plan_at(start_lr=1e-3, end_lr=1e-3))
    rates = recorded(optimizer)
    train(optimizer, parameters, STEPS)
    plan = plan_at(start_lr=1e-3, end_lr=1e-3)
    for step, row in enumerate(rates):
        rate = plan.lr_at_step(step)
        assert row == pytest.approx([rate, 0.5 * rate, 0.25 * rate, 0.0], rel=1e-15)


def test_making_a_second_scheduler_does_not_change_the_multipliers():
    """The second one sees rates that the first has set; the multipliers stay those of the first construction."""
    parameters = [parameter(), parameter()]
    optimizer = SGD([{"params": [parameters[0]]}, {"params": [parameters[1]], "lr": 0.01}], lr=0.1)
    first = WarmupScheduler(optimizer, PLAN)
    second = WarmupScheduler(optimizer, PLAN)
    rates = recorded(optimizer)
    train(optimizer, parameters, STEPS)
    assert [group["lr_multiplier"] for group in optimizer.param_groups] == pytest.approx([1.0, 0.1], rel=1e-15)
    assert rates == [pytest.approx([rate, 0.1 * rate], rel=1e-15) for rate in EXPECTED]
    assert first.samples == second.samples == PLAN.total_samples


def test_a_tensor_rate_is_filled_in_place():
    """A compiled step keeps a reference to the tensor."""
    weights = parameter()
    rate = torch.tensor(1.0, dtype=torch.float64)
    optimizer = Adam([weights], lr=rate)
    held = optimizer.param_groups[0]["lr"]
    WarmupScheduler(optimizer, PLAN)
    rates = recorded(optimizer)
    train(optimizer, [weights], STEPS)
    assert optimizer.param_groups[0]["lr"] is held
    assert rates == [[pytest.approx(rate, rel=1e-15)] for rate in EXPECTED]


@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_with_accumulation_only_updates_count(accumulation):
    weights = parameter()
    optimizer = SGD([weights])
    scheduler = WarmupScheduler(optimizer, PLAN)
    rates = recorded(optimizer)
    for micro_batch in range(STEPS * accumulation):
        (weights**2).sum().backward()
        if (micro_batch + 1) % accumulation == 0:
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()
    assert rates == [[pytest.approx(rate, rel=1e-15)] for rate in EXPECTED]


@pytest.mark.parametrize("counts", [True, False])
def test_any_function_of_the_samples_can_be_scheduled(counts):
    """Neither a Plan nor an LRSchedule: only global_batch_size and lr_at are used."""

    class Halving:
        global_batch_size = 3

        def lr_at(self, samples: int, lr_multiplier: float = 1.0) -> float:
            return lr_multiplier * 0.5**samples

    def scheduler_of(optimizer: torch.optim.Optimizer, lr_function: LRFunction) -> WarmupScheduler:
        return WarmupScheduler(optimizer, lr_function, counts)

    parameters = [parameter(), parameter()]
    optimizer = SGD([{"params": [parameters[0]]}, {"params": [parameters[1]], "lr": 0.2}], lr=0.1)
    scheduler = scheduler_of(optimizer, Halving())
    rates = recorded(optimizer)
    for step in range(4):
        if not counts:
            scheduler.seek(3 * step)
        train(optimizer, parameters, 1)
    assert rates == [[0.125**step, 2 * 0.125**step] for step in range(4)]
    assert scheduler.state_dict() == {"samples": 12 if counts else 9}


def test_plans_and_schedules_may_be_exchanged():
    """The same rates, and the batch that the schedule counts by."""
    weights = parameter()
    optimizer = SGD([weights])
    scheduler = WarmupScheduler(optimizer, LRSchedule(PLAN, global_batch_size=4))
    rates = recorded(optimizer)
    train(optimizer, [weights], 4)
    assert rates == [[PLAN.lr_at(4 * step)] for step in range(4)] and scheduler.samples == 16


# Position


def test_a_state_is_the_position_and_gives_the_same_rates_again():
    weights = parameter()
    optimizer = SGD([weights])
    scheduler = WarmupScheduler(optimizer, PLAN)
    train(optimizer, [weights], 5)
    state = json.loads(json.dumps(scheduler.state_dict()))
    assert state == {"samples": 5 * 8}

    other_weights = parameter()
    other = SGD([other_weights], lr=7.0)
    resumed = WarmupScheduler(other, PLAN)
    resumed.load_state_dict(state)
    rates = recorded(other)
    train(other, [other_weights], STEPS - 5)
    assert rates == [[pytest.approx(rate, rel=1e-15)] for rate in EXPECTED[5:]]


def test_resumed_at_another_batch_the_rate_is_the_new_plans():
    """The checkpoint holds no old peak: half the ranks, half the peak, at the same samples."""
    weights = parameter()
    optimizer = SGD([weights])
    scheduler = WarmupScheduler(optimizer, PLAN)
    train(optimizer, [weights], 6)
    half = make_plan(
        Recipe(lr=1e-2, reference_batch_size=4, warmup="8 steps", duration="24 steps"),
        Topology(1, 4),
    )
    resumed = WarmupScheduler(SGD([parameter()]), half)
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.get_last_lr() == [half.lr_at_step(12)] == [pytest.approx(1e-2 * 12 / 16, rel=1e-15)]


def test_seek_sets_the_position_and_the_rate():
    optimizer = SGD([parameter()])
    scheduler = WarmupScheduler(optimizer, PLAN)
    for samples in (0, 40, 8, 4, 10**9):
        scheduler.seek(samples)
        assert optimizer.param_groups[0]["lr"] == PLAN.lr_at(samples)
        assert scheduler.last_epoch == samples // 8


def test_a_copied_optimizer_state_keeps_its_multipliers():
    parameters = [parameter(), parameter()]
    optimizer = SGD([{"params": [parameters[0]]}, {"params": [parameters[1]], "lr": 0.01}], lr=0.1)
    WarmupScheduler(optimizer, PLAN)
    train(optimizer, parameters, 3)
    state = copy.deepcopy(optimizer.state_dict())
    other = SGD([{"params": [parameter()]}, {"params": [parameter()], "lr": 0.01}], lr=0.1)
    scheduler = WarmupScheduler(other, PLAN)
    other.load_state_dict(state)
    scheduler.seek(24)
    assert scheduler.get_last_lr() == pytest.approx([EXPECTED[3], 0.1 * EXPECTED[3]], rel=1e-15)


# A gradient scaler


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("make", [SGD, AdamW])
def test_steps_that_a_scaler_skips_do_not_count(make, fused):
    """A fused optimizer is called for them too; its kernel then does nothing."""
    weights = parameter()
    optimizer = make([weights], lr=1.0, fused=fused)
    scheduler = WarmupScheduler(optimizer, PLAN)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    rates, positions, moved = recorded(optimizer), [], []
    poisoned = (0, 3, 4, 7)
    for attempt in range(STEPS):
        before = weights.detach().clone()
        loss = (weights**2).sum() * (torch.inf if attempt in poisoned else 1.0)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        positions.append(scheduler.samples // 8)
        moved.append(not torch.equal(before, weights))
    applied = [attempt not in poisoned for attempt in range(STEPS)]
    assert moved == applied
    assert positions == [sum(applied[: attempt + 1]) for attempt in range(STEPS)]
    used = [row for row, was in zip(rates, applied, strict=True) if was] if fused else rates
    assert used == [[pytest.approx(rate, rel=1e-15)] for rate in EXPECTED[: sum(applied)]]


# Accelerate, in one process


@pytest.fixture
def accelerator():
    """Makes an Accelerator; its global state is gone afterwards."""
    yield lambda **options: Accelerator(cpu=True, **options)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("prepared", [False, True], ids=["not-prepared", "prepared"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_under_accelerate(when, prepared, accumulation, accelerator):
    accelerate = accelerator(gradient_accumulation_steps=accumulation)
    model = nn.Linear(2, 1)
    optimizer = SGD(model.parameters(), lr=3.0)
    rates = recorded(optimizer)
    if when == "before":
        scheduler = WarmupScheduler(optimizer, PLAN)
        model, optimizer = accelerate.prepare(model, optimizer)
    else:
        model, optimizer = accelerate.prepare(model, optimizer)
        scheduler = WarmupScheduler(optimizer, PLAN)
    outer = accelerate.prepare(scheduler) if prepared else scheduler
    assert (outer is not scheduler) == prepared
    for _ in range(STEPS * accumulation):
        with accelerate.accumulate(model):
            accelerate.backward(model(torch.ones(1, 2)).sum())
            optimizer.step()
            outer.step()
            optimizer.zero_grad()
    assert rates == [[pytest.approx(rate, rel=1e-15)] for rate in EXPECTED]
    assert scheduler.samples == PLAN.total_samples


def test_a_scheduler_prepared_together_with_everything_else(accelerator):
    accelerate = accelerator()
    model = nn.Linear(2, 1)
    optimizer = AdamW(model.parameters())
    rates = recorded(optimizer)
    model, optimizer, scheduler = accelerate.prepare(model, optimizer, WarmupScheduler(optimizer, PLAN))
    for _ in range(STEPS):
        accelerate.backward(model(torch.ones(1, 2)).sum())
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    assert rates == [[pytest.approx(rate, rel=1e-15)] for rate in EXPECTED]
    assert scheduler.get_last_lr() == [0.0]
    assert scheduler.state_dict() == {"samples": PLAN.total_samples}


def test_a_multiplier_survives_a_state_that_was_saved_without_it() -> None:
    plan = make_plan(Recipe(lr=0.1, scaling="none", duration="10 steps"), Topology(1, 4))
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "lr": 0.01}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    saved = optimizer.state_dict()
    saved = {
        **saved,
        "param_groups": [{k: v for k, v in g.items() if k != "lr_multiplier"} for g in saved["param_groups"]],
    }
    scheduler = WarmupScheduler(optimizer, plan)
    optimizer.load_state_dict(saved)
    scheduler.seek(20)  # half of the linear decay to 0
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.005])


# Groups that are added, and states that are loaded

VARIANTS = [
    (SGD, {}), (Adam, {}), (RMSprop, {}), (SGD, {"fused": True}), (Adam, {"fused": True}), (AdamW, {"fused": True}),
    (SGD, {"lr": torch.tensor(0.5)}), (Adam, {"lr": torch.tensor(0.5)}), (RMSprop, {"lr": torch.tensor(0.5)}),
]  # fmt: skip
OPTIMIZERS = pytest.mark.parametrize(
    ("make", "options"),
    VARIANTS,
    ids=[f"{make.__name__}-{'-'.join(options) or 'float'}" for make, options in VARIANTS],
)


def optimizer_of(make, options, *groups):
    """An optimizer whose own rate is 0.5, which no step may have. A tensor is its own in each test."""
    rate = options.get("lr", 0.5)
    return make(list(groups), **options | {"lr": rate.clone() if isinstance(rate, torch.Tensor) else rate})


def scaled(rates):
    return pytest.approx(rates, rel=1e-6)  # tensor rates are float32


@OPTIMIZERS
@pytest.mark.parametrize("calls", [0, 1])
def test_a_group_that_is_added_takes_the_rate_of_the_plan_from_its_first_step(make, options, calls):
    """Without a rate, at the current rate, and at the peak; named multipliers hold."""
    first, bare, current, peak, named = parameters = [parameter() for _ in range(5)]
    optimizer = optimizer_of(make, options, {"params": [first]})
    scheduler = WarmupScheduler(optimizer, PLAN)
    rates = recorded(optimizer)
    after = (lambda: scheduler.step()) if calls else (lambda: None)
    train(optimizer, [first], 2, after)
    optimizer.add_param_group({"params": [bare]})
    optimizer.add_param_group({"params": [current], "lr": optimizer.param_groups[0]["lr"]})
    optimizer.add_param_group({"params": [peak], "lr": PLAN.peak_lr})
    optimizer.add_param_group({"params": [named], "lr_multiplier": 0.1})
    train(optimizer, parameters, STEPS - 2, after)
    assert rates[:2] == [scaled([rate]) for rate in EXPECTED[:2]]
    assert rates[2:] == [scaled([rate] * 4 + [0.1 * rate]) for rate in EXPECTED[2:]]
    assert scheduler.samples == PLAN.total_samples and len(scheduler.get_last_lr()) == 5


def test_a_group_that_is_added_at_a_rate_of_its_own_is_warned_about():
    """Its rate says nothing: it may be meant as a share of the current rate or of the peak."""
    optimizer = SGD([parameter()], lr=PLAN.peak_lr)
    scheduler = WarmupScheduler(optimizer, PLAN)
    optimizer.add_param_group({"params": [parameter()], "lr": optimizer.param_groups[0]["lr"] / 10})
    with pytest.warns(UserWarning, match="^a parameter group was added with lr 0.0005, .* give it an lr_multiplier"):
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [EXPECTED[0]] * 2


def test_the_other_groups_keep_their_multipliers_when_groups_are_removed_and_added():
    first, second, third = parameter(), parameter(), parameter()
    optimizer = SGD([{"params": [first], "lr_multiplier": 0.5}, {"params": [second], "lr_multiplier": 0.25}], lr=0.1)
    WarmupScheduler(optimizer, PLAN)
    rates = recorded(optimizer)
    del optimizer.param_groups[0]
    optimizer.add_param_group({"params": [third]})
    train(optimizer, [second, third], 2)
    assert rates == [scaled([0.25 * rate, rate]) for rate in EXPECTED[:2]]


def test_a_multiplier_that_is_changed_on_the_way_holds_also_after_loading():
    weights = parameter()
    optimizer = SGD([weights], lr=0.1)
    WarmupScheduler(optimizer, PLAN)
    rates = recorded(optimizer)
    state = copy.deepcopy(optimizer.state_dict())
    train(optimizer, [weights], 1)
    optimizer.param_groups[0]["lr_multiplier"] = 0.5
    train(optimizer, [weights], 2)
    optimizer.load_state_dict(state)
    train(optimizer, [weights], 1)
    assert rates == [scaled([rate]) for rate in (EXPECTED[0], EXPECTED[1], 0.5 * EXPECTED[2], 0.5 * EXPECTED[3])]


@OPTIMIZERS
@pytest.mark.parametrize("order", ["optimizer-first", "scheduler-first"])
def test_a_state_changes_neither_multipliers_nor_rates_in_whichever_order_it_is_loaded(make, options, order):
    """Saved with multipliers 1 and 0.1, loaded where they are 1 and 0.5, under a plan with half the peak."""

    def made(multiplier, plan):
        parameters = [parameter(), parameter()]
        groups = {"params": parameters[:1]}, {"params": parameters[1:], "lr_multiplier": multiplier}
        optimizer = optimizer_of(make, options, *groups)
        return parameters, optimizer, WarmupScheduler(optimizer, plan)

    parameters, optimizer, scheduler = made(0.1, PLAN)
    rates = recorded(optimizer)
    train(optimizer, parameters, 3)
    assert rates == [scaled([rate, 0.1 * rate]) for rate in EXPECTED[:3]]
    states = copy.deepcopy(optimizer.state_dict()), scheduler.state_dict()
    half = plan_at(lr=5e-3)
    parameters, optimizer, scheduler = made(0.5, half)
    loads = [lambda: optimizer.load_state_dict(states[0]), lambda: scheduler.load_state_dict(states[1])]
    for load in loads if order == "optimizer-first" else reversed(loads):
        load()
    rates = recorded(optimizer)
    train(optimizer, parameters, 3)
    assert rates == [scaled([0.5 * rate, 0.25 * rate]) for rate in EXPECTED[3:6]]
    assert scheduler.get_last_lr() == pytest.approx([0.5 * EXPECTED[6], 0.25 * EXPECTED[6]])


class HooklessSGD(SGD):
    """Loads its state without torch's hooks, as some 8-bit optimizers do."""

    def load_state_dict(self, state_dict):
        groups = [
            {**saved, "params": group["params"]}
            for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=True)
        ]
        self.__setstate__({"state": {}, "param_groups": groups})


def test_an_optimizer_that_loads_without_hooks_steps_at_the_rate_of_the_plan():
    weights = parameter()
    optimizer = HooklessSGD([{"params": [weights], "lr_multiplier": 0.5}], lr=0.1)
    WarmupScheduler(optimizer, PLAN)
    rates = recorded(optimizer)
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0].update(lr=7.0, lr_multiplier=0.25)
    train(optimizer, [weights], 2)
    optimizer.load_state_dict(state)
    train(optimizer, [weights], 1)
    assert rates == [scaled([0.5 * rate]) for rate in EXPECTED[:3]]


def test_groups_do_not_share_the_tensor_of_their_rate():
    """torch gives every group the tensor that the optimizer was made with."""
    parameters = [parameter(), parameter()]
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "lr_multiplier": 0.1}]
    optimizer = Adam(groups, lr=torch.tensor(1.0))
    assert optimizer.param_groups[0]["lr"] is optimizer.param_groups[1]["lr"]
    held = optimizer.param_groups[0]["lr"]
    WarmupScheduler(optimizer, PLAN)
    rates = recorded(optimizer)
    train(optimizer, parameters, STEPS)
    assert rates == [scaled([rate, 0.1 * rate]) for rate in EXPECTED]
    assert optimizer.param_groups[0]["lr"] is held


def test_deepspeed_steps_one_group_at_a_time_which_changes_nothing():
    """Its ZeRO leaves only one group in the optimizer during a step."""
    parameters = [parameter(), parameter()]
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "lr_multiplier": 0.1}]
    optimizer = SGD(groups, lr=0.1)
    scheduler = WarmupScheduler(optimizer, PLAN, counts=False)
    rates = recorded(optimizer)
    for step in range(3):
        scheduler.seek(8 * step)
        both = optimizer.param_groups
        for group in both:
            optimizer.param_groups = [group]
            train(optimizer, group["params"], 1)
        optimizer.param_groups = both
    assert rates == [row for rate in EXPECTED[:3] for row in (scaled([rate]), scaled([0.1 * rate]))]


def test_a_multiplier_is_from_the_initial_rate_if_the_optimizer_was_scheduled_before() -> None:
    """As after loading an optimizer in the middle of its warmup, where its current rate says nothing."""
    plan = make_plan(Recipe(lr=0.1, scaling="none", duration="10 steps"), Topology(1, 4))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    optimizer.param_groups[0].update(lr=0.01, initial_lr=0.1)
    WarmupScheduler(optimizer, plan)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_a_batch_that_grows_is_refused_where_the_loop_makes_the_batches():
    """`counts` would have to know how many samples the loop put into a step; with `seek` it says so itself."""
    recipe = Recipe("sgd", 0.1, 32, scaling="linear", warmup="0 steps", duration="100 steps", decay="constant")
    plan = make_plan(recipe, Topology(1, 32, 1, 32, "1000 samples", 8))
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), 0.1)
    for lr_function in (plan, LRSchedule(plan)):
        with pytest.raises(UserError, match="^batch.warmup: the batches are those of your loop"):
            WarmupScheduler(optimizer, lr_function)
        scheduler = WarmupScheduler(optimizer, lr_function, counts=False)
        assert scheduler.get_last_lr() == [pytest.approx(0.1 * 8 / 32, rel=1e-15)]
        scheduler.seek(1000)
        assert scheduler.get_last_lr() == [0.1]
    whole = make_plan(recipe, Topology(1, 32, 1, 32, "1000 samples", 32))  # which is at its size from the start
    assert WarmupScheduler(optimizer, whole).get_last_lr() == [0.1]
