"""A recipe at several world sizes: the plans, what the linter finds, and the curves of the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from warmup.config import Config
from warmup.duration import DataSize
from warmup.errors import PlanError, UserError
from warmup.lint import Finding, examine
from warmup.plan import Plan, Topology

CURVE_POINTS = 200
MOST_CURVE_POINTS = 100_000


class Result(NamedTuple):
    """A recipe at one world size."""

    world_size: int
    plan: Plan | None
    findings: list[Finding]


def examine_all(config: Config, sizes: Sequence[int], data: DataSize) -> list[Result]:
    """The result at each world size."""
    return [_examine(config, size, data) for size in sizes]


def _examine(config: Config, world_size: int, data: DataSize) -> Result:
    try:
        topology = Topology.from_batch(config.batch, world_size)
    except PlanError as error:
        return Result(world_size, None, [Finding(error.code, "error", str(error))])
    sizes = (data.num_samples, data.tokens_per_sample, config.data.max_length)
    return Result(world_size, *examine(config.recipe, topology, *sizes))


def reference_plan(config: Config, data: DataSize) -> Plan | None:
    """The plan at the reference batch size, on one rank; None if there is none."""
    reference = config.recipe.reference_batch_size
    if reference is None:
        return None
    return examine(config.recipe, Topology(1, reference), data.num_samples, data.tokens_per_sample)[0]


def curve(plan: Plan, every: int | None = None) -> list[tuple[int, float]]:
    """(step, learning rate) of every `every`-th step, counted from 0, and of the last one.

    Raises UserError if those are too many.
    """
    every = every or max(1, round(plan.total_steps / CURVE_POINTS))
    if plan.total_steps > MOST_CURVE_POINTS * every:
        least = -(-plan.total_steps // MOST_CURVE_POINTS)
        raise UserError(
            f"--every: every {every} of {plan.total_steps} steps are more than {MOST_CURVE_POINTS} points of a curve; "
            f"give {least} or above"
        )
    steps = sorted({*range(0, plan.total_steps, every), plan.total_steps - 1})
    return [(step, plan.lr_at_step(step)) for step in steps]


def ranks_text(*world_sizes: int) -> str:
    """World sizes in words: 1 rank; 1, 2, 4 ranks."""
    return f"{', '.join(map(str, world_sizes))} rank{'' if world_sizes == (1,) else 's'}"
