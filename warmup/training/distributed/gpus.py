"""Whether the GPUs that were requested are there, one for each rank, and what they can compute."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from warmup.errors import UserError

_DRIVER = Path("/proc/driver/nvidia/version")
_OLDEST_DRIVERS = {13: 580, 12: 525, 11: 450}
"""The oldest driver by the major version of CUDA (NVIDIA, CUDA Compatibility, "minor version compatibility")."""
_WHEELS = "pip install torch --index-url https://download.pytorch.org/whl/cu126"


def why_none() -> str:
    """Why PyTorch sees no GPU, and what to do."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None:
        return f"this is PyTorch's build for CPUs; for one with CUDA: {_WHEELS}"
    driver = driver_version()
    if driver is None:
        return "there is no NVIDIA driver on this machine"
    oldest = _OLDEST_DRIVERS.get(int(torch.version.cuda.split(".")[0]), 0)
    if int(driver.split(".")[0]) < oldest:
        return (
            f"PyTorch's build for CUDA {torch.version.cuda} needs the driver {oldest} or a newer one, and this machine "
            f"has {driver}; update it, or take a build for an older CUDA: {_WHEELS}"
        )
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES={visible!r} leaves none visible"
    return f"the driver {driver} is there, but PyTorch finds no device; see nvidia-smi"


def driver_version() -> str | None:
    """The version of the NVIDIA driver, None where there is none. Linux only."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _DRIVER.read_text())
    except OSError:
        return None
    return found[1] if found else None


def check_one_per_rank() -> None:
    """Raise UserError where this machine has more ranks than GPUs: two ranks would share one, which NCCL refuses."""
    ranks, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if ranks > gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        of_those = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
        raise UserError(
            f"launcher: {ranks} ranks were started on a machine with {gpus} GPUs{of_those}; start as many ranks as "
            f"there are GPUs: bash launch/gpus.sh {gpus}"
        )


def emulates_bf16(precision: str) -> bool:
    """Whether bf16 was requested of a GPU that only emulates it, such as a T4 or V100, many times slower than fp16."""
    return precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False)
