"""A batch that grows from 8 to 32: the same training on any cut of it, killed, resumed and at another batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import (
    Ended,
    assert_each_sample_once,
    assert_killed,
    assert_same_training,
    assert_went_through,
    change_losses,
    killed_after,
    train,
)

from warmup.plan import Plan

GROWTH, DURATION = 384, 640
"""Samples: the batch grows over 24 steps or so, and the run has 31."""


@pytest.fixture(scope="module")
def recipe(mlm: tuple[str, ...]) -> tuple[object, ...]:
    """From 8 samples per step to those of the plan, at a rate that follows them."""
    return (
        *mlm, "--recipe.duration", f"{DURATION} samples", "--recipe.warmup", "160 samples", "--log.samples", "true",
        "--batch.warmup", f"{GROWTH} samples", "--batch.start_size", 8,
    )  # fmt: skip


@pytest.fixture(scope="module")
def job(recipe: tuple) -> tuple[object, ...]:
    """32 samples in micro-batches of 8, with dropout and a checkpoint every 3 steps."""
    cut = ("--batch.global_size", 32, "--batch.per_device", 8, "--checkpoint.every", "3 steps")
    return (*recipe, *cut, "--resume", "auto")


@pytest.fixture(scope="module")
def whole(job: tuple, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    run = train(2, tmp_path_factory.mktemp("whole") / "run", *job)
    assert run.codes == [0, 0], (run.status, run.stderr[-2000:])
    return run


@pytest.fixture(scope="module")
def exact(job: tuple, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The job on one rank, without dropout: equal on any number of micro-batches."""
    return train(1, tmp_path_factory.mktemp("exact") / "run", *job, "--dropout", 0)


def plan_of(run: Ended) -> Plan:
    return Plan.from_dict(json.loads((run.folder / "plan.json").read_text()))


def test_the_steps_are_those_of_the_plan(whole: Ended) -> None:
    plan = plan_of(whole)
    assert whole.column("step") == list(range(1, plan.total_steps + 1)) and plan.total_steps > DURATION // 32
    ends = [plan.batch_schedule.position(step + 1) for step in range(plan.total_steps)]
    assert whole.column("samples") == whole.column("consumed_samples") == ends and ends[-1] == plan.total_samples
    assert whole.column("lr") == [plan.lr_at_step(step) for step in range(plan.total_steps)]
    sizes = [plan.batch_at(samples) for samples in (0, *ends[:-1])]
    assert (sizes[0], sizes[-1]) == (8, 32) and sizes == sorted(sizes) and len(set(sizes)) > 10
    assert sum(size < 32 for size in sizes) == plan.batch_warmup_steps
    assert_each_sample_once(whole.folder)
    assert "batch warmup" in whole.stderr and f"of {plan.total_steps} " in whole.status["message"] + " "
    lines = [json.loads(line) for line in (whole.folder / "samples.jsonl").read_text().splitlines()]
    assert [len(line["ids"]) for line in lines] == sizes


def test_with_dropout_at_the_same_per_device_batch(job: tuple, whole: Ended, tmp_path: Path) -> None:
    """1 x 4 and 4 x 1 (world size x accumulation) beside 2 x 2."""
    steps = plan_of(whole).total_steps
    for world_size in (1, 4):
        run = train(world_size, tmp_path / str(world_size), *job)
        assert_same_training(run, whole, steps=steps, rel=1e-5)
        assert_each_sample_once(run.folder)


def test_on_3_ranks_which_do_not_divide_the_sizes(job: tuple, exact: Ended, tmp_path: Path) -> None:
    run = train(3, tmp_path / "run", *job, "--dropout", 0)
    assert_same_training(run, exact, steps=plan_of(exact).total_steps, rel=1e-5)


def test_killed_while_the_batch_grows(job: tuple, whole: Ended, tmp_path: Path) -> None:
    """Two steps after the last checkpoint: to the last bit as if nothing had happened."""
    run = train(2, tmp_path / "run", *job, before=killed_after(11))
    assert_killed(run, 11)
    assert plan_of(run).batch_at(run.column("samples")[-1]) < 32
    assert_went_through(train(2, run.folder, *job), whole)


def test_resumed_on_other_ranks_while_the_batch_grows(job: tuple, exact: Ended, tmp_path: Path) -> None:
    job = (*job, "--dropout", 0)
    run = train(2, tmp_path / "run", *job, before=killed_after(10))
    assert_killed(run, 10)
    run = train(3, run.folder, *job)
    assert_same_training(run, exact, steps=plan_of(exact).total_steps, rel=1e-4)
    assert_each_sample_once(run.folder)
    (line,) = run.of_kind("resumed")
    assert (line["step"], line["world_size"]) == (9, 3) and line["lr_before"] == line["lr"]


def test_resumed_at_another_batch_while_it_grows(recipe: tuple, tmp_path: Path) -> None:
    """32 samples on 2 ranks, 16 on one: from there on, sizes and rates are those of the plan for 16 at its samples."""
    job = (*recipe, "--batch.per_device", 16, "--checkpoint.every", "3 steps", "--resume", "auto")
    run = train(2, tmp_path / "run", *job, before=killed_after(10))
    assert_killed(run, 10)
    run = train(1, run.folder, *job)
    plan, resumed_at = plan_of(run), run.column("samples")[8]
    positions = [resumed_at]
    while positions[-1] < DURATION:
        positions.append(positions[-1] + plan.batch_at(positions[-1]))
    assert plan.global_batch_size == 16 and 8 < plan.batch_at(resumed_at) < 16
    assert run.codes == [0] and run.column("samples")[8:] == positions
    assert run.column("lr")[9:] == [plan.lr_at(position) for position in positions[:-1]]
    assert run.status["message"].startswith(f"after step {len(positions) + 8} of {len(positions) + 8}")
    assert_each_sample_once(run.folder)


def test_a_skipped_step_while_the_batch_grows(job: tuple, tmp_path: Path) -> None:
    """Its samples are consumed and not trained on, so the step after it has the same number of them."""

    def before(rank: int) -> None:
        calls = iter(range(10**6))
        change_losses(lambda loss: loss * (float("nan") if next(calls) == 22 else 1.0))  # in the 6th step of 4 each

    run = train(1, tmp_path / "run", *job, before=before)
    plan = plan_of(run)
    (line,) = run.of_kind("skipped")
    at = run.column("samples")[4]
    assert line["step"] == 5 and len(line["sample_ids"]) == plan.batch_at(at) > 8
    assert run.column("samples") == [plan.batch_schedule.position(step + 1) for step in range(plan.total_steps)]
    assert run.column("consumed_samples")[5] == at + 2 * plan.batch_at(at)
    assert_each_sample_once(run.folder)


def test_simulated_ranks(job: tuple, tmp_path: Path) -> None:
    run = train(1, tmp_path / "run", *job[:-2], "--test", "--as-world-size", 4)
    assert run.codes == [0] and "PASS" in run.stdout, run.status
