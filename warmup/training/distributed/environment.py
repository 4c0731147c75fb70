"""What the launcher asked of this process, and what must be set before a process group starts."""

from __future__ import annotations

import logging
import os
import warnings

from warmup.errors import UserError


def uses_deepspeed() -> bool:
    """Whether the launcher asked for it."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() in ("true", "1")


def prepare_deepspeed() -> None:
    """Import DeepSpeed, and have it as it should be. Raises UserError where it cannot start."""
    if "RANK" not in os.environ:
        raise UserError("launcher: DeepSpeed is asked for and no ranks were started; use bash launch/deepspeed.sh")
    try:
        import deepspeed
    except ImportError as error:
        raise UserError("launcher: DeepSpeed is asked for and not installed; pip install -e '.[deepspeed]'") from error
    deepspeed.utils.logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor", category=FutureWarning)
    # Its own sums over shared memory would be compiled first, and spin for ever where a peer dies; gloo's end.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def disable_transformers_zero3_init() -> None:
    """Let transformers make models as elsewhere: under stage 3 it would divide them at once, with other new weights."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def uses_fsdp() -> bool:
    """Whether the launcher asked for it."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1")


def check_fsdp(on_cpu: bool) -> None:
    """Raise UserError where the launcher asked for an FSDP that does not train here what it seems to train."""
    if not uses_fsdp():
        return
    if on_cpu:
        raise UserError(
            "launcher: FSDP needs GPUs: on CPU ranks Accelerate would neither divide the model nor exchange gradients; "
            "use configs/accelerate/cpu_2.yaml, or DeepSpeed's ZeRO: bash launch/deepspeed.sh 2 --cpu 2"
        )
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("launcher: FSDP's version 1 is not supported; use configs/accelerate/fsdp2.yaml")


def check_fp16(on_cpu: bool) -> None:
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower() != "fp16":
        return
    if on_cpu:
        raise UserError("mixed_precision: fp16 is for GPUs: on CPUs it is slower than none; use no")
    if uses_deepspeed() or uses_fsdp():
        raise UserError("mixed_precision: fp16 is not supported with DeepSpeed or FSDP; use bf16, or no")


def available_cores() -> int:
    """Those that this process may use; a job of a scheduler or a container may be given a part of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_launcher(wanted: int | None) -> None:
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
