"""fp16's gradient scaler in the engine, on CPU ranks that are given one: real overflows, and exact resuming."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import LOGGED, assert_killed, assert_same_end, assert_went_through, killed_after, scale_losses, train

from warmup.training.checkpoints import format as checkpoint_format

INTERVAL = 5  # steps without an overflow, after which the scale is doubled


def scaled(scale: float, halves: bool, *others: Callable[[int], None]) -> Callable[[int], None]:
    """For `before`: what Accelerate does on GPUs. halves: whether the model computes in fp16 too."""

    def before(rank: int) -> None:
        import torch
        from accelerate.utils import AutocastKwargs

        from warmup.training.distributed import launch

        start = launch.start_accelerator

        def with_scaler(*args):
            accelerator = start(*args)
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=INTERVAL)
            accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
            accelerator.autocast_handler = AutocastKwargs(enabled=halves)
            return accelerator

        launch.start_accelerator = with_scaler
        for other in others:
            other(rank)

    return before


def never_finite(rank: int) -> None:
    scale_losses(lambda: float("nan"))


def scale_after(lines: list[dict], scale: float) -> tuple[float, int]:
    """Scale and steps since it changed, after these lines of training and skipped steps. Checks the latter's."""
    clean = 0
    for line in lines:
        if line["kind"] == "skipped":
            assert line["loss_scale"] == scale
            scale, clean = scale / 2, 0
        else:
            clean += 1
            if clean == INTERVAL:
                scale, clean = scale * 2, 0
    return scale, clean


def test_a_scale_alone_changes_no_bit(classification: tuple[str, ...], tmp_path: Path) -> None:
    """It is a power of two, and the gradient is unscaled before it is clipped."""
    job = (*classification, "--recipe.duration", "12 steps", "--recipe.max_grad_norm", 0.5)
    plain = train(2, tmp_path / "plain", *job)
    ended = train(2, tmp_path / "scaled", *job, before=scaled(2.0**10, False))
    assert plain.codes == ended.codes == [0, 0], (plain.status, ended.status, ended.stderr)
    assert max(plain.column("grad_norm")) > 0.5
    for name in LOGGED:
        assert ended.column(name) == plain.column(name), name
    assert_same_end(tmp_path / "scaled", tmp_path / "plain")


def test_overflows_are_skipped_and_a_killed_run_goes_on_to_the_same_bits(mlm: tuple[str, ...], tmp_path: Path) -> None:
    """More overflows in a row than recipe.max_skipped; then the scale grows until there is the next one."""
    job = (*mlm, "--recipe.duration", "24 steps", "--recipe.max_skipped", 2, "--log.samples", "true")
    job += ("--checkpoint.every", "4 steps", "--batch.global_size", 32, "--batch.per_device", 16)
    first = 2.0**24
    whole = train(2, tmp_path / "whole", *job, before=scaled(first, True))
    assert whole.codes == [0, 0], (whole.status, whole.stderr[-2000:])
    steps = [line for line in whole.lines if line["kind"] in ("train", "skipped")]
    kinds = [line["kind"] for line in steps]
    early = kinds.index("train")
    assert early > 3 and "skipped" in kinds[early:] and kinds.count("train") == 24
    assert [line["consumed_samples"] for line in steps] == [32 * number for number in range(1, len(steps) + 1)]
    assert re.search(r"after step 0 was skipped: its .* at a loss scale of 1.67772e\+07, which is halved", whole.stderr)
    scale, clean = scale_after(steps, first)
    state = checkpoint_format.read_state(checkpoint_format.newest_valid(tmp_path / "whole")[0])["scaler"]
    assert (state["scale"], state["_growth_tracker"]) == (scale, clean)

    stopped = train(2, tmp_path / "killed", *job, before=scaled(first, True, killed_after(10)))
    assert_killed(stopped, 10)
    resumed = train(2, tmp_path / "killed", *job, "--resume", "auto", before=scaled(first, True))
    assert_went_through(resumed, whole)
    again = [line for line in resumed.lines if line["kind"] in ("train", "skipped")]
    assert [line["kind"] for line in again] == kinds
    assert scale_after(again, first) == (scale, clean)


def test_a_run_that_diverged_ends_once_the_scale_is_used_up(classification: tuple[str, ...], tmp_path: Path) -> None:
    job = (*classification, "--recipe.max_skipped", 3)
    ended = train(1, tmp_path / "run", *job, before=scaled(4.0, False, never_finite))
    assert ended.codes == [2]
    assert [line["loss_scale"] for line in ended.of_kind("skipped")] == [4, 2, 1, 0.5, 0.25]
    assert "3 steps in a row had a loss or gradient that is not finite" in ended.status["message"]


@pytest.mark.parametrize(("env", "message"), [
    ({}, "mixed_precision: fp16 is for GPUs: on CPUs it is slower than fp32; use no"),
    ({"ACCELERATE_USE_DEEPSPEED": "true"}, "mixed_precision: fp16 is for GPUs"),
])  # fmt: skip
def test_fp16_is_refused_on_cpus(env: dict, message: str, mlm: tuple[str, ...], tmp_path: Path) -> None:
    ended = train(1, tmp_path / "run", *mlm, env={"ACCELERATE_MIXED_PRECISION": "fp16", **env})
    assert ended.codes == [2] and ended.status["message"].startswith(message), json.dumps(ended.status)
