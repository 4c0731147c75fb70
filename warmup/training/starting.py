"""Starting Accelerate, and checking that what started is what was meant."""

from __future__ import annotations

import os
import sys
import warnings
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from warmup.training import fsdp, zero
from warmup.training.outcome import UserError


def start(world_size: int | None, device: str | None, timeout: int, trackers: tuple[str, ...]) -> Accelerator:
    """Accelerate on all ranks of the launcher. `world_size`: how many there must be, None for any number; `device`:
    cpu or cuda, None for GPUs where there are some.

    Raises UserError where the launcher started something else than one job of so many ranks.
    """
    _check_launcher(world_size)
    # torch would have another name for it, which Accelerate does not pass on.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    fsdp.refuse(on_cpu)
    _refuse_fp16(on_cpu)
    # DeepSpeed's ranks on CPUs would each be alone with the backend that Accelerate chooses.
    backend = {"backend": "gloo"} if zero.wanted() and on_cpu else {}
    if on_cpu:  # transformers imports DeepSpeed where it is installed, which else looks for GPUs and tells of it
        os.environ["DS_ACCELERATOR"] = "cpu"
    if zero.wanted():
        zero.before_start()
    try:
        accelerator = Accelerator(
            # Without it, ranks on CPUs started by torchrun each train alone; with it, DeepSpeed is left out.
            cpu=on_cpu and not zero.wanted(),
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
    if zero.wanted():
        zero.after_start()
    if device not in (None, accelerator.device.type):
        raise UserError(f"launch.device: {device} was meant, and the ranks found {accelerator.device.type}")
    _check_started(accelerator, world_size, trackers)
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 where there is no bf16
    if accelerator.device.type == "cpu":
        _warn_of_slow_bf16(accelerator)
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        torch.set_num_threads(max(1, _cores() // ranks_here))
    return accelerator


def _refuse_fp16(on_cpu: bool) -> None:
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower() != "fp16":
        return
    if on_cpu:
        raise UserError("mixed_precision: fp16 is for GPUs: on CPUs it is slower than none; use no")
    if zero.wanted() or fsdp.wanted():
        raise UserError("mixed_precision: fp16 is not supported with DeepSpeed or FSDP; use bf16, or no")


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


def _cores() -> int:
    """Those that this process may use; a job of a scheduler or a container may be given a part of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_launcher(wanted: int | None) -> None:
    """Refuse what is known to start something else than it says, by its environment."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not {"RANK", "MASTER_ADDR"} <= os.environ.keys():
        raise UserError(
            f"launcher: WORLD_SIZE is {os.environ['WORLD_SIZE']}, but RANK or MASTER_ADDR is missing, so each process "
            "would train alone; start the ranks with accelerate launch or torchrun"
        )
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        if int(os.environ.get(name, 1)) > 1 and "WORLD_SIZE" not in os.environ:
            raise UserError(
                f"launcher: {name} is {os.environ[name]} and WORLD_SIZE is not set, so each task would train alone; "
                "let each task of mpirun or srun start accelerate launch or torchrun"
            )
    # `accelerate launch --cpu --num_processes 2` names a meeting point and starts one process.
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ and wanted != 1:
        raise UserError(
            "launcher: several processes were asked for and one was started (accelerate launch --cpu does that); "
            "use bash launch/cpu.sh N, or --config_file configs/accelerate/cpu_2.yaml"
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
