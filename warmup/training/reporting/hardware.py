"""What a run is on: devices, precision and the size of its model."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

_PRECISIONS = {"no": "fp32", "fp16": "fp16, with fp32 weights", "bf16": "bf16, with fp32 weights"}


def describe_device(accelerator: Accelerator) -> str:
    """The ranks and what each computes on, such as "2 ranks on cpu (AMD EPYC 7B13), 1 thread each"."""
    ranks = accelerator.num_processes
    name = f"{ranks} {'rank' if ranks == 1 else 'ranks'} on {accelerator.device.type}"
    if accelerator.device.type == "cuda":
        return f"{name} ({torch.cuda.get_device_name(accelerator.device)})"
    threads = torch.get_num_threads()
    return f"{name} ({processor()}), {threads} {'thread' if threads == 1 else 'threads'} each"


def describe_precision(accelerator: Accelerator) -> str:
    """What the forward pass computes in."""
    return _PRECISIONS.get(accelerator.mixed_precision, accelerator.mixed_precision)


def count_parameters(model: nn.Module) -> int:
    """Weights of the whole model, shared ones once, also where each rank holds a part (DeepSpeed says how many)."""
    return sum(getattr(weight, "ds_numel", weight.numel()) for weight in model.parameters())


def hardware_facts(accelerator: Accelerator) -> dict[str, str | int]:
    """Facts for the record of a run."""
    return {
        "device": describe_device(accelerator),
        "precision": describe_precision(accelerator),
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.release()} on {platform.machine()}",
    }


def processor() -> str:
    """The name of the CPU's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def instructions() -> str:
    """The CPU's instructions for vectors and matrices, such as "AVX2, AVX-512"; products depend on them."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch cannot tell
    names = {"avx2": "AVX2", "avx512_f": "AVX-512", "avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX"}
    return ", ".join(text for name, text in names.items() if capabilities.get(name)) or "unknown"
