"""Ranks that disagree, die or hang: all end together, in bounded time, with a message that names the cause."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from harness import gloo, preload, run_ranks, scale_losses, train

LOCAL_BATCHES = (10, 7)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What training imports: once, and no part of the seconds that are measured."""
    preload()


def _agree(rank: int, policy: str) -> tuple[int, list[int]]:
    from warmup import StepClock

    gloo(rank)
    loader = list(range(100 * rank, 100 * rank + LOCAL_BATCHES[rank]))
    clock = StepClock(batch_size=8)
    return clock.agree(len(loader), policy), list(clock.batches(loader, policy))


@pytest.mark.parametrize(("policy", "steps"), [("min", 7), ("max", 10)])
def test_ranks_with_10_and_7_batches_end_together(policy: str, steps: int) -> None:
    ranks = run_ranks(2, _agree, policy)
    assert [rank.error for rank in ranks] == [None, None]
    assert ranks[0].value == (steps, list(range(steps)))
    again = [100 + number % 7 for number in range(steps)]  # the short loader starts again
    assert ranks[1].value == (steps, again)


def test_unequal_batches_are_an_error_where_asked_for() -> None:
    for rank in run_ranks(2, _agree, "error"):
        assert rank.error.startswith("RanksDisagree: ranks disagree on local batches: rank 0 has 10, rank 1 7")


def _drift(rank: int, field: str) -> None:
    from warmup import StepClock

    gloo(rank)
    clock = StepClock(batch_size=8, num_samples=100)
    for _ in range(3):
        clock.advance(tokens=1)
    if rank == 2 and field != "lr":
        setattr(clock, field, 1234)
    clock.check(lr=math.nextafter(0.1, 1) if rank == 2 and field == "lr" else 0.1)  # one bit


@pytest.mark.parametrize(("field", "values"), [
    ("step", "rank 0 has 3.0, rank 2 1234.0"),
    ("samples", "rank 0 has 24.0, rank 2 1234.0"),
    ("consumed_samples", "rank 0 has 24.0, rank 2 1234.0"),
    ("lr", "rank 0 has 0.1, rank 2 0.10000000000000002"),
])  # fmt: skip
def test_the_clock_names_the_rank_that_drifted(field: str, values: str) -> None:
    for rank in run_ranks(3, _drift, field):
        assert f"ranks disagree on {field}: {values}" in rank.error


def _extra(rank: int) -> list[float]:
    from warmup import StepClock

    gloo(rank)
    return StepClock(batch_size=8).check(lr=0.1, extra=float(rank + 1))


def test_a_check_carries_every_ranks_extra() -> None:
    assert [rank.value for rank in run_ranks(3, _extra)] == [[1.0, 2.0, 3.0]] * 3


def test_a_rank_started_with_another_config(classification: tuple[str, ...], tmp_path: Path) -> None:
    began = time.monotonic()
    ended = train(2, tmp_path / "run", *classification, per_rank=([], ["--recipe.lr", "3e-4"]))
    assert time.monotonic() - began < 30
    assert ended.codes == [2, 2]
    assert ended.status["outcome"] == "user error"
    assert ended.status["message"].startswith("ranks disagree on recipe.lr: rank 0 has 0.0005, rank 1 0.0003")
    assert not ended.folder.exists()


def test_another_world_size_than_was_meant(classification: tuple[str, ...], tmp_path: Path) -> None:
    ended = train(2, tmp_path / "run", *classification, "--launch.world_size", 3)
    assert ended.codes == [2, 2]
    assert "launch.world_size: 3 ranks were requested, 2 started" in ended.status["message"]


def _train_and(rank: int, what: str, arguments: list[str]) -> int:
    """Train; the last rank does something to itself after its third step."""
    import train as script
    from warmup.training.run.train_step import TrainStep

    step = TrainStep._step
    count = 0

    def interrupted(self: TrainStep):
        nonlocal count
        count += 1
        if count == 4 and rank == 1:
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "raise":
                raise RuntimeError("something of this rank's own")
            if what == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            if what == "hang":
                time.sleep(60)
        return step(self)

    TrainStep._step = interrupted
    return script.main(arguments)


def _interrupted(what: str, job: tuple[str, ...], folder: Path, timeout: int = 20) -> tuple[list, dict, float]:
    import json

    status = folder / "status"
    arguments = [*job, "--run_dir", str(folder / "run"), "--launch.timeout", str(timeout)]
    began = time.monotonic()
    env = {"WARMUP_STATUS_FILE": str(status)}
    ranks = run_ranks(2, _train_and, what, arguments, env=env, timeout_s=90)
    return ranks, json.loads(status.read_text()), time.monotonic() - began


def test_a_rank_that_dies(classification: tuple[str, ...], tmp_path: Path) -> None:
    ranks, status, seconds = _interrupted("kill", classification, tmp_path)
    assert ranks[1].exit_code == -signal.SIGKILL
    assert ranks[0].value == 1
    assert status["outcome"] == "failed" and status["rank"] == 0
    assert "rank 0: lost contact with another rank" in status["message"]
    assert seconds < 20  # at once, not at the timeout


def test_a_rank_that_raises_is_the_one_that_is_named(classification: tuple[str, ...], tmp_path: Path) -> None:
    ranks, status, _ = _interrupted("raise", classification, tmp_path)
    assert [rank.value for rank in ranks] == [1, 1]
    assert status == {"outcome": "failed", "rank": 1, "message": "rank 1: RuntimeError: something of this rank's own"}


