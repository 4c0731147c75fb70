"""CPU ranks on a machine with a GPU: they start, however they are requested, and open no context on the GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import train


def _with_a_gpu(rank: int) -> None:
    """torch.cuda says that there is one. Whatever needs it calls `_lazy_init` first, which opens a context."""
    import torch

    def open_context() -> None:
        raise AssertionError("a context is opened on the GPU")

    torch.cuda.is_available, torch.cuda.device_count = (lambda: True), (lambda: 1)
    torch.cuda._lazy_init = open_context


@pytest.mark.parametrize("requested_by", ["train.py", "the launcher"])
def test_no_context_is_opened(requested_by: str, classification: tuple[str, ...], tmp_path: Path) -> None:
    """From the start to the export, with a checkpoint and an evaluation; there are more ranks than GPUs."""
    job = (*classification, "--batch.per_device", 16, "--recipe.duration", "4 steps", "--recipe.warmup", "1 steps")
    by_option = requested_by == "train.py"
    option = ("--launch.device", "cpu") if by_option else ()
    env = {} if by_option else {"ACCELERATE_USE_CPU": "true"}
    run = train(2, tmp_path / "run", *job, *option, before=_with_a_gpu, env=env)
    assert run.codes == [0, 0], (run.status, run.stderr[-2000:])
    assert (run.folder / "model" / "model.safetensors").is_file() and len(run.of_kind("eval")) == 1
