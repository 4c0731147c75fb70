"""make_plan: recipe x topology -> plan. Standard library only."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import islice
from typing import Any

from warmup import scaling
from warmup.batch_schedule import BatchSchedule
from warmup.config.checks import LARGEST_COUNT
from warmup.config.recipe import Recipe
from warmup.duration import DataSize, Duration, round_half_up
from warmup.errors import PlanError
from warmup.plan import Plan, Topology

_MOST_SIZES = 100_000  # of a batch that is warmed up: they are walked through one by one


def make_plan(
    recipe: Recipe, topology: Topology, num_samples: int | None = None, tokens_per_sample: Fraction | None = None
) -> Plan:
    """Resolve every number of a run.

    Args:
        recipe: what was tuned, at the reference batch size.
        topology: the ranks that the recipe is to run on, and how they split a step.
        num_samples: samples of the training set, for lengths in epochs.
        tokens_per_sample: their mean number of tokens, for lengths in tokens.

    Raises:
        PlanError: there is no such plan: the reference batch size is missing, a length's unit cannot be converted, the
            start is above the peak, an exponential ramp starts at 0, a beta leaves its range, rules contradict each
            other or the optimizer, a length is too large.
    """
    size = topology.global_batch_size
    _check_count("batch: the samples of a step", size)
    reference = _reference_batch_size(recipe, size)
    k = Fraction(size, reference)
    data_size = DataSize(num_samples, tokens_per_sample)
    recipe = scaling.resolve_set(recipe, k)
    noise_scale = _noise_scale(recipe, data_size)
    moments = scaling.scale_moments(recipe, k)
    correction = scaling.momentum_correction(recipe.momentum, moments["momentum"])
    rates = _resolve_rates(recipe, k, correction, noise_scale and noise_scale / reference)
    plan = Plan(
        world_size=topology.world_size,
        per_device_batch_size=topology.per_device_batch_size,
        accumulation=topology.accumulation,
        global_batch_size=size,
        reference_batch_size=reference,
        scale=float(k),
        optimizer=recipe.optimizer,
        scaling=scaling.resolve(recipe.scaling, recipe.optimizer),
        lr=recipe.lr,
        ramp=recipe.ramp,
        ramp_power=recipe.ramp_power,
        decay=recipe.decay,
        decay_cycles=recipe.decay_cycles,
        decay_power=recipe.decay_power,
        decay_gamma=recipe.decay_gamma,
        cooldown=recipe.cooldown,
        warmup_scaling=recipe.warmup_scaling,
        num_samples=num_samples,
        weight_decay=scaling.scale_weight_decay(recipe, k, rates["peak_lr"], correction),
        max_grad_norm=recipe.max_grad_norm,
        tokens_per_sample=None if tokens_per_sample is None else float(tokens_per_sample),
        **_resolve_lengths(recipe, topology, reference, data_size),
        **rates,
        **moments,
        momentum_correction=correction,
        noise_scale=None if noise_scale is None else float(noise_scale),
        beta_scaling=recipe.beta_scaling,
        beta_floor=recipe.beta_floor,
        weight_decay_scaling=recipe.weight_decay_scaling,
        reference_betas=recipe.betas,
        reference_eps=recipe.eps,
        reference_momentum=recipe.momentum,
        reference_alpha=recipe.alpha,
        reference_weight_decay=recipe.weight_decay,
    )
    _check_shapes(plan)
    return plan


def _reference_batch_size(recipe: Recipe, size: int) -> int:
    """The reference batch size. A recipe that has none and scales nothing counts as tuned at the batch it gets."""
    if recipe.reference_batch_size is not None:
        return recipe.reference_batch_size
    if (recipe.scaling, recipe.beta_scaling, recipe.weight_decay_scaling, recipe.scaled) == ("none",) * 3 + ("lr",):
        return size
    raise PlanError(
        "reference-missing",
        "recipe.reference_batch_size: needed to scale the learning rate with the batch size; give the global batch "
        "size that the recipe was tuned at, or recipe.scaling: none",
    )


def _resolve_lengths(recipe: Recipe, topology: Topology, reference: int, data_size: DataSize) -> dict[str, Any]:
    """The lengths of warmup, run and decay in samples and steps, all exact.

    Args:
        recipe: whose lengths are at the reference batch size.
        topology: which says how many samples each step has.
        reference: the reference batch size.
        data_size: the size of the training set.
    """

    def samples(text: str, flag: str, run_samples: Fraction | None) -> Fraction:
        return Duration.parse(text, flag).samples(reference, data_size, run_samples, flag)

    duration = samples(recipe.duration, "recipe.duration", None)
    schedule = _resolve_batch_schedule(topology, samples(topology.batch_warmup, "batch.warmup", duration))
    total_steps = schedule.steps_between(0, math.ceil(duration))
    warmup_steps = _warmup_steps(recipe, samples(recipe.warmup, "recipe.warmup", duration), reference, schedule)
    length = recipe.decay_length or ("10%" if recipe.decay == "wsd" else None)
    if length is None and recipe.decay == "step":
        raise PlanError("length-unknown", 'recipe.decay_length: a step decay needs it, e.g. "30 epochs"')
    length_samples = length and max(1, round_half_up(samples(length, "recipe.decay_length", duration)))
    milestones = tuple(
        round_half_up(samples(text, "recipe.decay_milestones", duration)) for text in recipe.decay_milestones
    )
    total_samples, warmup_samples = schedule.position(total_steps), schedule.position(warmup_steps)
    _check_count("recipe.duration: its samples", total_samples)
    _check_count("recipe.warmup: its samples", warmup_samples)
    _check_count("recipe.decay_length: its samples", length_samples or 0)
    _check_count("recipe.decay_milestones: their samples", max(milestones, default=0))
    return {
        "warmup_steps": warmup_steps,
        "warmup_samples": warmup_samples,
        "total_steps": total_steps,
        "total_samples": total_samples,
        "duration_samples": math.ceil(duration),
        "decay_length_samples": length_samples,
        "decay_milestones_samples": milestones,
        "batch_start_size": topology.batch_start_size,
        "batch_warmup_samples": schedule.warmup_samples,
        "batch_warmup_steps": schedule.warmup_steps,
        "batch_warmup_lr": topology.batch_warmup_lr,
    }


def _resolve_batch_schedule(topology: Topology, warmup: Fraction) -> BatchSchedule:
    """How many samples each step has, where the batch grows over `warmup` samples."""
    size = topology.global_batch_size
    schedule = BatchSchedule(size, topology.batch_start_size or size, round_half_up(warmup))
    _check_count("batch.warmup: its samples", schedule.warmup_samples)
    if next(islice(schedule.phases(), _MOST_SIZES, None), None):
        raise PlanError(
            "too-large",
            f"batch.warmup: the batch would have more than {_MOST_SIZES} sizes on the way; grow over fewer samples, or "
            "from a larger batch.start_size",
        )
    return schedule


def _warmup_steps(recipe: Recipe, warmup: Fraction, reference: int, schedule: BatchSchedule) -> int:
    """Steps of the warmup of the learning rate: at least 1 if there is one.

    Args:
        recipe: whose rule says whether it keeps its samples or its steps.
        warmup: samples of the warmup at the reference batch size.
        reference: the reference batch size.
        schedule: how many samples each step has.

    Returns:
        Under `samples` the number of steps that end nearest to the warmup, the larger of two; under `steps` that of the
        reference, rounded half up.
    """
    if not warmup:
        return 0
    if recipe.warmup_scaling == "steps":
        return max(round_half_up(warmup / reference), 1)
    phase = schedule.phase_before(warmup)
    return max(phase.step + round_half_up((warmup - phase.samples) / phase.size), 1)


def _check_count(what: str, samples: int) -> None:
    """Raise PlanError if there are too many `samples` to count exactly. `what` begins with the field."""
    if samples > LARGEST_COUNT:
        raise PlanError("too-large", f"{what} are more than 1e30, the most that can be planned")


def _noise_scale(recipe: Recipe, data_size: DataSize) -> Fraction | None:
    """The gradient noise scale in samples; None if it is not given."""
    if recipe.noise_scale is None:
        return None
    noise_scale = Duration.parse(recipe.noise_scale).samples(None, data_size, None, "recipe.noise_scale")
    _check_count("recipe.noise_scale: its samples", math.ceil(noise_scale))
    return noise_scale


def _resolve_rates(recipe: Recipe, k: Fraction, correction: float, noise_ratio: Fraction | None) -> dict[str, Any]:
    """Start, peak and end of the learning rate.

    Args:
        recipe: what was tuned.
        k: the scale.
        correction: the factor for a scaled momentum.
        noise_ratio: gradient noise scale / reference batch size, if it is known.
    """
    uncapped = _scaled_lr(recipe, k, noise_ratio) * correction
    peak = min(uncapped, recipe.max_lr or math.inf)
    start = recipe.lr if recipe.start_lr == "reference" else float(recipe.start_lr)
    if start > peak and not (recipe.start_lr == "reference" and k < 1):
        raise PlanError(
            "start-above-peak",
            f"recipe.start_lr: {start:g} is above the peak of {peak:g}; start lower",
        )
    if recipe.end_lr > peak:
        raise PlanError("end-above-peak", f"recipe.end_lr: {recipe.end_lr:g} is above the peak of {peak:g}; end lower")
    return {"uncapped_lr": uncapped, "peak_lr": peak, "start_lr": start, "end_lr": recipe.end_lr}


def _scaled_lr(recipe: Recipe, k: Fraction, noise_ratio: Fraction | None) -> float:
    rule = scaling.resolve(recipe.scaling, recipe.optimizer)
    try:
        scaled = recipe.lr * scaling.factor(rule, k, noise_ratio, recipe.optimizer in scaling.ADAPTIVE)
        valid = 0 < scaled < math.inf
    except PlanError:
        raise
    except (ValueError, ArithmeticError) as error:
        raise PlanError("shape", f"recipe.scaling: {error}") from None
    if not valid:
        raise PlanError("shape", f"recipe.scaling: {recipe.scaling!r} makes the peak {scaled} at k = {float(k):g}")
    return scaled


def _check_shapes(plan: Plan) -> None:
    """Compute the rate at the curve's corners, so that a shape that cannot be computed fails before the run."""
    if plan.ramp == "exponential" and plan.warmup_steps and plan.start_lr <= 0:
        raise PlanError(
            "ramp-from-zero",
            "recipe.start_lr: an exponential ramp cannot start at 0; give a rate above 0, or 'reference'",
        )
    if plan.decay == "exponential" and plan.decay_length_samples is None and plan.end_lr <= 0:
        raise PlanError(
            "decay-to-zero",
            "recipe.end_lr: an exponential decay cannot end at 0; give a rate above 0, or recipe.decay_length",
        )
    try:
        corners = {0, plan.warmup_steps, plan.batch_warmup_steps, plan.total_steps - 1, plan.total_steps}
        for step in corners:
            if not 0 <= (rate := plan.lr_at_step(step)) < math.inf:
                raise ValueError(f"the learning rate of step {step} would be {rate}")
    except PlanError:
        raise
    except (ValueError, ArithmeticError) as error:
        raise PlanError("shape", f"recipe.ramp, recipe.decay: {error}") from None
