"""Starting Accelerate, and checking that what started is what was meant."""

from __future__ import annotations

import os
import sys
import warnings
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from warmup.errors import UserError
from warmup.training.distributed import environment
from warmup.training.distributed.environment import available_cores, check_fp16, check_launcher


def start_accelerator(
    world_size: int | None, device: str | None, timeout: int, trackers: tuple[str, ...]
) -> Accelerator:
    """Accelerate on all ranks of the launcher. `world_size`: how many there must be, None for any number; `device`:
    cpu or cuda, None for GPUs where there are some.

    Raises UserError where the launcher started something else than one job of so many ranks.
    """
    check_launcher(world_size)
    # torch would have another name for it, which Accelerate does not pass on.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    environment.check_fsdp(on_cpu)
    check_fp16(on_cpu)
    # DeepSpeed's ranks on CPUs would each be alone with the backend that Accelerate chooses.
    backend = {"backend": "gloo"} if environment.uses_deepspeed() and on_cpu else {}
    if on_cpu:  # transformers imports DeepSpeed where it is installed, which else looks for GPUs and tells of it
        os.environ["DS_ACCELERATOR"] = "cpu"
    if environment.uses_deepspeed():
        environment.prepare_deepspeed()
    try:
        accelerator = Accelerator(
            # Without it, ranks on CPUs started by torchrun each train alone; with it, DeepSpeed is left out.
            cpu=on_cpu and not environment.uses_deepspeed(),
            log_with=list(trackers) or None,
            project_dir=".",  # Accelerate wants one now; the run directory takes its place once there is one
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timedelta(seconds=timeout), **backend),
                # Buffers of BERT (position ids) never change; one copy of the gradients less.
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            ],
        )
    except ValueError as error:
        raise UserError(f"launcher or log.trackers: {' '.join(str(error).split())}") from error
    if environment.uses_deepspeed():
        environment.disable_transformers_zero3_init()
    if device not in (None, accelerator.device.type):
        raise UserError(f"launch.device: {device} was meant, and the ranks found {accelerator.device.type}")
    _check_started(accelerator, world_size, trackers)
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 where there is no bf16
    if accelerator.device.type == "cpu":
        _warn_of_slow_bf16(accelerator)
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        torch.set_num_threads(max(1, available_cores() // ranks_here))
    return accelerator


def _warn_of_slow_bf16(accelerator: Accelerator) -> None:
    """Where the processor has no instructions for it, which has been measured as 17 times slower than fp32."""
    able = getattr(torch.cpu, "get_capabilities", dict)()  # older versions cannot tell
    slow = able.get("architecture") == "x86_64" and not (able.get("avx512_bf16") or able.get("amx_bf16"))
    if slow and accelerator.mixed_precision == "bf16" and accelerator.is_main_process:
        print(
            "warning: mixed_precision: without AVX512-BF16 or AMX, this processor computes bf16 many times slower than "
            "fp32; use no",
            file=sys.stderr,
            flush=True,
        )


def _check_started(accelerator: Accelerator, wanted: int | None, trackers: tuple[str, ...]) -> None:
    """Compare the library's world with the launcher's, and with what was meant."""
    started, found = int(os.environ.get("WORLD_SIZE", 1)), accelerator.num_processes
    if started != found:
        raise UserError(
            f"launcher: {started} ranks were started, but this one sees {found}, so each would train alone; use "
            "accelerate launch with a configuration of configs/accelerate/"
        )
    if wanted not in (None, found):
        raise UserError(
            f"launch.world_size: {wanted} ranks were meant, {found} started; on CPUs use bash launch/cpu.sh {wanted}, "
            "or accelerate launch --config_file configs/accelerate/cpu_2.yaml"
        )
    if len(accelerator.log_with) != len(trackers):
        raise UserError(f"log.trackers: one of {', '.join(trackers)} is not installed; pip install it")
