"""The options of `python -m warmup probe`. Does not import torch until they have been read."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from jsonargparse import Namespace

from warmup import commandline
from warmup.config import Config
from warmup.config.checks import require, require_count
from warmup.duration import Duration
from warmup.training.distributed import exit_status
from warmup.training.run.arguments import base_arguments


def main(argv: Sequence[str]) -> int:
    """Run the command on this rank. Returns its exit code."""
    return exit_status.guard(lambda: run(argv), show_traceback="--traceback" in argv)


def run(argv: Sequence[str]) -> tuple[str, str]:
    """Parse the arguments, and probe.

    Returns:
        (outcome, message), as `exit_status.guard` takes them.
    """
    config, options = parse(argv)
    from warmup.training.probe.run import run_probe

    return run_probe(config, options)


def parse(argv: Sequence[str]) -> tuple[Config, Namespace]:
    """Configuration and options, checked.

    Raises:
        UserError: an option is wrong.
    """
    parser = commandline.parser(
        "python -m warmup probe",
        "Try peak rates and warmups in short runs of a recipe, and recommend a pair. Several ranks: accelerate launch "
        "-m warmup probe.",
    )
    parser.add_argument("--budget", type=int, help="steps of all trials together (default: those of four runs)")
    parser.add_argument(
        "--rates", type=list[float], metavar="X", help="values of recipe.lr to try (default: 1/4 to 8 times it)"
    )
    parser.add_argument(
        "--warmups", type=list[str], metavar="X", help="values of recipe.warmup to try (default: 1/4 to 4 times it)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="seeds that the last candidates are tried with")
    parser.add_argument("--output", metavar="FOLDER", help="where the results go (default: runs/probe-<UTC time>)")
    parser.add_argument("--traceback", action="store_true", help="show Python's tracebacks with errors")
    config, options = commandline.parse(parser, argv, base_arguments)
    require_count("--budget", options.budget)
    require_count("--repeats", options.repeats)
    for rate in options.rates or ():
        require(0 < rate < math.inf, "--rates", rate, "above 0")
    for warmup in options.warmups or ():
        Duration.parse(warmup, "--warmups")
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    output = options.output and os.path.abspath(os.path.expanduser(options.output))  # the name of "." is empty
    options.output = Path(output or f"runs/probe-{stamp}")
    return config, options
