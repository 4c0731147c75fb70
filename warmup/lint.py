"""The linter: what is wrong or doubtful in a recipe on a topology, before it is launched. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from warmup.config.recipe import Recipe
from warmup.errors import PlanError
from warmup.plan import Plan, Topology
from warmup.planning import make_plan
from warmup.scaling import ADAPTIVE, RATE_DECAYS, beta_rules, extra_samples, sde


@dataclass(frozen=True)
class Finding:
    """One thing that the user should know about a plan."""

    code: str
    """A short name, such as "overrun"; README.md explains each."""
    level: Literal["error", "warning"]
    """An error prevents the launch, a warning does not."""
    message: str
    """One line: what is wrong, beginning with the field, and what would be right."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(
    recipe: Recipe,
    topology: Topology,
    num_samples: int | None = None,
    tokens_per_sample: Fraction | None = None,
    max_length: int | None = None,
) -> tuple[Plan | None, list[Finding]]:
    """Plan a recipe and lint the plan.

    Args:
        recipe: what was tuned, at the reference batch size.
        topology: the ranks that the recipe is to run on, and how they split a step.
        num_samples: samples of the training set, for lengths in epochs.
        tokens_per_sample: their mean number of tokens, for lengths in tokens.
        max_length: the most tokens of a sample, to compare with recipe.reference_max_length.

    Returns:
        The plan, None if there is none, and all findings, errors first.
    """
    try:
        plan = make_plan(recipe, topology, num_samples, tokens_per_sample)
    except PlanError as error:
        return None, [Finding(error.code, "error", str(error))]
    return plan, [*lint(plan), *_max_length(recipe, plan, max_length)]


def lint(plan: Plan) -> list[Finding]:
    """All findings about a plan, errors first."""
    checks = (_lengths, _rates, _moments, _weight_decay, _noise, _batch, _batch_warmup)
    findings = [finding for check in checks for finding in check(plan)]
    return sorted(findings, key=lambda finding: finding.level)


def _max_length(recipe: Recipe, plan: Plan, max_length: int | None) -> Iterator[Finding]:
    """Samples of another length than at the reference, where a batch is meant in tokens."""
    before, batch = recipe.reference_max_length, plan.reference_batch_size
    if before is not None and max_length is not None and before != max_length:
        same = max(1, round(batch * before / max_length))
        yield Finding(
            "max-length-changed",
            "warning",
            f"data.max_length: {max_length}, and {before} at the reference, so a batch of {batch} has "
            f"{max_length / before:.4g} times the tokens; use recipe.reference_batch_size: {same} with "
            f"recipe.reference_max_length: {max_length}, or data.max_length: {before}",
        )


def _lengths(plan: Plan) -> Iterator[Finding]:
    warmup, total = plan.warmup_steps, plan.total_steps
    if warmup > total:
        yield Finding(
            "peak-never-reached",
            "error",
            f"recipe.warmup: {warmup} steps of warmup in a run of {total}: the learning rate never reaches its peak; "
            "shorten the warmup (recipe.warmup_scaling: samples) or lengthen the run",
        )
    elif warmup == total:
        yield Finding(
            "warmup-is-whole-run",
            "warning",
            f"recipe.warmup: all {total} steps are warmup, none decays; shorten the warmup or lengthen the run",
        )
    if 100 * plan.total_samples > 101 * plan.duration_samples:
        excess = plan.total_samples - plan.duration_samples
        yield Finding(
            "overrun",
            "warning",
            f"recipe.duration: whole steps of {plan.global_batch_size} run {excess} samples past the requested "
            f"{plan.duration_samples}; use a smaller global batch or a longer run",
        )
    if any(drop < plan.warmup_samples for drop in _drops(plan)):
        yield Finding(
            "drop-in-warmup",
            "warning",
            "recipe.decay_milestones, recipe.decay_length: the learning rate drops before the warmup ends, so it jumps "
            "down right after the peak; they count from step 0",
        )


