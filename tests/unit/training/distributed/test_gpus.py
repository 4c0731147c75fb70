"""What is said where GPUs are missing, too few, or emulate bf16; on stand-ins for torch.cuda."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState

from warmup.errors import UserError
from warmup.training.distributed import gpus, launch

VERSION = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Fri Sep 20 00:00:00 UTC 2024\nGCC version:  gcc 12\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder)\n"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Sets the build of torch, the text of the driver's file and the visible devices."""

    def set_up(cuda: str | None, driver: str | None, visible: str | None = None) -> None:
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "version")
        if driver is not None:
            (tmp_path / "version").write_text(driver)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return set_up


@pytest.mark.parametrize(
    ("cuda", "driver", "visible", "why"),
    [
        (None, None, None, "this is PyTorch's build for CPUs; for one with CUDA: pip install torch --index-url "),
        ("13.0", None, None, "there is no NVIDIA driver on this machine"),
        ("13.0", VERSION.format("570.211.01"), None, "PyTorch's build for CUDA 13.0 needs the driver 580 or a newer"),
        ("13.0", OPEN.format("550.54"), "0,1", "PyTorch's build for CUDA 13.0 needs the driver 580 or a newer one"),
        ("12.6", VERSION.format("470.1.2"), None, "PyTorch's build for CUDA 12.6 needs the driver 525 or a newer one"),
        ("13.0", VERSION.format("580.65.06"), "", "CUDA_VISIBLE_DEVICES='' leaves none visible"),
        ("12.6", VERSION.format("535.104.05"), None, "the driver 535.104.05 is there, but PyTorch finds no device"),
    ],
)
def test_why_there_is_no_gpu(machine, cuda: str | None, driver: str | None, visible: str | None, why: str) -> None:
    machine(cuda, driver, visible)
    assert gpus.why_none().startswith(why)


def test_cuda_was_requested_where_there_is_none(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("13.0", VERSION.format("570.211.01"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^launch.device: cuda was requested, and PyTorch sees no GPU: .* has 570.211"):
        launch.start_accelerator(1, "cuda", 10, ())


def test_cuda_was_requested_and_the_launcher_started_cpu_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU. Accelerate itself follows the launcher and says nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")  # which is set for CPU ranks
    try:
        with pytest.raises(UserError) as caught:
            launch.start_accelerator(1, "cuda", 10, ())
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert str(caught.value) == "launch.device: cuda was requested, but the ranks use cpu"


def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    gpus.check_one_per_rank()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    with pytest.raises(UserError) as caught:
        gpus.check_one_per_rank()
    assert str(caught.value) == (
        "launcher: 8 ranks were started on a machine with 2 GPUs (CUDA_VISIBLE_DEVICES=0,3); start as many ranks as "
        "there are GPUs: bash launch/gpus.sh 2"
    )


@pytest.mark.parametrize(
    ("precision", "supported", "emulates"), [("bf16", False, True), ("bf16", True, False), ("fp16", False, False)]
)
def test_bf16_that_is_emulated(
    precision: str, supported: bool, emulates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_supported(including_emulation: bool = True) -> bool:
        return supported or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert gpus.emulates_bf16(precision) == emulates


def test_a_warning_comes_from_one_rank(capsys: pytest.CaptureFixture[str]) -> None:
    for main in (True, False):
        launch._warn(SimpleNamespace(is_main_process=main), "slow")
    assert capsys.readouterr().err == "warning: mixed_precision: slow\n"
