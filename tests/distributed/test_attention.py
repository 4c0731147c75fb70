"""Attention by a kernel of variable length, and compiled layers, in whole runs: the same training."""

from __future__ import annotations

import pytest
import torch
from harness import assert_same_training, train
from torch.utils._python_dispatch import TorchDispatchMode

STEPS = ("--recipe.duration", "6 steps", "--recipe.warmup", "2 steps")


class NoHostReads(TorchDispatchMode):
    """Fails where the host reads a value of a tensor, for which it would wait for a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def without_gpu(rank: int) -> None:
    """Masked attention in place of the GPU's kernel; and no step reads the device but in its update."""
    from warmup.training.models import varlen_attention
    from warmup.training.run.train_step import TrainStep

    varlen_attention.kernel, varlen_attention.why_unsupported = varlen_attention.masked_attention, lambda *args: None
    passes = TrainStep._forward_backward

    def watched(self: TrainStep, *args: object) -> torch.Tensor:
        with NoHostReads():
            return passes(self, *args)

    TrainStep._forward_backward = watched


@pytest.mark.parametrize("job", ["mlm", "classification", "regression"])
def test_one_row_is_the_rows_with_a_mask(job: str, request: pytest.FixtureRequest, tmp_path) -> None:
    """On 2 ranks, 11 samples in 4 micro-batches, against 1 rank; evaluation too."""
    job = (*request.getfixturevalue(job), *STEPS, "--dropout", 0, "--batch.global_size", 11)
    masked = train(1, tmp_path / "a", *job, "--batch.per_device", 11, "--speed.attention", "mask")
    run = train(2, tmp_path / "b", *job, "--batch.per_device", 3, before=without_gpu)
    assert_same_training(run, masked, steps=run.column("step")[-1], rel=1e-5)
    assert "FlashAttention" in run.stderr and "FlashAttention" not in masked.stderr
    assert max(run.column("padding_share")) == 0


def test_variable_length_is_refused_without_its_kernel(classification: tuple[str, ...], tmp_path) -> None:
    run = train(1, tmp_path / "a", *classification, "--speed.attention", "varlen")
    assert run.status["outcome"] == "user error", run.stderr[-2000:]
    assert run.status["message"] == "speed.attention: varlen cannot be: there is no kernel for cpu; use auto"


@pytest.mark.slow
def test_compiled_with_dropout_on_one_rank_and_on_two(mlm: tuple[str, ...], tmp_path) -> None:
    """Windows of 8, nearly all full: few shapes. Generated code too keys what is random by the micro-batch index."""
    job = (*mlm, *STEPS, "--data.max_length", 8, "--recipe.reference_batch_size", 16, "--batch.per_device", 8)
    job = (*job, "--speed.compile", "true", "--launch.timeout", 500)
    whole = train(1, tmp_path / "a", *job, "--batch.accumulation", 2, timeout_s=900)
    assert_same_training(train(2, tmp_path / "b", *job, timeout_s=900), whole, steps=6, rel=1e-5)
    again = train(1, tmp_path / "c", *job, "--batch.accumulation", 2, timeout_s=900)
    assert again.column("loss") == whole.column("loss")
    plain = train(1, tmp_path / "d", *job, "--batch.accumulation", 2, "--speed.compile", "false")
    assert "the encoder's layers, over few shapes" in whole.stderr and "over few shapes" not in plain.stderr
    assert plain.column("loss") != whole.column("loss")  # other draws of dropout
    assert plain.column("loss") == pytest.approx(whole.column("loss"), rel=0.05)