def _drops(plan: Plan) -> tuple[int, ...]:
    """Where a decay that is positioned in the whole run first lowers the rate, in samples."""
    length = plan.decay_length_samples
    if plan.decay == "multistep":
        return plan.decay_milestones_samples
    if plan.decay == "step" and length is not None:
        return (length,)
    if plan.decay == "wsd" and length is not None:
        return (plan.total_samples - length,)
    return ()


def _rates(plan: Plan) -> Iterator[Finding]:
    if plan.optimizer == "adafactor":
        if plan.scaling != "none" and plan.scale != 1:
            yield Finding(
                "relative-steps",
                "warning",
                f"recipe.scaling: {plan.scaling} with adafactor, whose steps are relative to the weights and at most "
                "1 / sqrt(step): no rule for the batch is known; use none and tune recipe.lr at this batch, or adamw",
            )
    elif plan.scaling == "linear" and plan.optimizer in ADAPTIVE and not 1 / 8 <= plan.scale <= 8:
        where, more = ("beyond k = 8", ", or cap the peak with recipe.max_lr") if plan.scale > 8 else ("below 1/8", "")
        yield Finding(
            "linear-adaptive",
            "warning",
            f"recipe.scaling: linear at k = {plan.scale:g} with {plan.optimizer}; linear scaling of adaptive "
            f"optimizers rarely works {where}: consider sqrt or auto{more}",
        )
    if plan.ramp == "constant" and plan.warmup_steps and plan.start_lr == 0:
        yield Finding(
            "warmup-at-zero",
            "warning",
            f"recipe.start_lr: a constant ramp at 0 trains nothing for {plan.warmup_steps} steps; give a rate above 0",
        )


def _moments(plan: Plan) -> Iterator[Finding]:
    """Betas that do not go with the rate or the warmup."""
    factor, root = plan.uncapped_lr / plan.lr / plan.momentum_correction, math.sqrt(plan.scale)
    if "sde" in plan.beta_scaling and not 1 / 1.05 < factor / root < 1.05:
        yield Finding(
            "sde-without-sqrt",
            "warning",
            f"recipe.beta_scaling: sde belongs to a rate that is multiplied by sqrt(k) = {root:.4g}, and "
            f"recipe.scaling: {plan.scaling} multiplies it by {factor:.4g}; use recipe.scaling: sqrt, or "
            "recipe.beta_scaling: half-life",
        )
    yield from _square_root(plan)
    yield from _short_warmup(plan)


def _square_root(plan: Plan) -> Iterator[Finding]:
    """Where the sqrt rule does not keep the training the same: without scaled betas, and where no beta goes with it."""
    betas = (plan.reference_alpha,) if plan.optimizer == "rmsprop" else plan.reference_betas or ()
    used = [beta for beta in betas if beta]
    if plan.scaling != "sqrt" or plan.optimizer not in ("adam", "adamw", "rmsprop") or not used:
        return
    if any(sde(beta, plan.scale) <= 0 for beta in used):
        yield Finding(
            "beyond-sde",
            "warning",
            f"recipe.scaling: sqrt at k = {plan.scale:g} is beyond k = {1 / (1 - min(used)):.4g}, up to which betas go "
            "with it (half-life takes their place): another training is to be expected; use a smaller batch, or tune "
            "recipe.lr nearer to it",
        )
    elif plan.scale > 4 and set(beta_rules(plan.beta_scaling, plan.optimizer).values()) == {"none"}:
        yield Finding(
            "unscaled-betas",
            "warning",
            f"recipe.beta_scaling: none at k = {plan.scale:g} with the sqrt rule, which keeps the training the same "
            "only with scaled betas; use sde, or recipe.scaled: all",
        )


def _short_warmup(plan: Plan) -> Iterator[Finding]:
    """Ma & Yarats 2021 (arXiv:1910.04209): 2 / (1 - beta2) steps are Adam's warmup that needs no tuning.

    Runs in which these would be more than a tenth are left alone.
    """
    needed = round(2 / (1 - plan.betas[1]))
    if plan.optimizer in ("adam", "adamw") and plan.warmup_steps < needed <= plan.total_steps / 10:
        size = plan.global_batch_size if plan.warmup_scaling == "samples" else plan.reference_batch_size
        unscaled = plan.scale > 1 and plan.betas == plan.reference_betas
        yield Finding(
            "short-warmup",
            "warning",
            f"recipe.warmup: {plan.warmup_steps} steps are fewer than 2 / (1 - beta2) = {needed}, within which Adam's "
            f'second moment settles; use "{needed * size} samples"'
            + (", or scale beta2 too with recipe.beta_scaling" if unscaled else ""),
        )


