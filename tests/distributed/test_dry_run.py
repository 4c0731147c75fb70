"""`--dry_run` prints what would be done, for as many ranks as are asked for, and does none of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import train

from warmup.errors import UserError
from warmup.training.run import arguments


def test_the_plan_the_counts_and_the_place(classification: tuple[str, ...], tmp_path: Path) -> None:
    """Of 3 ranks on GPUs that are not there."""
    given = ("--launch.world_size", 3, "--launch.device", "cuda", "--batch.per_device", 8, "--log.trackers", "wandb")
    ended = train(1, tmp_path / "run", *classification, *given, "--dry_run")
    assert ended.codes == [0] and ended.status["outcome"] == "done", ended.status
    lines = [line.split(maxsplit=2) for line in ended.stdout.splitlines()]
    assert ["global", "batch", "24 samples                3 ranks x 1 micro-batch x 8 samples"] in lines
    assert any(line[:2] == ["duration", "40"] for line in lines)  # 30 steps of 32 samples
    assert "600 samples to train on, 100 held out" in ended.stdout
    assert f"run directory    {tmp_path / 'run'}" in ended.stdout
    assert not (tmp_path / "run").exists()


def test_what_a_start_would_be_refused_for(classification: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    ended = train(1, tmp_path / "run", *classification, "--dry_run")
    assert ended.codes == [2] and "is occupied" in ended.status["message"]
    for other in (("--test",), ("--seeds", "1,2"), ("--predict", "x.csv")):
        with pytest.raises(UserError, match="dry_run"):
            arguments.parse(["--dry_run", *other])
