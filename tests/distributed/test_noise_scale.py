"""The gradient noise scale that a run measures: the same on any cut, and the true one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Ended, train
from sharding_engines import zero

FIELDS = ("noise_scale", "noise_scale_low", "noise_scale_high")


def measured_every(steps: int, then: Callable[[int], None] = lambda rank: None) -> Callable[[int], None]:
    """For `before`: the micro-batches of every step, or every few steps, are measured."""

    def before(rank: int) -> None:
        from warmup import noise_scale

        noise_scale.EVERY = steps
        then(rank)

    return before


def measure(world_size: int, folder: Path, *argv: object, **kwargs: object) -> Ended:
    run = train(world_size, folder, *argv, "--log.noise_scale", "true", **{"before": measured_every(1), **kwargs})
    assert run.codes == [0] * world_size, (run.status, run.stderr[-2000:])
    return run


@pytest.mark.parametrize(("job", "cuts"), [("mlm", [(2, 2), (4, 1)]), ("classification", [(2, 2)])])
def test_equal_on_any_cut(
    job: str, cuts: list[tuple[int, int]], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """1 x 4, 2 x 2 and 4 x 1 (ranks x accumulation): the same micro-batches, with unequal numbers of targets.

    On classification the embedding's gradient is reduced outside DistributedDataParallel.
    """
    argv = (*request.getfixturevalue(job), "--batch.per_device", 8, "--recipe.duration", "14 steps")
    whole = measure(1, tmp_path / "a", *argv, "--batch.accumulation", 4)
    said = whole.stderr[whole.stderr.index("noise scale: ") :].split("\n")[0]
    assert "samples" in said and "ranks" in said
    for world_size, accumulation in cuts:
        run = measure(world_size, tmp_path / f"{world_size}", *argv, "--batch.accumulation", accumulation)
        for name in FIELDS:
            ours, theirs = run.column(name), whole.column(name)
            assert [value is None for value in ours] == [value is None for value in theirs]
            numbers = [[value for value in column if value is not None] for column in (ours, theirs)]
            assert len(numbers[0]) > 2 or name != "noise_scale_low"
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-3), name


def test_under_deepspeed_as_under_distributed_data_parallel(mlm: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    argv = (*mlm, "--batch.per_device", 8, "--batch.accumulation", 2, "--recipe.duration", "14 steps")
    expected = measure(2, tmp_path / "ddp", *argv)
    run = measure(2, tmp_path / "zero", *argv, env=zero(2))
    assert run.column("noise_scale_low")[-1] == pytest.approx(expected.column("noise_scale_low")[-1], rel=1e-2)


def test_a_resumed_run_goes_on_measuring(mlm: tuple[str, ...], tmp_path: Path) -> None:
    argv = (*mlm, "--batch.per_device", 16, "--recipe.duration", "16 steps", "--checkpoint.every", "12 steps")
    whole = measure(2, tmp_path / "whole", *argv)
    (checkpoint,) = (whole.folder / "checkpoints").glob("*12")
    run = measure(2, tmp_path / "resumed", *argv, "--resume", checkpoint)
    for name in FIELDS:
        assert run.column(name) == whole.column(name)[-len(run.column(name)) :]


def test_one_micro_batch_is_too_few(mlm: tuple[str, ...], tmp_path: Path) -> None:
    run = train(1, tmp_path / "one", *mlm, "--log.noise_scale", "true", "--batch.per_device", 32)
    assert run.status["outcome"] == "user error"
    assert "log.noise_scale: it is measured from how the micro-batches of a step differ" in run.status["message"]
