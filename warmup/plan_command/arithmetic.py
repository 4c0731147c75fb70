"""The arithmetic of a plan, written out as a person would check it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from warmup.config.recipe import Recipe
from warmup.duration import DataSize, Duration
from warmup.plan import Plan
from warmup.scaling import ADAPTIVE, beta_rules


def arithmetic(recipe: Recipe, plan: Plan, size: DataSize) -> list[str]:
    """A line `name: expression = value unit` for each number of a plan.

    In expressions x multiplies, ^ is a power, ceil rounds up, and round rounds halves up.

    Args:
        recipe: what was planned.
        plan: its plan.
        size: of the training set.
    """
    parts = (_batch(plan), _lengths(recipe, plan, size), _rates(recipe, plan), _moments(recipe, plan))
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


def _lengths(recipe: Recipe, plan: Plan, size: DataSize) -> Iterator[str]:
    batch, reference = plan.global_batch_size, plan.reference_batch_size
    duration = _samples(recipe.duration, reference, size, None)
    exact = Duration.parse(recipe.duration).samples(reference, size, None)
    yield f"duration: {duration} = {_number(exact)} samples ({recipe.duration})"
    yield f"total steps: ceil({_number(exact)} / {batch}) = {plan.total_steps} steps"
    yield f"samples of the run: {plan.total_steps} x {batch} = {plan.total_samples} samples"
    warmup = Duration.parse(recipe.warmup).samples(reference, size, exact)
    if not warmup:
        yield "warmup steps: 0 = 0 steps"
        return
    yield f"warmup: {_samples(recipe.warmup, reference, size, exact)} = {_number(warmup)} samples ({recipe.warmup})"
    by = batch if plan.warmup_scaling == "samples" else reference
    yield f"warmup steps: max(1, round({_number(warmup)} / {by})) = {plan.warmup_steps} steps"
    yield f"warmup of the run: {plan.warmup_steps} x {batch} / {plan.total_samples} = " + (
        f"{plan.warmup_samples / plan.total_samples:.10g}"
    )
    length = recipe.decay_length or ("10%" if recipe.decay == "wsd" else None)
    if length and plan.decay_length_samples:
        text = _samples(length, reference, size, exact)
        yield f"decay length: max(1, round({text})) = {plan.decay_length_samples} samples ({length})"
    for number, (text, found) in enumerate(zip(recipe.decay_milestones, plan.decay_milestones_samples, strict=True), 1):
        yield f"milestone {number}: round({_samples(text, reference, size, exact)}) = {found} samples ({text})"


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
    start, peak, end = (f"{rate!r}" for rate in (plan.start_lr, plan.peak_lr, plan.end_lr))
    warmup, total = plan.warmup_steps, plan.total_steps
    if plan.ramp == "linear" and warmup > 0:
        yield f"lr of the first step: {start} + ({peak} - {start}) x 1 / {warmup} = {plan.lr_at_step(0):.10g}"
    if plan.decay == "linear" and warmup < total:
        last = f"{peak} + ({end} - {peak}) x ({total} - 1 - {warmup}) / ({total} - {warmup})"
        yield f"lr of the last step: {last} = {plan.lr_at_step(total - 1):.10g}"


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
