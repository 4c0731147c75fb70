"""Starting Accelerate, checking that what started is what was meant, and the few collectives of a run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from warmup import clock
from warmup.training.outcome import UserError

Value = TypeVar("Value")


def start(world_size: int | None, device: str | None, timeout: int, trackers: tuple[str, ...]) -> Accelerator:
    """Accelerate on all ranks of the launcher. `world_size`: how many there must be, None for any number; `device`:
    cpu or cuda, None for GPUs where there are some.

    Raises UserError where the launcher started something else than one job of so many ranks.
    """
    _check_launcher(world_size)
    # torch would have another name for it, which Accelerate does not pass on.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
    try:
        accelerator = Accelerator(
            # Without it, ranks on CPUs started by torchrun each train alone.
            cpu=device == "cpu" or not torch.cuda.is_available(),
            log_with=list(trackers) or None,
            project_dir=".",  # Accelerate wants one now; the run directory takes its place once there is one
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timedelta(seconds=timeout)),
                # Buffers of BERT (position ids) never change; one copy of the gradients less.
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            ],
        )
    except ValueError as error:
        raise UserError(f"launcher or log.trackers: {' '.join(str(error).split())}") from error
    if device not in (None, accelerator.device.type):
        raise UserError(f"launch.device: {device} was meant, and the ranks found {accelerator.device.type}")
    _check_started(accelerator, world_size, trackers)
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 where there is no bf16
    if accelerator.device.type == "cpu":
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks_here))
    return accelerator


def _check_launcher(wanted: int | None) -> None:
    """Refuse what is known to start something else than it says, by its environment."""
    for name, what in (("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_FSDP", "FSDP")):
        if os.environ.get(name, "false").lower() in ("true", "1"):
            raise UserError(f"launcher: {what} is not supported; use a configuration of configs/accelerate/")
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
    if accelerator.mixed_precision == "fp16":
        raise UserError("mixed_precision: fp16 is not supported; use bf16 on GPUs that have it, or no")
    if len(accelerator.log_with) != len(trackers):
        raise UserError(f"log.trackers: one of {', '.join(trackers)} is not installed; pip install it")


def set_timeout(seconds: float) -> None:
    """How long ranks wait for each other from here on."""
    if distributed():
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds))


def distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def total(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over ranks, in place."""
    if distributed():
        dist.all_reduce(tensor)
    return tensor


def gather(value: Value) -> list[Value]:
    """Every rank's value, in the order of ranks."""
    everyone = [value]
    if distributed():
        everyone *= dist.get_world_size()
        dist.all_gather_object(everyone, value)
    return everyone


def stop() -> None:
    """Part from the other ranks, all at once; then leave by `outcome.leave`.

    The group is not destroyed: whoever drops it with the interpreter's lock waits for the group's own thread, which may
    be waiting for that lock. That was one run of 70 on 3 ranks.
    """
    if distributed():
        dist.barrier()


def on_main(accelerator: Accelerator, work: Callable[[], Value]) -> Value:
    """Do something on rank 0 alone; all ranks get its result, or raise its UserError together.

    What goes wrong with files (OSError) is the user's to mend: no space, no permission.
    """
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except UserError as error:
            outcome[1] = str(error)
        except OSError as error:
            outcome[1] = f"{error.filename or 'file'}: {error.strerror or error}"
    if distributed():
        dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    return outcome[0]


def require_same(fields: Mapping[str, Any]) -> None:
    """Raise UserError on all ranks, naming rank, field and values, unless all ranks hold the same."""
    try:
        clock.require_same(fields)
    except clock.RanksDisagree as error:
        raise UserError(str(error)) from error
