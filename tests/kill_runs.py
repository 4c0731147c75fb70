"""Kills training runs at random moments of a phase, resumes each, and compares its end with that of a run left alone.

Usage:  python tests/kill_runs.py [PHASE ...] [--kills 100] [--seed 0]

The kernel ends the ranks, by a timer that is set where the phase begins. All ranks are killed, or the first alone. A
run is killed up to five times and then left to its end. On as many ranks as before, weights, optimizer state and log
must be equal to the last bit; every fourth run ends on another number of ranks, and is equal to a relative 1e-5.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]
from conftest import TINY, WORDS  # noqa: E402
from harness import LOGGED, Ended, assert_same_end, train  # noqa: E402
from sharding_engines import zero  # noqa: E402

STEPS = 12
SEEDS = "1,2"
MOST_KILLS = 5  # of one run


@dataclass(frozen=True)
class Phase:
    """A part of a run, in which it is killed."""

    function: str
    """module:function or module:class.method, whose call is the phase."""
    world_size: int = 2
    options: tuple[str, ...] = ()
    skipped_calls: int = 0
    """The phase is one of the first so many calls and the one after them, at random."""
    env: dict[str, str] = field(default_factory=dict)
    own_cache: bool = False
    """Each run tokenises its data."""


PHASES = {
    "stream": Phase(
        "warmup.training.run.training_run:run_training",
        options=("--data.streaming", "true", "--data.shuffle_buffer", "45"),
    ),
    "sweep": Phase("warmup.training.run.seed_sweep:run_seed_sweep", options=("--seeds", SEEDS)),
    "zero2": Phase(
        "warmup.training.run.training_run:run_training",
        env=zero(2),
    ),
    "tokenisation": Phase("warmup.training.data.prepare:_Builder.build", own_cache=True),
    "evaluation": Phase(
        "warmup.training.run.evaluate:Evaluator.evaluate",
        options=("--evaluation.every", "3 steps", "--batch.evaluation", "4"),
        skipped_calls=3,
    ),
    "export": Phase("warmup.training.run.finish:export_final_model"),
}


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("phases", nargs="*", metavar="PHASE", help=f"of {', '.join(PHASES)} (default: all)")
    arguments.add_argument("--kills", type=int, default=100, help="in each phase (default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="other seeds kill at other moments")
    options = arguments.parse_args()
    if unknown := set(options.phases) - set(PHASES):
        arguments.error(f"there is no phase {', '.join(sorted(unknown))}; there are {', '.join(PHASES)}")
    for name in options.phases or PHASES:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="warmup-kills-") as folder:
            kills, runs = kill_runs(name, options.kills, options.seed, Path(folder))
        seconds = time.perf_counter() - began
        print(f"{name}: {kills} kills of {runs} runs, all of which ended as if left alone; {seconds:.0f} s", flush=True)
    return 0


def kill_runs(name: str, kills: int, seed: int, folder: Path) -> tuple[int, int]:
    """Kill runs so many times in a phase; fails where one ends otherwise. Returns the numbers of kills and runs."""
    phase, random_ = PHASES[name], random.Random(f"{name} {seed}")
    job = write_job(folder, phase)
    durations = folder / "durations"
    reference = train(phase.world_size, folder / "reference", *job, env=phase.env, before=timed(phase, durations))
    assert reference.codes == [0] * phase.world_size, (reference.status, reference.stderr[-2000:])
    longest = max(map(float, durations.read_text().split()))
    done = 0
    for number in itertools.count(1):
        run, arguments = folder / f"run-{number}", own_arguments(job, phase, folder / f"cache-{number}")
        wanted = min(random_.randint(1, MOST_KILLS), kills - done)
        done += sum(kill_once(phase, run, arguments, longest, random_) for _ in range(wanted))
        world_size = phase.world_size if number % 4 else phase.world_size % 3 + 1
        ended = train(world_size, run, *arguments, env=phase.env)
        compare(ended, reference, exactly=world_size == phase.world_size, sweep=name == "sweep")
        for path in (run, folder / f"cache-{number}"):
            shutil.rmtree(path, ignore_errors=True)
        if done >= kills:
            return done, number
    raise AssertionError


def write_job(folder: Path, phase: Phase) -> tuple[object, ...]:
    """The arguments of a run of 12 steps of 24 with dropout, and the texts that it is trained on."""
    random_ = random.Random(0)
    for name, count in (("train", 300), ("held_out", 60)):
        texts = [" ".join(random_.choices(WORDS, k=random_.randint(3, 40))) for _ in range(count)]
        (folder / f"{name}.txt").write_text("\n".join(texts))
    os.environ["WARMUP_CACHE"], os.environ["HF_HUB_OFFLINE"] = str(folder / "cache"), "1"
    return (
        "--task", "mlm", *TINY, "--data.max_length", 24, "--data.train_files", folder / "train.txt",
        "--data.validation_files", folder / "held_out.txt", "--recipe.reference_batch_size", 24,
        "--batch.global_size", 24, "--batch.per_device", 4, "--recipe.duration", f"{STEPS} steps",
        "--recipe.warmup", "4 steps", "--recipe.lr", "1e-3", "--checkpoint.every", "2 steps", "--log.samples", "true",
        "--resume", "auto", *phase.options,
    )  # fmt: skip


def own_arguments(job: tuple[object, ...], phase: Phase, cache: Path) -> tuple[object, ...]:
    return (*job, "--data.cache_dir", cache) if phase.own_cache else job


def _wrap(function: str, wrapper: Callable[[Callable], Callable]) -> None:
    module, _, path = function.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, wrapper(getattr(owner, name)))


def timed(phase: Phase, durations: Path) -> Callable[[int], None]:
    """For `before`: writes down how long each call of the phase takes, in seconds."""

    def wrapper(whole: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return whole(*args, **kwargs)
            finally:
                with open(durations, "a") as file:
                    file.write(f"{time.perf_counter() - began}\n")

        return call

    return lambda rank: _wrap(phase.function, wrapper)


def killed(phase: Phase, delay: float, call_number: int, ranks: tuple[int, ...]) -> Callable[[int], None]:
    """For `before`: the kernel ends these ranks so many seconds after the phase's n-th call began (from 0)."""

    def wrapper(whole: Callable) -> Callable:
        calls = itertools.count()

        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == call_number:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once, without a handler
                signal.setitimer(signal.ITIMER_REAL, delay)
            return whole(*args, **kwargs)

        return call

    return lambda rank: _wrap(phase.function, wrapper) if rank in ranks else None