def _weight_decay(plan: Plan) -> Iterator[Finding]:
    """Weight decay that takes another part of the weights per sample: rate * decay / B."""
    reference = plan.reference_weight_decay
    if plan.optimizer not in RATE_DECAYS or not reference:
        return
    ratio = plan.peak_lr / plan.momentum_correction / plan.lr / plan.scale * (plan.weight_decay / reference)
    if 0 < ratio < math.inf and not 0.499 < ratio < 2.001:
        change = f"{ratio:.4g} times stronger" if ratio > 1 else f"{1 / ratio:.4g} times weaker"
        yield Finding(
            "weight-decay-drift",
            "warning",
            f"recipe.weight_decay: per sample it is {change} than at the reference batch; keep its effect with "
            f"recipe.weight_decay_scaling: timescale ({plan.weight_decay / ratio:.4g} here)",
        )


def _noise(plan: Plan) -> Iterator[Finding]:
    """What the batch costs in samples, where the noise scale says it."""
    if plan.noise_scale is None:
        return
    cost = extra_samples(plan.noise_scale, plan.global_batch_size, plan.reference_batch_size)
    if cost > 1.25:
        per_rank = plan.per_device_batch_size * plan.accumulation
        ranks = max(1, int(plan.noise_scale / per_rank))
        yield Finding(
            "noise-batch",
            "warning",
            f"batch: at a noise scale of {plan.noise_scale:.4g} samples, a batch of {plan.global_batch_size} is "
            f"expected to need {cost:.3g} times the samples that {plan.reference_batch_size} needs; with {per_rank} "
            f"samples per rank, more than {ranks} {'rank' if ranks == 1 else 'ranks'} cost more than they save",
        )


def _batch(plan: Plan) -> Iterator[Finding]:
    size, micro_batches = plan.global_batch_size, plan.world_size * plan.accumulation
    if plan.num_samples is not None and size > plan.num_samples:
        yield Finding(
            "batch-exceeds-data",
            "error",
            f"batch: a step of {size} samples is larger than the training set of {plan.num_samples}; use fewer "
            "ranks, a smaller batch.per_device, or batch.global_size",
        )
    if micro_batches > size:
        yield Finding(
            "idle-ranks",
            "warning",
            f"batch.global_size: {size} samples fill only {size} of the {micro_batches} micro-batches of a step, so "
            "some ranks idle; use a smaller batch.per_device or fewer ranks",
        )
    elif size % plan.world_size:
        yield Finding(
            "uneven-ranks",
            "warning",
            f"batch.global_size: {size} samples cannot be split evenly over {plan.world_size} ranks, so some "
            "ranks wait for others (the result is the same)",
        )


def _batch_warmup(plan: Plan) -> Iterator[Finding]:
    size, start, micro_batches = plan.global_batch_size, plan.batch_start_size, plan.world_size * plan.accumulation
    if start is None:
        return
    if plan.batch_warmup_steps >= plan.total_steps:
        yield Finding(
            "batch-never-full",
            "error",
            f"batch.warmup: the batch grows over {plan.batch_warmup_samples} samples in a run of {plan.total_samples}, "
            f"so no step has the {size} samples that the plan is made for; shorten batch.warmup or lengthen the run",
        )
    if start < micro_batches <= size:
        fill = "1 sample fills" if start == 1 else f"{start} samples fill"
        grown = next(phase for phase in plan.batch_schedule.phases() if phase.size >= micro_batches)
        yield Finding(
            "idle-ranks",
            "warning",
            f"batch.start_size: {fill} only {start} of the {micro_batches} micro-batches of a step, so "
            f"some ranks idle for the first {grown.step} steps; use {micro_batches} or more, a larger "
            "batch.per_device or fewer ranks",
        )
