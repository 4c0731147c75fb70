"""Killed at any moment, a run goes on as if nothing had happened: the same weights, the same log, to the last bit."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import Ended, Ranks, assert_went_through, change_losses, start_training, train

from warmup.training.checkpoints import format as checkpoint_format

STEPS, BATCH = 30, 24
MOMENTS = ("at any time", "after a step", "while a checkpoint is written")


@pytest.fixture(scope="module")
def job(mlm: tuple[str, ...]) -> tuple[object, ...]:
    """30 steps of 24 with dropout and a checkpoint every 3 steps: 1.2 epochs."""
    batch = ("--batch.global_size", BATCH, "--batch.per_device", 4, "--recipe.reference_batch_size", BATCH)
    return (*mlm, *batch, "--checkpoint.every", "3 steps", "--log.samples", "true", "--resume", "auto")


def last_step(run: Path) -> int:
    """The newest step in the log of a run that goes on meanwhile."""
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def wait_for(condition: Callable[[], object], ranks: Ranks) -> None:
    while not condition():
        assert ranks.running(), "ended before it was killed"
        time.sleep(0.002)


def kill(ranks: Ranks, run: Path, moment: str, step: int, random_: random.Random) -> bool:
    """SIGKILL to all ranks; `step`: not before the log has it, except at any time. Whether it broke off a write."""
    if moment == "at any time":
        time.sleep(random_.uniform(0, 1))
    else:
        wait_for(lambda: last_step(run) >= step, ranks)
        if moment == "after a step":
            time.sleep(random_.uniform(0, 0.08))
        else:
            wait_for(lambda: any((run / "checkpoints").glob(".step-*.stage")), ranks)
            time.sleep(random_.uniform(0, 0.008))
    assert ranks.running(), "ended before it was killed"
    ranks.send(signal.SIGKILL)
    assert [rank.exit_code for rank in ranks.wait()] == [-signal.SIGKILL] * len(ranks.processes)
    assert_sound(run)
    return any((run / "checkpoints").glob(".step-*.stage"))


def assert_sound(run: Path, interval: int = 3) -> None:
    """All that is called a checkpoint verifies, and what is lost is an interval and the write in progress at most."""
    newest, skipped = checkpoint_format.newest_valid(run)
    assert skipped == []
    assert (checkpoint_format.step_of(newest) if newest else 0) >= last_step(run) - 2 * interval


def assert_recovered(run: Ended, reference: Ended) -> None:
    """Ended as a run that was not killed, with nothing left lying about."""
    assert_went_through(run, reference)
    names = {path.name for path in run.folder.rglob("*")}
    assert {name for name in names if name.startswith((".", "discarded"))} <= {".lock"}


def kill_and_resume(world_size: int, folder: Path, job: tuple, chains: list[list[str]]) -> tuple[int, int]:
    """Runs that are killed at each of a chain's moments and resumed until they end. Returns kills, and writes broken
    off."""
    reference = train(world_size, folder / "reference", *job)
    assert reference.column("step") == list(range(1, STEPS + 1)), reference.status
    random_ = random.Random(world_size)
    kills = broken = 0
    for number, moments in enumerate(chains):
        run, step = folder / f"run-{number}", 0
        for moment in moments:
            step = random_.randint(step, STEPS - 4)
            broken += kill(start_training(world_size, run, *job), run, moment, step, random_)
            kills += 1
        assert_recovered(train(world_size, run, *job), reference)
        shutil.rmtree(run)
    return kills, broken


def test_killed_after_a_step_and_in_a_write(job: tuple, tmp_path: Path) -> None:
    assert kill_and_resume(2, tmp_path, job, [list(MOMENTS[1:])])[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_killed_at_random_moments(world_size: int, job: tuple, tmp_path: Path) -> None:
    """18 kills: 6 runs are killed once, 6 are killed again after they were resumed; all 12 then run to their end."""
    moments = itertools.cycle(MOMENTS)
    chains = [[next(moments) for _ in range(1 + number % 2)] for number in range(12)]
    kills, broken = kill_and_resume(world_size, tmp_path, job, chains)
    assert kills == 18
    assert broken >= 2  # writes that were cut off, for it to be a test of them


CALLS = ((Path, "rename"), (Path, "replace"), (os, "fsync"), (shutil, "rmtree"))
SHORT = ("--recipe.duration", "6 steps", "--recipe.warmup", "2 steps", "--checkpoint.every", "2 steps")


def die_at(number: int, after: bool, run: Path, calls: tuple) -> Callable[[int], None]:
    """Rank 0 kills itself just before or after the n-th call of (owner, name) that is made for something in `run`."""

    def before(rank: int) -> None:
        count = itertools.count(1)
        for owner, name in calls if rank == 0 else ():
            setattr(owner, name, dying(getattr(owner, name), count))

    def dying(call: Callable, count: itertools.count) -> Callable:
        def wrapped(target: object, *args: object, **kwargs: object) -> object:
            path = Path(os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target)
            found = run in path.parents and next(count) == number
            if found and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(target, *args, **kwargs)
            if found:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    return before


def kill_at_each_call(world_size: int, folder: Path, job: tuple, start: Path | None, after: bool, calls: tuple) -> int:
    """Kill a run at its first call, another one at its second and so on, each then resumed; until none is left.

    start: a run directory to begin with. Returns how many kills there were.
    """
    reference = train(world_size, folder / "reference", *job)
    for number in itertools.count(1):
        run = folder / f"run-{number}"
        if start:
            shutil.copytree(start, run)
        killed = train(world_size, run, *job, before=die_at(number, after, run, calls))
        assert_sound(run, interval=2)
        if killed.codes == [0] * world_size:
            return number - 1
        assert killed.codes == [-signal.SIGKILL] + [1] * (world_size - 1)
        assert_recovered(train(world_size, run, *job), reference)
        shutil.rmtree(run)
    raise AssertionError


def test_killed_at_each_rename(job: tuple, tmp_path: Path) -> None:
    """3 saves, of which the last removes the oldest, its evaluation and manifest, the export, and 6 files replaced:
    config, plan, result, what the start said, what the evaluation found, and the report.
    """
    assert kill_at_each_call(1, tmp_path, (*job, *SHORT), None, False, CALLS[:2]) == 13


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world_size", "after", "calls", "fewest"),
    [(1, False, CALLS, 35), (2, True, (CALLS[0], CALLS[3]), 10)],
    ids=["before each rename, flush and removal", "after each rename and removal"],
)
def test_killed_at_each_change_of_files(
    world_size: int, after: bool, calls: tuple, fewest: int, job: tuple, tmp_path: Path
) -> None:
    assert kill_at_each_call(world_size, tmp_path, (*job, *SHORT), None, after, calls) >= fewest


@pytest.mark.parametrize("after", [False, True])
def test_killed_where_a_model_is_exported_again(after: bool, job: tuple, tmp_path: Path) -> None:
    """A run that is over is resumed and killed while it puts a new model in the place of the old one."""
    job = (*job, *SHORT)
    whole = train(1, tmp_path / "whole", *job)
    calls = (CALLS[0], CALLS[3])
    assert kill_at_each_call(1, tmp_path, job, whole.folder, after, calls) >= 4


def trace(call: str, number: int, step: int) -> Callable[[int], None]:
    """From the save of `step` on, strace kills the process in the n-th system call of a thread."""
    calls = {"rename": "?rename,renameat,?renameat2", "fsync": "fsync"}[call]

    def before(rank: int) -> None:
        from warmup.training.checkpoints.saver import Saver

        save = Saver.save

        def traced(self: Saver, clock: object, *args: object) -> float:
            if clock.step == step:
                inject = f"inject={calls}:signal=SIGKILL:when={number}"
                attach = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(os.getpid()), "-e", inject]
                tracer = subprocess.Popen(attach)
                while "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
                    assert tracer.poll() is None, "strace cannot attach"
                    time.sleep(0.01)
            return save(self, clock, *args)

        Saver.save = traced

    return before


@pytest.fixture
def strace(tmp_path: Path) -> None:
    """Skips where there is no strace that may kill a process."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    inject = "inject=?rename,renameat,?renameat2:signal=SIGKILL"
    (tmp_path / "a").touch()
    tried = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject, "mv", tmp_path / "a", tmp_path / "b"],
        capture_output=True,
    )
    if tried.returncode != -signal.SIGKILL:
        pytest.skip(f"strace may not trace or inject here: {tried.stderr.decode()[:200]}")