def kill_once(phase: Phase, run: Path, arguments: tuple, longest: float, random_: random.Random) -> int:
    """Start or resume a run, and kill it in the phase. Returns 1 if it was killed, 0 if it ended before."""
    delay, call_number = random_.uniform(1e-4, longest), random_.randint(0, phase.skipped_calls)
    ranks = (0,) if random_.random() < 0.5 else tuple(range(phase.world_size))
    before = killed(phase, delay, call_number, ranks)
    ended = train(phase.world_size, run, *arguments, env=phase.env, before=before)
    if -signal.SIGALRM in ended.codes:
        return 1
    assert ended.codes == [0] * phase.world_size, (ended.status, ended.stderr[-2000:])
    return 0


def compare(run: Ended, reference: Ended, exactly: bool, sweep: bool) -> None:
    """Fails unless a run ended as the one that was left alone, with each sample once and nothing left lying about."""
    assert run.codes == [0] * len(run.codes), (run.status, run.stderr[-2000:])
    assert run.folder and reference.folder
    for name in [f"seed-{seed}" for seed in SEEDS.split(",")] if sweep else [""]:
        ours, theirs = run.folder / name, reference.folder / name
        if exactly:
            assert_same_end(ours, theirs)
        for kind in ("train", "eval"):
            assert_same_lines([*lines(ours, kind)], [*lines(theirs, kind)], 0 if exactly else 1e-5)
        positions = [position for line in json_lines(ours / "samples.jsonl") for position in line["positions"]]
        assert sorted(positions) == list(range(len(positions))), "a sample is missing or occurs twice"
    hidden = {path.name for path in run.folder.rglob(".*")} - {".lock"}
    assert not hidden, f"left behind: {hidden}"


def assert_same_lines(ours: list[dict], theirs: list[dict], tolerance: float) -> None:
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for line, other in zip(ours, theirs, strict=True):
        for name in set(LOGGED) & set(other):
            assert abs(line[name] - other[name]) <= tolerance * abs(other[name]), (line["step"], name)


def lines(run: Path, kind: str) -> Iterator[dict]:
    return (line for line in json_lines(run / "metrics.jsonl") if line["kind"] == kind)


def json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    sys.exit(main())
