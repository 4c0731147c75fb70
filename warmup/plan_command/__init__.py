"""`python -m warmup plan`: the plan at several world sizes, as a table, JSON, a picture, arithmetic or a difference."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from jsonargparse import Namespace

from warmup import commandline
from warmup.config import Config
from warmup.config.checks import LARGEST_COUNT
from warmup.duration import DataSize
from warmup.errors import UserError
from warmup.plan_command.arithmetic import arithmetic
from warmup.plan_command.counting import data_size
from warmup.plan_command.measured import with_noise_scale_of
from warmup.plan_command.results import Result, curve, examine_all, ranks_text, reference_plan
from warmup.plan_command.tables import difference, finding_lines, plan_table
from warmup.presets import PRESETS


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
    if options.json and (options.explain or options.against):
        raise UserError("--json: prints plans only; leave out --explain and --against")
    if options.noise_from:
        config, measured = with_noise_scale_of(config, options.noise_from)
        if not options.json:
            print(f"With the gradient noise scale that {options.noise_from} measured, {measured}:\n")
    size = data_size(config, given_size(options))
    results = examine_all(config, sizes, size)
    if options.json:
        print(json.dumps({"plans": [_to_dict(config, result, options.every) for result in results]}))
    else:
        print(plan_table(results, reference_plan(config, size), sys.stdout))
    if options.explain:
        for result in results:
            if result.plan:
                print(
                    f"\nat {ranks_text(result.world_size)}:", *arithmetic(config.recipe, result.plan, size), sep="\n  "
                )
    if options.against:
        print()
        print(compare(config, results, options))
    if options.plot:
        from warmup.plan_command.plot import plot  # matplotlib takes its time

        plot(options.plot, results)
    return int(any(finding.level == "error" for result in results for finding in result.findings))


def given_size(options: Namespace) -> DataSize:
    """The size of the training set, as far as the command or the preset says it."""
    num_samples = options.num_samples or (PRESETS[options.preset].num_samples if options.preset else None)
    return DataSize(num_samples, options.tokens_per_sample and Fraction(str(options.tokens_per_sample)))


def compare(config: Config, results: Sequence[Result], options: Namespace) -> str:
    """The difference from the configuration file `options.against`, at the same world sizes."""
    other, _ = commandline.parse(_parser(), ["--config", options.against])
    others = examine_all(other, [result.world_size for result in results], data_size(other, given_size(options)))
    text = difference((config, other), ("this", options.against), (results, others))
    return "\n".join([text, *(f"{options.against}: {line}" for line in finding_lines(others, sys.stdout))])


def _parser() -> commandline.ArgumentParser:
    description = "The plan of a recipe at each world size, and what is wrong with it. Nothing is launched."
    parser = commandline.parser("python -m warmup plan", description)
    parser.add_argument("--world_sizes", type=list[int], metavar="1,2,8", help="numbers of ranks (default: 1 2 4 8)")
    parser.add_argument(
        "--num_samples",
        type=int,
        help="samples in the training set, for durations in epochs (default: those in data.train_files, counted)",
    )
    parser.add_argument("--tokens_per_sample", type=float, help="their mean length in tokens, for durations in tokens")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--every", type=int, help="steps between the points of a curve (default: about 200 points)")
    parser.add_argument("--plot", metavar="PNG", help="plot the learning rates into a file (.png, .svg, .pdf)")
    parser.add_argument("--explain", action="store_true", help="write out the arithmetic of every number")
    parser.add_argument("--against", metavar="FILE", help="show the difference from another configuration file")
    parser.add_argument("--noise_from", metavar="RUN", help="plan with the noise scale that a run measured")
    return parser


def _to_dict(config: Config, result: Result, every: int | None) -> dict[str, Any]:
    """A result as JSON types. Without a plan, what is known of it is filled in and the rest is None.

    Args:
        config: the configuration that was planned.
        result: the plan and findings at one world size.
        every: steps between the points of the curve; None: about CURVE_POINTS points.
    """
    batch = config.batch
    numbers = ("scale", "peak_lr", "start_lr", "warmup_steps", "total_steps")
    unknown = dict.fromkeys((*numbers, "betas", "eps", "momentum", "alpha", "weight_decay"))
    without_plan = {
        **unknown,
        "world_size": result.world_size,
        "per_device_batch_size": batch.per_device,
        "accumulation": batch.accumulation,
        "global_batch_size": batch.global_size,
    }
    fields = result.plan.to_dict() if result.plan else without_plan
    points = curve(result.plan, every) if result.plan else []
    sizes = list(result.plan.batch_schedule.phases()) if result.plan else []
    findings = [finding.to_dict() for finding in result.findings]
    return {**fields, "lr": points, "batch_sizes": [phase._asdict() for phase in sizes], "findings": findings}
