"""`python -m warmup plan`: look before you launch. Prints the plans of several world sizes, and findings."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from fractions import Fraction

from warmup import commandline
from warmup.errors import PlanError
from warmup.lint import Finding, examine
from warmup.plan import Plan, Topology
from warmup.presets import PRESETS

CURVE_POINTS = 200


def main(argv: Sequence[str]) -> int:
    """Run the command. Returns its exit code: 0, 1 on an error finding, 2 on bad arguments."""
    if not argv or argv[0] != "plan":
        print("usage: python -m warmup plan [--config FILE] [--world-sizes 1,2,8] [--json] ...", file=sys.stderr)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    try:
        return plan(argv[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def plan(argv: Sequence[str]) -> int:
    parser = commandline.parser("python -m warmup plan", plan_description())
    parser.add_argument("--world_sizes", type=list[int], help="numbers of ranks (default: 1 2 4 8)")
    parser.add_argument("--num_samples", type=int, help="samples of the training set, for durations in epochs")
    parser.add_argument("--tokens_per_sample", type=float, help="their mean length in tokens, for durations in tokens")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--every", type=int, help="steps between the points of a curve (default: about 200 points)")
    parser.add_argument("--plot", metavar="PNG", help="draw the curves into a file")
    config, options = commandline.parse(parser, argv)
    sizes = options.world_sizes or ([config.launch.world_size] if config.launch.world_size else [1, 2, 4, 8])
    given = (options.every, options.num_samples, options.tokens_per_sample)
    if not all(1 <= number < math.inf for number in [*sizes, *(number for number in given if number is not None)]):
        raise ValueError("--world-sizes, --every, --num-samples, --tokens-per-sample: numbers are 1 or above")
    num_samples = options.num_samples or (PRESETS[options.preset].num_samples if options.preset else None)
    tokens = options.tokens_per_sample and Fraction(str(options.tokens_per_sample))
    results = [(size, *_examine(config, size, num_samples, tokens)) for size in sizes]
    if options.json:
        plans = [_to_dict(config, size, made, findings, options.every) for size, made, findings in results]
        print(json.dumps({"plans": plans}))
    else:
        print(_table(results))
    if options.plot:
        _plot(options.plot, [made for _, made, _ in results if made])
    return int(any(finding.level == "error" for _, _, findings in results for finding in findings))


def plan_description() -> str:
    return "What a recipe becomes at each world size, and what is wrong with it. Nothing is launched."


def _examine(
    config: commandline.Config, size: int, num_samples: int | None, tokens_per_sample: Fraction | None
) -> tuple[Plan | None, list[Finding]]:
    try:
        return examine(config.recipe, Topology.cut(config.batch, size), num_samples, tokens_per_sample)
    except PlanError as error:
        return None, [Finding(error.code, "error", str(error))]


def curve(plan: Plan, every: int | None = None) -> list[tuple[int, float]]:
    """(step, rate) of every so many steps, counted from 0, and of the last one."""
    every = every or max(1, round(plan.total_steps / CURVE_POINTS))
    steps = sorted({*range(0, plan.total_steps, every), plan.total_steps - 1})
    return [(step, plan.lr_at_step(step)) for step in steps]


def _to_dict(
    config: commandline.Config, size: int, plan: Plan | None, findings: list[Finding], every: int | None
) -> dict:
    """One plan as JSON; where there is none, what is known and the findings."""
    batch = config.batch
    unknown = dict.fromkeys(("scale", "peak_lr", "start_lr", "warmup_steps", "total_steps", "betas", "eps"))
    unknown |= {
        "world_size": size,
        "per_device_batch_size": batch.per_device,
        "accumulation": batch.accumulation,
        "global_batch_size": batch.global_size,
    }
    known = plan.to_dict() if plan else unknown
    points = curve(plan, every) if plan else []
    return {**known, "lr": points, "findings": [finding.to_dict() for finding in findings]}


def _table(results: list[tuple[int, Plan | None, list[Finding]]]) -> str:
    head = ("ranks", "batch", "k", "rule", "peak lr", "warmup steps", "samples", "share", "total steps")
    rows = [head, *(_row(size, plan) for size, plan, _ in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    notes: dict[Finding, list[int]] = {}
    for size, _, findings in results:
        for finding in findings:
            notes.setdefault(finding, []).append(size)
    for finding, sizes in notes.items():
        ranks = ", ".join(map(str, sizes))
        lines.append(f"{finding.level} [{finding.code}] at {ranks} ranks: {finding.message}")
    return "\n".join(lines)


def _row(size: int, plan: Plan | None) -> tuple[str, ...]:
    if plan is None:
        return (str(size), *["-"] * 8)
    share = 100 * plan.warmup_samples / plan.total_samples
    return (
        str(size),
        str(plan.global_batch_size),
        f"{plan.scale:.6g}",
        plan.scaling,
        f"{plan.peak_lr:.6g}" + ("*" if plan.peak_lr != plan.uncapped_lr else ""),
        str(plan.warmup_steps),
        str(plan.warmup_samples),
        f"{share:.3g}%",
        str(plan.total_steps),
    )


def _plot(path: str, plans: list[Plan]) -> None:
    """Draw rate over samples, one curve a plan. Raises ValueError where it cannot be drawn or written."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("--plot: needs matplotlib; pip install matplotlib") from None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for plan in plans:
        corners = {step for step in (plan.warmup_steps - 1, plan.warmup_steps) if 0 <= step < plan.total_steps}
        points = sorted({*curve(plan), *((step, plan.lr_at_step(step)) for step in corners)})
        samples = [step * plan.global_batch_size for step, _ in points]
        label = f"{plan.world_size} ranks, batch {plan.global_batch_size}, {plan.total_steps} steps"
        axes.plot(samples, [rate for _, rate in points], label=label)
    axes.set(xlabel="samples", ylabel="learning rate", title="The plan at each world size")
    axes.legend()
    axes.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ValueError(f"--plot: cannot write {path}: {error}") from None


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
