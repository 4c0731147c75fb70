"""The linter: what is wrong or doubtful in a recipe on a topology, before it is launched. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from warmup.config.recipe import Recipe
from warmup.errors import PlanError
from warmup.plan import Plan, Topology
from warmup.planning import make_plan
from warmup.scaling import ADAPTIVE


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
    recipe: Recipe, topology: Topology, num_samples: int | None = None, tokens_per_sample: Fraction | None = None
) -> tuple[Plan | None, list[Finding]]:
    """Plan a recipe and lint the plan.

    Args:
        recipe: what was tuned, at the reference batch size.
        topology: the ranks that the recipe is to run on, and how they split a step.
        num_samples: samples of the training set, for lengths in epochs.
        tokens_per_sample: their mean number of tokens, for lengths in tokens.

    Returns:
        The plan, None if there is none, and all findings, errors first.
    """
    try:
        plan = make_plan(recipe, topology, num_samples, tokens_per_sample)
    except PlanError as error:
        return None, [Finding(error.code, "error", str(error))]
    return plan, lint(plan)


def lint(plan: Plan) -> list[Finding]:
    """All findings about a plan, errors first."""
    findings = [finding for check in (_lengths, _rates, _batch, _batch_warmup) for finding in check(plan)]
    return sorted(findings, key=lambda finding: finding.level)


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
    if plan.scaling == "linear" and plan.optimizer in ADAPTIVE and plan.scale > 8:
        yield Finding(
            "linear-adaptive",
            "warning",
            f"recipe.scaling: linear at k = {plan.scale:g} with {plan.optimizer}; linear scaling of adaptive "
            "optimizers rarely works beyond k = 8: consider sqrt or auto, or cap the peak with recipe.max_lr",
        )
    if plan.ramp == "constant" and plan.warmup_steps and plan.start_lr == 0:
        yield Finding(
            "warmup-at-zero",
            "warning",
            f"recipe.start_lr: a constant ramp at 0 trains nothing for {plan.warmup_steps} steps; give a rate above 0",
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
        grown = next(phase for phase in plan.batch_schedule.phases() if phase.size >= micro_batches)
        yield Finding(
            "idle-ranks",
            "warning",
            f"batch.start_size: {start} samples fill only {start} of the {micro_batches} micro-batches of a step, so "
            f"some ranks idle for the first {grown.step} steps; use {micro_batches} or more, a larger "
            "batch.per_device or fewer ranks",
        )