@pytest.mark.slow
@pytest.mark.parametrize(("call", "fewest"), [("rename", 2), ("fsync", 9)])
def test_killed_at_each_system_call_of_a_save(call: str, fewest: int, job: tuple, tmp_path: Path, strace: None) -> None:
    """At each rename, or flush, of the third save, by the kernel. They are counted in each thread, so that the main
    thread is killed too, at the run's end.
    """
    job = (*job, *SHORT, "--recipe.duration", "8 steps")
    reference = train(1, tmp_path / "reference", *job)
    for number in itertools.count(1):
        run = tmp_path / f"run-{number}"
        killed = train(1, run, *job, before=trace(call, number, step=6))
        assert_sound(run, interval=2)
        if killed.codes == [0]:
            break
        assert killed.codes == [-signal.SIGKILL], killed.stderr
        assert checkpoint_format.step_of(checkpoint_format.newest_valid(run)[0]) in (4, 6, 8)
        assert_recovered(train(1, run, *job), reference)
    assert number - 1 >= fewest


def spoil(positions: range | tuple, how: str, last: int) -> Callable[[int], None]:
    """The losses of the steps that begin at these positions of the data stream are spoilt, those of rank `last`
    alone; "spike": of all ranks.
    """
    ways = {
        "nan": lambda loss: loss * float("nan"),
        "inf": lambda loss: loss * float("inf"),
        "inf with a finite gradient": lambda loss: loss + float("inf"),
        "spike": lambda loss: loss * 50,
    }

    def before(rank: int) -> None:
        from warmup.training.run.train_step import StepResult, TrainStep

        step, now = TrainStep._step, -1

        def noted(self: TrainStep) -> StepResult:
            nonlocal now
            now = self.clock.consumed_samples
            return step(self)

        def spoilt(loss: torch.Tensor) -> torch.Tensor:
            return ways[how](loss) if now in positions and (rank == last or how == "spike") else loss

        TrainStep._step = noted
        change_losses(spoilt)

    return before


