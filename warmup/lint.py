"""The linter: what is wrong or doubtful about a recipe on a topology, before it is launched. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Literal

from warmup.config.recipe import Recipe
from warmup.errors import PlanError
from warmup.plan import Plan, Topology
from warmup.planning import make_plan
from warmup.scaling import ADAPTIVE


@dataclass(frozen=True)
class Finding:
    """One thing to know. Errors stop a launch, warnings do not. The message says what, and what would be right."""

    code: str
    level: Literal["error", "warning"]
    message: str

    def to_dict(self) -> dict:
        return asdict(self)


def examine(
    recipe: Recipe, topology: Topology, num_samples: int | None = None, tokens_per_sample: Fraction | None = None
) -> tuple[Plan | None, list[Finding]]:
    """The plan (None where there is none) and all findings."""
    try:
        plan = make_plan(recipe, topology, num_samples, tokens_per_sample)
    except PlanError as error:
        return None, [Finding(error.code, "error", str(error))]
    return plan, lint(plan)


def lint(plan: Plan) -> list[Finding]:
    """Findings of a plan, errors first."""
    findings = [finding for check in (_lengths, _rates, _batch) for finding in check(plan)]
    return sorted(findings, key=lambda finding: finding.level)


def _lengths(plan: Plan) -> Iterator[Finding]:
    warmup, total = plan.warmup_steps, plan.total_steps
    if warmup > total:
        yield Finding(
            "peak-never-reached",
            "error",
            f"recipe.warmup: {warmup} steps of warmup in a run of {total}: the rate never reaches its peak; shorten "
            "the warmup (recipe.warmup_scaling: samples) or lengthen the run",
        )
    elif warmup == total:
        yield Finding(
            "warmup-is-whole-run",
            "warning",
            f"recipe.warmup: all {total} steps are warmup, none decays; shorten the warmup or lengthen the run",
        )
    if 100 * plan.total_samples > 101 * plan.duration_samples:
        beyond = plan.total_samples - plan.duration_samples
        yield Finding(
            "overrun",
            "warning",
            f"recipe.duration: whole steps of {plan.global_batch_size} run {beyond} samples beyond the duration of "
            f"{plan.duration_samples}; use a smaller global batch or a longer run",
        )
    drops = plan.decay_milestones_samples if plan.decay == "multistep" else ()
    drops = (plan.decay_length_samples,) if plan.decay == "step" else drops
    drops = (plan.total_samples - plan.decay_length_samples,) if plan.decay == "wsd" else drops
    if any(drop < plan.warmup_samples for drop in drops):
        yield Finding(
            "drop-in-warmup",
            "warning",
            "recipe.decay_milestones, recipe.decay_length: the rate drops before the warmup ends, so it jumps down "
            "right after the peak; they count from step 0",
        )


def _rates(plan: Plan) -> Iterator[Finding]:
    if plan.scaling == "linear" and plan.optimizer in ADAPTIVE and plan.scale > 8:
        yield Finding(
            "linear-adaptive",
            "warning",
            f"recipe.scaling: the linear rule at k = {plan.scale:g} with {plan.optimizer}; adaptive optimizers rarely "
            "hold beyond k = 8: consider sqrt or auto, or cap the peak with recipe.max_lr",
        )
    if plan.ramp == "constant" and plan.warmup_steps and plan.start_lr == 0:
        yield Finding(
            "warmup-at-zero",
            "warning",
            f"recipe.start_lr: a constant ramp at 0 trains nothing for {plan.warmup_steps} steps; give a rate above 0",
        )


def _batch(plan: Plan) -> Iterator[Finding]:
    size, slots = plan.global_batch_size, plan.world_size * plan.accumulation
    if plan.num_samples is not None and size > plan.num_samples:
        yield Finding(
            "batch-exceeds-data",
            "error",
            f"batch: a step of {size} samples is more than the {plan.num_samples} of the training set; use fewer "
            "ranks, a smaller batch.per_device, or batch.global_size",
        )
    if slots > size:
        yield Finding(
            "idle-ranks",
            "warning",
            f"batch.global_size: {size} samples fill only {size} of the {slots} micro-batches of a step, so ranks "
            "idle; use a smaller batch.per_device or fewer ranks",
        )
    elif size % plan.world_size:
        yield Finding(
            "uneven-ranks",
            "warning",
            f"batch.global_size: {size} samples do not divide by {plan.world_size} ranks, so some wait for others "
            "(the result is the same)",
        )
