"""`python -m warmup plan`: print the plan at several world sizes and what the linter finds. Launches nothing.
`python -m warmup report`: what a run was, as a page.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from warmup import commandline
from warmup.config import Config
from warmup.config.checks import LARGEST_COUNT
from warmup.errors import PlanError, UserError, one_line
from warmup.lint import Finding, examine
from warmup.plan import Plan, Topology
from warmup.presets import PRESETS

_TEMPLATE = (
    "error: train.py is a template and no part of the installed package: clone the repository, and there run "
    "bash launch/quickstart.sh, or accelerate launch train.py --help. The package has the plan (python -m warmup "
    "plan), the scheduler and the callbacks."
)
CURVE_POINTS = 200
MOST_CURVE_POINTS = 100_000


class Result(NamedTuple):
    """A recipe at one world size."""

    world_size: int
    plan: Plan | None
    findings: list[Finding]


def main(argv: Sequence[str]) -> int:
    """Run the command. Returns its exit code: 0, 1 if the linter found an error, 2 for wrong arguments."""
    if argv and argv[0] in ("train", "predict"):
        print(_TEMPLATE, file=sys.stderr)
        return 2
    if not argv or argv[0] not in ("plan", "report"):
        print("usage: python -m warmup plan [--config FILE] [--world-sizes 1,2,8] [--json] ...", file=sys.stderr)
        print("       python -m warmup report RUN [RUN ...] [--over samples] [--png]", file=sys.stderr)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    try:
        return plan(argv[1:]) if argv[0] == "plan" else report(argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def report(argv: Sequence[str]) -> int:
    """Write the report of runs. Needs libraries that the plan does not."""
    from warmup.report import command

    return command.main(argv)


def plan(argv: Sequence[str]) -> int:
    """Print the plans, and plot them if requested. Returns 1 if the linter found an error, else 0."""
    config, options = commandline.parse(_parser(), argv)
    sizes = options.world_sizes or ([config.launch.world_size] if config.launch.world_size else [1, 2, 4, 8])
    given = (options.every, options.num_samples, options.tokens_per_sample)
    numbers = [*sizes, *(number for number in given if number is not None)]
    if not all(1 <= number <= LARGEST_COUNT for number in numbers):
        raise UserError(
            "--world-sizes, --every, --num-samples, --tokens-per-sample: numbers must be 1 or above, and at most 1e30"
        )
    num_samples = options.num_samples or (PRESETS[options.preset].num_samples if options.preset else None)
    tokens_per_sample = options.tokens_per_sample and Fraction(str(options.tokens_per_sample))
    results = [_examine(config, size, num_samples, tokens_per_sample) for size in sizes]
    if options.json:
        print(json.dumps({"plans": [_to_dict(config, result, options.every) for result in results]}))
    else:
        print(_table(results))
    if options.plot:
        _plot(options.plot, [result.plan for result in results if result.plan])
    return int(any(finding.level == "error" for result in results for finding in result.findings))


def _parser() -> commandline.ArgumentParser:
    description = "The plan of a recipe at each world size, and what is wrong with it. Nothing is launched."
    parser = commandline.parser("python -m warmup plan", description)
    parser.add_argument("--world_sizes", type=list[int], metavar="1,2,8", help="numbers of ranks (default: 1 2 4 8)")
    parser.add_argument("--num_samples", type=int, help="samples in the training set, for durations in epochs")
    parser.add_argument("--tokens_per_sample", type=float, help="their mean length in tokens, for durations in tokens")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--every", type=int, help="steps between the points of a curve (default: about 200 points)")
    parser.add_argument("--plot", metavar="PNG", help="plot the learning rates into a file")
    return parser


def _examine(config: Config, world_size: int, num_samples: int | None, tokens_per_sample: Fraction | None) -> Result:
    try:
        topology = Topology.from_batch(config.batch, world_size)
    except PlanError as error:
        return Result(world_size, None, [Finding(error.code, "error", str(error))])
    return Result(world_size, *examine(config.recipe, topology, num_samples, tokens_per_sample))


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


def _to_dict(config: Config, result: Result, every: int | None) -> dict[str, Any]:
    """A result as JSON types. Without a plan, what is known of it is filled in and the rest is None.

    Args:
        config: the configuration that was planned.
        result: the plan and findings at one world size.
        every: steps between the points of the curve; None: about CURVE_POINTS points.
    """
    batch = config.batch
    unknown = dict.fromkeys(("scale", "peak_lr", "start_lr", "warmup_steps", "total_steps", "betas", "eps"))
    without_plan = {
        **unknown,
        "world_size": result.world_size,
        "per_device_batch_size": batch.per_device,
        "accumulation": batch.accumulation,
        "global_batch_size": batch.global_size,
    }
    fields = result.plan.to_dict() if result.plan else without_plan
    points = curve(result.plan, every) if result.plan else []
    return {**fields, "lr": points, "findings": [finding.to_dict() for finding in result.findings]}


def _table(results: list[Result]) -> str:
    head = ("ranks", "batch", "k", "rule", "peak lr", "warmup steps", "samples", "share", "total steps")
    rows = [head, *(_row(result.world_size, result.plan) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    sizes_by_finding: dict[Finding, list[int]] = {}
    for result in results:
        for finding in result.findings:
            sizes_by_finding.setdefault(finding, []).append(result.world_size)
    for finding, sizes in sizes_by_finding.items():
        ranks = ", ".join(map(str, sizes))
        lines.append(f"{finding.level} [{finding.code}] at {ranks} ranks: {finding.message}")
    return "\n".join(lines)


def _row(world_size: int, plan: Plan | None) -> tuple[str, ...]:
    if plan is None:
        return (str(world_size), *["-"] * 8)
    warmup_percent = 100 * plan.warmup_samples / plan.total_samples
    return (
        str(world_size),
        str(plan.global_batch_size),
        f"{plan.scale:.6g}",
        plan.scaling,
        f"{plan.peak_lr:.6g}" + ("*" if plan.peak_lr != plan.uncapped_lr else ""),
        str(plan.warmup_steps),
        str(plan.warmup_samples),
        f"{warmup_percent:.3g}%",
        str(plan.total_steps),
    )


def _plot(path: str, plans: list[Plan]) -> None:
    """Plot learning rate over samples, one curve per plan. Raises UserError if that is impossible."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("--plot: needs matplotlib; pip install matplotlib") from None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for plan in plans:
        corners = {step for step in (plan.warmup_steps - 1, plan.warmup_steps) if 0 <= step < plan.total_steps}
        points = sorted({*curve(plan), *((step, plan.lr_at_step(step)) for step in corners)})
        samples = [float(step * plan.global_batch_size) for step, _ in points]
        label = f"{plan.world_size} ranks, batch {plan.global_batch_size}, {plan.total_steps} steps"
        axes.plot(samples, [lr for _, lr in points], label=label)
    axes.set(xlabel="samples", ylabel="learning rate", title="The plan at each world size")
    axes.legend()
    axes.grid(alpha=0.3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that matplotlib cannot draw, which it then raises as well
            figure.savefig(path, dpi=150)
    except Exception as error:  # matplotlib cannot draw all numbers that floats have
        raise UserError(f"--plot: cannot write {path}: {one_line(error)}") from None


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