def test_a_rank_that_hangs_ends_the_others_at_the_timeout(classification: tuple[str, ...], tmp_path: Path) -> None:
    ranks, status, seconds = _interrupted("hang", classification, tmp_path, timeout=5)
    assert 1 in (ranks[0].value, ranks[0].exit_code) and seconds < 5 + 15
    phase = "the update, or what comes between two steps"
    assert status["message"] == f"rank 1 has made no progress for 5 s, at {phase}; the others wait for it"


def _wait_for_a_late_rank(rank: int, seconds: float) -> float:
    """How long rank 0 waits for rank 1, after the timeout was set to so much in a group that began with another."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    from warmup.training.distributed import collectives

    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    collectives.sum_over_ranks(torch.ones(1))
    collectives.set_timeout(seconds)
    began = time.monotonic()
    if rank == 1:
        time.sleep(10)
    with contextlib.suppress(RuntimeError):
        collectives.sum_over_ranks(torch.ones(1))
    return time.monotonic() - began


def test_the_timeout_can_be_shortened_on_the_way() -> None:
    """Ranks wait long for each other while data is tokenised, and not so long once they train."""
    ranks = run_ranks(2, _wait_for_a_late_rank, 2)
    assert 1.5 < ranks[0].value < 6
    ranks = run_ranks(2, _wait_for_a_late_rank, 30)
    assert 9 < ranks[0].value < 15


def test_sigterm_to_one_rank_stops_all_after_the_same_step(classification: tuple[str, ...], tmp_path: Path) -> None:
    ranks, status, _ = _interrupted("term", classification, tmp_path)
    assert [rank.value for rank in ranks] == [0, 0]
    assert status["outcome"] == "stopped" and status["message"].startswith("after step 4 of 15; go on with --resume")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]
    assert not (tmp_path / "run" / "model").exists()


def _train_with_infinite_losses(rank: int, arguments: list[str], steps: list[int], faulty: int = 1) -> int:
    """Train; on the faulty rank the loss is infinite in these steps."""
    import train as script

    passes = itertools.count(-1)  # two passes come before the first step
    scale_losses(lambda: float("inf") if next(passes) in steps and rank == faulty else 1.0)
    return script.main(arguments)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_step_that_is_not_finite_is_skipped_on_all_ranks(
    world_size: int, classification: tuple[str, ...], tmp_path: Path
) -> None:
    """And nothing of it is left: the next step is applied."""
    import json

    batch = ("--batch.global_size", "32", "--batch.per_device", str(32 // world_size))
    job = [*classification, *batch, "--run_dir", str(tmp_path / "run")]
    ranks = run_ranks(world_size, _train_with_infinite_losses, job, [5], world_size - 1)
    assert [rank.value for rank in ranks] == [0] * world_size
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    (skipped,) = [line for line in lines if line["kind"] == "skipped"]
    assert (skipped["step"], skipped["samples"], skipped["consumed_samples"]) == (4, 128, 160)
    assert len(set(skipped["sample_ids"])) == 32
    assert [line["step"] for line in trained] == list(range(1, 31))
    assert [line["consumed_samples"] - line["samples"] for line in trained] == [0] * 4 + [32] * 26
    assert trained[4]["lr"] == pytest.approx(5e-4 * 5 / 10)  # the rate follows the applied samples


def test_steps_that_are_never_finite_end_the_run(classification: tuple[str, ...], tmp_path: Path) -> None:
    import json

    status = tmp_path / "status"
    job = [*classification, "--run_dir", str(tmp_path / "run"), "--recipe.max_skipped", "3"]
    env = {"WARMUP_STATUS_FILE": str(status)}
    ranks = run_ranks(2, _train_with_infinite_losses, job, list(range(100)), env=env)
    assert [rank.value for rank in ranks] == [2, 2]
    assert "3 steps in a row had a loss or gradient that is not finite" in json.loads(status.read_text())["message"]


def test_a_time_limit_stops_all_ranks(classification: tuple[str, ...], tmp_path: Path) -> None:
    job = (*classification, "--recipe.duration", "1000000 steps", "--time_limit", "8 seconds")
    began = time.monotonic()
    ended = train(2, tmp_path / "run", *job)
    assert ended.codes == [0, 0]
    assert ended.status["outcome"] == "stopped"
    assert time.monotonic() - began < 60
    assert ended.status["message"].startswith(f"after step {ended.column('step')[-1]} of 500000; go on with --resume")


def test_rank_0_dies_when_the_others_begin_to_watch_it(mlm: tuple[str, ...], tmp_path: Path) -> None:
    """A connection to the store that rank 0 held would take until the timeout of the start, which is two hours."""

    def before(rank: int) -> None:
        from warmup.training.run import training_run

        whole = training_run.watch_ranks

        def watch_ranks(*args: Any) -> None:
            if rank == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(2)
            whole(*args)

        training_run.watch_ranks = watch_ranks

    began = time.monotonic()
    run = train(2, tmp_path / "run", *mlm, "--launch.timeout", 60, before=before)
    assert run.codes == [-signal.SIGKILL, 1]
    assert time.monotonic() - began < 45 and "lost contact with another rank" in run.status["message"]
