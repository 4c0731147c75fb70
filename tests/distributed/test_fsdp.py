"""FSDP2 gives the training of DistributedDataParallel, and goes on from and to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import assert_each_sample_once, assert_killed, assert_same_training, killed_after, train
from sharding_engines import fsdp2


@pytest.mark.parametrize("task", ["mlm", "classification"])
def test_the_same_training(task: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    job = (*request.getfixturevalue(task), "--batch.per_device", 8, "--batch.accumulation", 2)
    job = (*job, "--recipe.duration", "20 steps", "--recipe.reference_batch_size", 32, "--batch.evaluation", 40)
    reference = train(2, tmp_path / "ddp", *job)
    run = train(2, tmp_path / "fsdp2", *job, before=fsdp2())
    assert_same_training(run, reference, steps=20, rel=1e-4)
    assert "FSDP2" in run.stderr and "DistributedDataParallel" in reference.stderr


def test_it_goes_on_from_and_to_the_other(mlm: tuple[str, ...], tmp_path: Path) -> None:
    """2 ranks, then DistributedDataParallel on 1, then 3 ranks: each killed where it has just saved."""
    batch = ("--batch.global_size", 24, "--batch.per_device", 4, "--recipe.reference_batch_size", 24)
    job = (*mlm, *batch, "--recipe.duration", "20 steps", "--dropout", 0, "--checkpoint.every", "4 steps")
    job = (*job, "--log.samples", "true", "--resume", "auto")
    whole = train(2, tmp_path / "whole", *job)
    assert_killed(train(2, tmp_path / "run", *job, before=fsdp2(killed_after(8))), 8)
    assert_killed(train(1, tmp_path / "run", *job, before=killed_after(12)), 12)
    run = train(3, tmp_path / "run", *job, before=fsdp2())
    assert [line["world_size"] for line in run.of_kind("resumed")] == [1, 3]
    assert_same_training(run, whole, steps=20, rel=1e-4)
    assert_each_sample_once(run.folder)
