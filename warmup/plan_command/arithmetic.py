"""The arithmetic of a plan, written out as a person would check it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

from warmup.batch_schedule import Phase
from warmup.config.recipe import Recipe
from warmup.duration import DataSize, Duration
from warmup.plan import Plan
from warmup.scaling import ADAPTIVE, beta_rules

_MOST_SIZES = 12  # of a batch that grows, whose beginnings are written out


def arithmetic(recipe: Recipe, plan: Plan, size: DataSize) -> list[str]:
    """A line `name: expression = value unit` for each number of a plan.

    In expressions x multiplies, ^ is a power, ceil rounds up, and round rounds halves up.

    Args:
        recipe: what was planned.
        plan: its plan.
        size: of the training set.
    """
    parts = (
        _batch(plan),
        _batch_warmup(plan),
        _lengths(recipe, plan, size),
        _rates(recipe, plan),
        _moments(recipe, plan),
    )
    return [line for part in parts for line in part]


def _batch(plan: Plan) -> Iterator[str]:
    ranks, per_device, size = plan.world_size, plan.per_device_batch_size, plan.global_batch_size
    product = ranks * plan.accumulation * per_device
    if size == product:
        meaning = "ranks x micro-batches x samples per device"
        yield f"global batch: {ranks} x {plan.accumulation} x {per_device} = {size} samples ({meaning})"
    else:
        yield f"accumulation: ceil({size} / ({ranks} x {per_device})) = {plan.accumulation} micro-batches"
    yield f"scale k: {size} / {plan.reference_batch_size} = {plan.scale:.10g}"


def _batch_warmup(plan: Plan) -> Iterator[str]:
    """How the batch grows: where some of its sizes begin."""
    if plan.batch_start_size is None:
        return
    phases = list(pairwise(plan.batch_schedule.phases()))
    every = max(1, -(-len(phases) // _MOST_SIZES))
    for before, phase in reversed(phases[::-1][::every]):
        steps = f"{before.samples} + {phase.step - before.step} x {before.size}"
        yield f"samples before size {phase.size}: {steps} = {phase.samples} samples ({phase.step} steps)"


def _lengths(recipe: Recipe, plan: Plan, size: DataSize) -> Iterator[str]:
    reference = plan.reference_batch_size
    duration = _samples(recipe.duration, reference, size, None)
    exact = Duration.parse(recipe.duration).samples(reference, size, None)
    yield f"duration: {duration} = {_number(exact)} samples ({recipe.duration})"
    last = plan.batch_schedule.phase_before(exact)
    yield f"total steps: {_steps('ceil', exact, last)} = {plan.total_steps} steps"
    yield f"samples of the run: {_position(plan.total_steps, last)} = {plan.total_samples} samples"
    warmup = Duration.parse(recipe.warmup).samples(reference, size, exact)
    if not warmup:
        yield "warmup steps: 0 = 0 steps"
        return
    yield f"warmup: {_samples(recipe.warmup, reference, size, exact)} = {_number(warmup)} samples ({recipe.warmup})"
    phase = plan.batch_schedule.phase_before(plan.warmup_samples)
    steps = f"round({_number(warmup)} / {reference})"
    if plan.warmup_scaling == "samples":
        steps = _steps("round", warmup, plan.batch_schedule.phase_before(warmup))
    yield f"warmup steps: max(1, {steps}) = {plan.warmup_steps} steps"
    yield f"warmup of the run: ({_position(plan.warmup_steps, phase)}) / {plan.total_samples} = " + (
        f"{plan.warmup_samples / plan.total_samples:.10g}"
    )
    length = recipe.decay_length or ("10%" if recipe.decay == "wsd" else None)
    if length and plan.decay_length_samples:
        text = _samples(length, reference, size, exact)
        yield f"decay length: max(1, round({text})) = {plan.decay_length_samples} samples ({length})"
    for number, (text, found) in enumerate(zip(recipe.decay_milestones, plan.decay_milestones_samples, strict=True), 1):
        yield f"milestone {number}: round({_samples(text, reference, size, exact)}) = {found} samples ({text})"


def _steps(rounding: str, end: Fraction, phase: Phase) -> str:
    """Steps that lead to a position within a phase, as an expression; `rounding` is the function that rounds them."""
    if not phase.step:
        return f"{rounding}({_number(end)} / {phase.size})"
    return f"{phase.step} + {rounding}(({_number(end)} - {phase.samples}) / {phase.size})"


def _position(step: int, phase: Phase) -> str:
    """The position at the beginning of a step, as an expression, by the phase that it is in."""
    if not phase.step:
        return f"{step} x {phase.size}"
    return f"{phase.samples} + ({step} - {phase.step}) x {phase.size}"


def _samples(text: str, reference: int, size: DataSize, run_samples: Fraction | None) -> str:
    """A duration in samples, as an expression."""
    duration = Duration.parse(text)
    value = _number(duration.value)
    tokens = size.tokens_per_sample
    return {
        "steps": f"{value} x {reference}",
        "epochs": f"{value} x {size.num_samples}",
        "samples": value,
        "tokens": f"{value} / {_number(Fraction(tokens)) if tokens else '?'}",
        "%": f"{value} / 100 x {_number(run_samples) if run_samples is not None else '?'}",
    }[duration.unit]


def _rates(recipe: Recipe, plan: Plan) -> Iterator[str]:
    k = f"({plan.global_batch_size} / {plan.reference_batch_size})"
    known = {"linear": f" x {k}", "sqrt": f" x sqrt{k}", "none": ""}
    if plan.scaling == "noise":
        before, now = (
            f"({size} + {plan.noise_scale!r})" for size in (plan.reference_batch_size, plan.global_batch_size)
        )
        gain = f"{k} x {before} / {now}"
        known["noise"] = f" x sqrt({gain})" if plan.optimizer in ADAPTIVE else f" x {gain}"
    factor = known.get(plan.scaling, f" x {plan.uncapped_lr / plan.momentum_correction / plan.lr!r}")
    if plan.momentum_correction != 1:
        factor += _correction(recipe, plan)
    name = "peak lr" if plan.peak_lr == plan.uncapped_lr else "scaled lr"
    yield f"{name}: {plan.lr!r}{factor} = {plan.uncapped_lr:.10g} ({plan.scaling} scaling)"
    if plan.peak_lr != plan.uncapped_lr:
        yield f"peak lr: min({plan.uncapped_lr!r}, {plan.peak_lr!r}) = {plan.peak_lr:.10g} (max_lr)"
    yield from _first_and_last_rate(plan)


def _first_and_last_rate(plan: Plan) -> Iterator[str]:
    """Where ramp and decay are linear."""
    start, peak, end = (f"{rate!r}" for rate in (plan.start_lr, plan.peak_lr, plan.end_lr))
    if plan.ramp == "linear" and plan.warmup_steps > 0:
        fraction = f"1 / {plan.warmup_steps}"
        if plan.batch_start_size is not None:
            fraction = f"{plan.batch_at(0)} / {plan.warmup_samples}"
        first = f"{start} + ({peak} - {start}) x {fraction}"
        yield f"lr of the first step: {_at_size(plan, 0, first)} = {plan.lr_at_step(0):.10g}"
    if plan.decay == "linear" and plan.warmup_steps < plan.total_steps:
        warmup, last, total = plan.warmup_steps, f"{plan.total_steps} - 1", plan.total_steps
        if plan.batch_start_size is not None:
            last = str(plan.batch_schedule.position(plan.total_steps - 1))
            warmup, total = plan.warmup_samples, plan.total_samples
        text = f"{peak} + ({end} - {peak}) x ({last} - {warmup}) / ({total} - {warmup})"
        yield f"lr of the last step: {_at_size(plan, plan.total_steps - 1, text)} = " + (
            f"{plan.lr_at_step(plan.total_steps - 1):.10g}"
        )


def _at_size(plan: Plan, step: int, lr: str) -> str:
    """The rate of a step, where `lr` is that of the curve: times the factor for a smaller batch."""
    factor = plan.size_factor(plan.batch_at(plan.batch_schedule.position(step)))
    return lr if factor == 1 else f"({lr}) x {factor!r}"


def _correction(recipe: Recipe, plan: Plan) -> str:
    """The factor for a scaled momentum."""
    power = f"{recipe.momentum!r} ^ ({plan.global_batch_size} / {plan.reference_batch_size})"
    scaled = f"max({power}, min({recipe.momentum!r}, {plan.beta_floor!r}))" if plan.beta_floor else power
    return f" x (1 - {scaled}) / (1 - {recipe.momentum!r})"


def _moments(recipe: Recipe, plan: Plan) -> Iterator[str]:
    """What the rules for betas and weight decay change."""
    k = f"({plan.global_batch_size} / {plan.reference_batch_size})"
    rules = beta_rules(plan.beta_scaling, plan.optimizer)
    betas = zip(("beta1", "beta2"), recipe.betas, plan.betas, strict=True)
    singles = (("momentum", recipe.momentum, plan.momentum), ("alpha", recipe.alpha, plan.alpha))
    for name, before, now in (*betas, *singles):
        if before != now:
            expression = f"1 - {k} x (1 - {before!r})" if rules[name] == "sde" else f"{before!r} ^ {k}"
            if rules[name] == "half-life" and plan.beta_floor:
                expression = f"max({expression}, min({before!r}, {plan.beta_floor!r}))"
            yield f"{name}: {expression} = {now:.10g} ({rules[name]})"
    if recipe.eps != plan.eps:
        yield f"eps: {recipe.eps!r} / sqrt{k} = {plan.eps:.10g} (sde)"
    if recipe.weight_decay != plan.weight_decay:
        correction = _correction(recipe, plan) if plan.momentum_correction != 1 else ""
        expression = f"{recipe.weight_decay!r} x {k} x {plan.lr!r} / {plan.peak_lr!r}{correction}"
        yield f"weight decay: {expression} = {plan.weight_decay:.10g} ({plan.weight_decay_scaling})"


def _number(value: Fraction) -> str:
    """An exact number: whole, or as a fraction in brackets."""
    return str(value.numerator) if value.denominator == 1 else f"({value.numerator} / {value.denominator})"
