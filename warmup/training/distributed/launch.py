"""Starts Accelerate, and checks that what was started is what was requested."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from warmup.errors import UserError
from warmup.training.distributed import environment, gpus


def start_accelerator(world_size: int | None, device: str | None, timeout: int, trackers: Sequence[str]) -> Accelerator:
    """Start Accelerate on all ranks of the launcher.

    Args:
        world_size: how many ranks there must be; None for any number.
        device: cpu or cuda; None for GPUs if there are any.
        timeout: seconds that ranks wait for each other.
        trackers: the experiment trackers that Accelerate logs to, by name.

    Raises:
        UserError: if the launcher started something other than one job of that many ranks on that device.
    """
    environment.check_launcher(world_size)
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise UserError(f"launch.device: cuda was requested, and PyTorch sees no GPU: {gpus.why_none()}")
    on_cpu = device == "cpu" or environment.uses_cpu() or not has_gpu
    if not on_cpu:
        gpus.check_one_per_rank()
    environment.prepare_environment(on_cpu)
    accelerator = _create_accelerator(on_cpu, timeout, trackers)
    if environment.uses_deepspeed():
        environment.disable_transformers_zero3_init()
    if device not in (None, accelerator.device.type):
        raise UserError(f"launch.device: {device} was requested, but the ranks use {accelerator.device.type}")
    _check_started(accelerator, world_size, trackers)
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 where bf16 is not used
        if gpus.emulates_bf16(accelerator.mixed_precision):
            name = torch.cuda.get_device_name(accelerator.device)
            _warn(accelerator, f"{name} has no instructions for bf16 and emulates it slowly; use fp16, or no")
    if accelerator.device.type == "cpu":
        _warn_of_slow_bf16(accelerator)
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        torch.set_num_threads(environment.threads_per_rank(ranks_here))
    return accelerator


def _create_accelerator(on_cpu: bool, timeout: int, trackers: Sequence[str]) -> Accelerator:
    # With the backend that Accelerate chooses, each of DeepSpeed's ranks on CPUs would train alone.
    backend = {"backend": "gloo"} if environment.uses_deepspeed() and on_cpu else {}
    try:
        return Accelerator(
            # Without cpu=True, ranks on CPUs started by torchrun each train alone; with it, DeepSpeed is left out.
            cpu=on_cpu and not environment.uses_deepspeed(),
            log_with=list(trackers) or None,
            project_dir=".",  # trackers require a folder now; the run directory replaces it once it exists
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timedelta(seconds=timeout), **backend),
                # BERT's buffers (position ids) never change. The view saves one copy of the gradients.
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            ],
        )
    except ValueError as error:
        raise UserError(f"launcher or log.trackers: {' '.join(str(error).split())}") from error


def _check_started(accelerator: Accelerator, world_size: int | None, trackers: Sequence[str]) -> None:
    """Compare Accelerate's world size with the launcher's and with the requested one. Raises UserError."""
    launched, actual = int(os.environ.get("WORLD_SIZE", 1)), accelerator.num_processes
    if launched != actual:
        raise UserError(
            f"launcher: {launched} ranks were started, but this one sees {actual}, so each would train alone; use "
            "accelerate launch with a configuration of configs/accelerate/"
        )
    if world_size not in (None, actual):
        raise UserError(
            f"launch.world_size: {world_size} ranks were requested, {actual} started; on CPUs use "
            f"bash launch/cpu.sh {world_size}, or accelerate launch --config_file configs/accelerate/cpu_2.yaml"
        )
    if len(accelerator.log_with) != len(trackers):
        raise UserError(f"log.trackers: one of {', '.join(trackers)} is not installed; pip install it")


def _warn_of_slow_bf16(accelerator: Accelerator) -> None:
    """Warn on processors without bf16 instructions, where bf16 was measured to be 17 times slower than fp32."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch cannot tell
    has_bf16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    if capabilities.get("architecture") == "x86_64" and not has_bf16 and accelerator.mixed_precision == "bf16":
        _warn(
            accelerator,
            "without AVX512-BF16 or AMX, this processor computes bf16 many times slower than fp32; use no",
        )


def _warn(accelerator: Accelerator, text: str) -> None:
    if accelerator.is_main_process:
        print(f"warning: mixed_precision: {text}", file=sys.stderr, flush=True)
