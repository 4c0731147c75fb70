"""How far training is from what the machine can do. Prints each number with what it was measured against.

    python tests/benchmarks/limits.py --text wikitext2.txt

- FLOP/s of masked language modelling, 6 layers, 384 wide, per thread, against those of a plain product of matrices, in
  turns; and two ranks against one, at as many tokens per rank. Only FLOPs count that the training cannot do without.
- What agreement checks, clock, schedule and meters cost of a step of `tiny`.
- Seconds from the end of the imports to the first step done, `tiny`, tokenised data cached.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import contenders  # noqa: E402
import numpy as np  # noqa: E402
import works  # noqa: E402
from transformers import AutoConfig  # noqa: E402
from turns import Contender, Turns  # noqa: E402
from works import Work  # noqa: E402

from warmup import clock, scheduler  # noqa: E402
from warmup.training.distributed import watchdog  # noqa: E402
from warmup.training.models.flops import useful_flops  # noqa: E402
from warmup.training.reporting import hardware, throughput  # noqa: E402

PER_DEVICE, TOKENS = 16, 128
FLOPS_OF_A_PRODUCT = 2 * 1024**3


def rates(work: Work, turns: int) -> list[str]:
    """FLOP/s per thread of training and of products, and two ranks against one."""
    steps = {"ours": 6, "products": 200}
    everyone = {
        (name, ranks): Contender.start(
            f"{name}{ranks}", getattr(contenders, name), replace(work, ranks=ranks, threads=1), False
        )
        for ranks in (1, 2)
        for name in steps
    }
    seconds: dict[tuple[str, int], list[float]] = {who: [] for who in everyone}
    for contender in everyone.values():
        contender.turn(3)
    for _ in range(turns):
        for (name, ranks), contender in everyone.items():
            seconds[name, ranks].append(contender.turn(steps[name]).seconds / steps[name])
    for contender in everyone.values():
        contender.end()
    targets = PER_DEVICE * round(0.15 * (TOKENS - 2))
    config = AutoConfig.from_pretrained(work.model)
    flops = useful_flops(config, np.full(PER_DEVICE, TOKENS), targets, works.VOCABULARY)
    lines = []
    for ranks in (1, 2):
        pairs = zip(seconds["ours", ranks], seconds["products", ranks], strict=True)
        ratios = [flops / ours / (FLOPS_OF_A_PRODUCT / products) for ours, products in pairs]
        product = statistics.median(FLOPS_OF_A_PRODUCT / each for each in seconds["products", ranks])
        lines.append(
            f"{ranks} ranks: {_spread(ratios)} of a product's FLOP/s, which are {product / 1e9:.0f} G per thread"
        )
    pairs = zip(seconds["ours", 1], seconds["ours", 2], strict=True)
    return [*lines, f"2 ranks: {_spread([2 * one / two for one, two in pairs])} times the samples/s of one"]


def overheads(work: Work, turns: int) -> str:
    """What the plan's own parts cost of a step, waiting for the other rank in the check included."""
    contender = Contender.start("overheads", _timed, work, given=False)
    contender.turn(50)
    ratios = []
    for _ in range(turns):
        turn = contender.turn(50)
        ratios.append(turn.losses[0] / turn.seconds)
    contender.end()
    return f"checks, clock, schedule and meters: {_spread(ratios, 4)} of a step"


def _timed(work: Work, turns: Turns, given: bool) -> None:
    spent, step = 0.0, turns.step

    def time_of(owner: type, name: str) -> None:
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            nonlocal spent
            began = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                spent += time.perf_counter() - began

        setattr(owner, name, timed)

    def noted() -> None:
        nonlocal spent
        if turns.over():
            turns.loss(spent)
            spent = 0.0
        step()

    for owner, names in (
        (clock.StepClock, ("check", "advance")),
        (scheduler.WarmupScheduler, ("seek",)),
        (throughput.ThroughputMeter, ("add", "read")),
        (watchdog.Watchdog, ("heartbeat",)),
    ):
        for name in names:
            time_of(owner, name)
    turns.step = noted
    contenders.ours(work, turns, given)


FIRST_STEP = """
import os, sys, time
began = time.perf_counter()
import accelerate, datasets, torch, transformers.models.bert.modeling_bert
import train
from warmup.training.predict import predict
from warmup.training.run import assembly, seed_sweep, setup, smoke_test, train_step
imported = time.perf_counter()
steps = train_step.TrainStep.steps
def first(train_step):
    next(steps(train_step))
    print(imported - began, time.perf_counter() - imported)
    sys.stdout.flush()
    os._exit(0)
train_step.TrainStep.steps = first
train.main(sys.argv[1:])
"""


def first_step(work: Work, runs: int) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    found = []
    for number in range(runs + 1):  # the first fills caches of files
        argv = [*work.argv, "--run_dir", str(work.folder / f"first-{number}"), "--model", "tiny"]
        argv += ["--data.tokenizer", str(work.model)]
        command = [sys.executable, "-c", FIRST_STEP, *argv]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append([float(part) for part in ended.stdout.split()])
    imports, rest = zip(*found[1:], strict=True)
    return f"first step done {_spread(rest)} s after the imports, which took {_spread(imports)} s"


def _spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="plain text")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large = works.build(Path(folder) / "mlm", "mlm", 6, 384, PER_DEVICE, 2, "no", options.text)
        small = works.build(Path(folder) / "tiny", "mlm", 2, 128, PER_DEVICE, 2, "no", options.text)
        print(f"on {hardware.processor()} ({hardware.instructions()})", flush=True)
        for line in rates(large, options.turns):
            print(line, flush=True)
        print(overheads(small, options.turns), flush=True)
        print(first_step(small, options.turns), flush=True)


if __name__ == "__main__":
    main()
