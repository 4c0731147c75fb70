"""A GPU's memory that is too small for a micro-batch: the message says which one, and what to lower."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from warmup.training.data.batching.memory import explain_out_of_memory
from warmup.training.data.batching.micro_batch import MicroBatch
from warmup.training.distributed import exit_status

BATCH = MicroBatch(
    inputs={"input_ids": torch.zeros(4, 512, dtype=torch.int64)},
    positions_N=torch.zeros(0, dtype=torch.int64),
    targets=torch.zeros(0),
    sample_ids_N=torch.zeros(0, dtype=torch.int64),
    sample_count=4,
    target_count=0,
    token_count=2000,
)


def test_the_micro_batch_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> tuple[str, str]:
        with explain_out_of_memory(BATCH, "batch.per_device"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity")

    monkeypatch.setenv(exit_status.STATUS_FILE, str(tmp_path / "status.json"))
    assert exit_status.guard(run, show_traceback=False) == 1  # a restart may find more of it
    text = (tmp_path / "status.json").read_text()
    assert (
        "OutOfMemoryError: 4 samples of 2048 tokens in all do not fit into the GPU's memory; lower batch.per_device "
        in text
    )
    assert "(CUDA out of memory. Tried to allocate 2.00 GiB." in text
    assert "Traceback" not in capsys.readouterr().err


def test_other_errors_are_as_they_were() -> None:
    with pytest.raises(RuntimeError, match="^shapes$"), explain_out_of_memory(BATCH, "batch.per_device"):
        raise RuntimeError("shapes")