@pytest.mark.parametrize("how", ["nan", "inf with a finite gradient"])
def test_a_skipped_step_stays_skipped_through_kills(how: str, job: tuple, tmp_path: Path) -> None:
    """The 8th step is skipped; killed before the next checkpoint, and again after it."""
    skip = spoil((7 * BATCH,), how, last=1)
    reference = train(2, tmp_path / "reference", *job, before=skip)
    (skipped,) = reference.of_kind("skipped")
    assert (skipped["step"], skipped["consumed_samples"] - skipped["samples"], len(skipped["sample_ids"])) == (
        7,
        BATCH,
        BATCH,
    )
    assert reference.column("step") == list(range(1, STEPS + 1))
    run, random_ = tmp_path / "run", random.Random(0)
    for step in (8, 14):
        kill(start_training(2, run, *job, before=skip), run, "after a step", step, random_)
    resumed = train(2, run, *job, before=skip)
    assert_recovered(resumed, reference)
    assert resumed.of_kind("skipped") == [skipped]
    assert [line["consumed_samples"] - line["samples"] for line in resumed.of_kind("train")] == [0] * 7 + [BATCH] * 23
    state = checkpoint_format.read_state(checkpoint_format.newest_valid(run)[0])
    assert state["clock"]["consumed_samples"] - state["clock"]["samples"] == BATCH


def test_losses_that_are_never_finite_again(job: tuple, tmp_path: Path) -> None:
    """From the 8th step on: the run ends, and names a checkpoint of before, from which it goes on to the end."""
    broken = spoil(range(7 * BATCH, 10**6), "inf", last=1)
    run = train(2, tmp_path / "run", *job, "--recipe.max_skipped", 4, before=broken)
    good = checkpoint_format.checkpoint_path(run.folder, 6)
    assert run.codes == [2, 2]
    assert run.status["outcome"] == "user error"
    assert run.status["message"].endswith(f"the last good checkpoint is {good}")
    assert "4 steps in a row" in run.status["message"] and "\n" not in run.status["message"]
    assert "Traceback" not in run.stderr
    assert checkpoint_format.newest_valid(run.folder) == (good, [])
    assert len(run.of_kind("skipped")) == 4
    resumed = train(2, run.folder, *job, "--recipe.max_skipped", 4)
    assert_recovered(resumed, train(2, tmp_path / "reference", *job))
    assert resumed.of_kind("skipped") == []


def test_a_loss_that_jumps(job: tuple, tmp_path: Path) -> None:
    run = train(2, tmp_path / "run", *job, before=spoil((24 * BATCH,), "spike", last=1))
    assert run.codes == [0, 0], run.status
    (spike,) = run.of_kind("spike")
    assert run.column("loss")[24] > 30 * run.column("loss")[23]
    assert spike["loss"] == pytest.approx(run.column("loss")[24], rel=1e-12)
    assert spike["step"] == 26 and spike["score"] > 10
    assert run.stderr.count("warning: the loss jumped to ") == 1
