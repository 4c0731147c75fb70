"""Pretrain or fine-tune BERT: accelerate launch train.py [--config FILE] [--FIELD VALUE ...]

Configuration -> plan -> data, model, engine -> training loop -> exported model. The plan (warmup/plan.py) is made from
the recipe and from the ranks that are there, so the training stays the same on any number of them. See README.md, or
--help.

The arguments are parsed before torch is imported, so that --help and errors in them come at once; that is why the
functions below import what they use.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from warmup.config import Config
from warmup.training.distributed import exit_status
from warmup.training.run import arguments

if TYPE_CHECKING:
    from warmup.training.run.setup import Launched


def main(argv: Sequence[str]) -> int:
    """Parse the arguments and do what they ask for. Returns this rank's exit code."""
    return exit_status.guard(lambda: run(*arguments.parse(argv)), show_traceback="--traceback" in argv)


def run(config: Config, options: Namespace) -> tuple[str, str]:
    """From the launcher to a model, to one model per seed, or to predictions.

    Returns:
        (outcome, message): one of the outcomes of `exit_status`, and a line about it.
    """
    started_at = time.perf_counter()
    from warmup.training.distributed import collectives
    from warmup.training.predict.predict import predict
    from warmup.training.run import dry_run, seed_sweep, setup

    if options.dry_run:
        config = dry_run.as_dry_run(config)
    launched = setup.start(config, options)
    if options.dry_run:
        return dry_run.run_dry(config, launched)
    if options.predict:
        return predict(config, launched.accelerator, options.predict, options.output)
    if options.seeds:
        ended = seed_sweep.run_seed_sweep(config, launched, train)
    else:
        ended = train(config, launched, started_at)
    collectives.barrier()
    return ended


def train(config: Config, launched: Launched, started_at: float) -> tuple[str, str]:
    """One run, from its configuration to the exported model.

    Args:
        config: as it was requested.
        launched: the ranks, and the options of the command.
        started_at: time.perf_counter() when it was started.

    Returns:
        (outcome, message) as `run`.
    """
    from warmup.training.run import assembly, setup
    from warmup.training.run.finish import finish
    from warmup.training.run.smoke_test import run_smoke_test
    from warmup.training.run.training_run import run_training

    # What to train, on which data, at which rates: the same on every rank, and checked before anything is built.
    spec = setup.plan_run(config, launched)
    # The model with its optimizer, in the engine that the launcher asked for.
    built = assembly.build(spec, launched.accelerator)
    # The run directory, the log and the position to start from.
    with assembly.open_run(spec, built, launched, started_at) as training:
        if launched.options.test:
            return run_smoke_test(training)
        stopped = run_training(training)
        return finish(training, stopped)


if __name__ == "__main__":
    exit_status.exit_now(main(sys.argv[1:]))
