"""What the launcher requested through environment variables, and what must be set before a process group starts."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import warnings
from pathlib import Path

from warmup.errors import UserError

_LAUNCHERS = ("accelerate", "torchrun")
_LAUNCHER_MODULES = ("accelerate.", "torch.distributed.", "deepspeed.")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def stop_with_launcher() -> None:
    """Have the kernel send this rank SIGTERM when its launcher dies, even of SIGKILL, so that no rank trains on alone.

    Only under a launcher: a process that a shell started may outlive it. Linux only. SIGTERM stops a run with a
    checkpoint, and the watchdog ends a rank that waits for others meanwhile.
    """
    if sys.platform == "linux" and has_launcher():
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def has_launcher() -> bool:
    """Whether this process was started by `accelerate launch`, torchrun or their like. Linux only."""
    return _is_launcher(os.getppid())


def _is_launcher(pid: int) -> bool:
    """Whether a process is `accelerate launch`, torchrun or their like, by its command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:4]
    except OSError:
        return False
    return any(os.path.basename(word) in _LAUNCHERS or word.startswith(_LAUNCHER_MODULES) for word in words)


def available_cores() -> int:
    """Cores that this process may use: a scheduler or a container may grant only some of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def uses_cpu() -> bool:
    """Whether the launcher requested CPU ranks, also on a machine with GPUs."""
    return os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1")


def threads_per_rank(ranks: int) -> int:
    """Threads of each of `ranks` on this machine: OMP_NUM_THREADS where it was set, else an equal part of the cores.

    torchrun sets it to 1 for several ranks if nobody has, which would leave cores idle; the launch scripts always have.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    by_torchrun = given == "1" and ranks > 1 and "WARMUP_COMMAND" not in os.environ
    if given.isdecimal() and int(given) > 0 and not by_torchrun:
        return int(given)
    return max(1, available_cores() // ranks)


def uses_deepspeed() -> bool:
    """Whether the launcher requested DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() in ("true", "1")


def uses_fsdp() -> bool:
    """Whether the launcher requested FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1")


def prepare_environment(on_cpu: bool) -> None:
    """Check what the launcher requested, and set up its libraries. Call this before Accelerate starts.

    Raises UserError where the request would not train as it says.
    """
    # torch is about to rename the option, and Accelerate does not pass on the new name.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
    check_fsdp(on_cpu)
    check_fp16(on_cpu)
    if on_cpu:  # transformers imports DeepSpeed if it is installed, which would look for GPUs and report on them
        os.environ["DS_ACCELERATOR"] = "cpu"
    if uses_deepspeed():
        _prepare_deepspeed(on_cpu)


def _prepare_deepspeed(on_cpu: bool) -> None:
    """Import DeepSpeed and configure it. Raises UserError where it cannot start."""
    if "RANK" not in os.environ:
        raise UserError("launcher: DeepSpeed is requested, but no ranks were started; use bash launch/deepspeed.sh")
    try:
        import deepspeed
    except ImportError as error:
        raise UserError("launcher: DeepSpeed is requested, but not installed; pip install -e '.[deepspeed]'") from error
    deepspeed.utils.logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor", category=FutureWarning)
    if on_cpu:  # on GPUs it would try out every operator of DeepSpeed's
        # DeepSpeed's reductions over shared memory need a compiler, and spin for ever when a peer dies; gloo's fail.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def disable_transformers_zero3_init() -> None:
    """Let transformers create models as it does without DeepSpeed.

    Under stage 3 it would otherwise shard the weights while it creates them, and new weights would differ.
    """
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def check_fsdp(on_cpu: bool) -> None:
    """Raise UserError for a request for FSDP that would not train as it seems to."""
    if not uses_fsdp():
        return
    if on_cpu:
        raise UserError(
            "launcher: FSDP needs GPUs: on CPU ranks Accelerate would neither shard the model nor exchange gradients; "
            "use configs/accelerate/cpu_2.yaml, or DeepSpeed's ZeRO: bash launch/deepspeed.sh 2 --cpu 2"
        )
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("launcher: FSDP's version 1 is not supported; use configs/accelerate/fsdp2.yaml")


def check_fp16(on_cpu: bool) -> None:
    """Raise UserError where fp16 is requested and not supported."""
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower() != "fp16":
        return
    if on_cpu:
        raise UserError("mixed_precision: fp16 is for GPUs: on CPUs it is slower than fp32; use no")
    if uses_deepspeed() or uses_fsdp():
        raise UserError("mixed_precision: fp16 is not supported with DeepSpeed or FSDP; use bf16, or no")


def check_launcher(world_size: int | None) -> None:
    """Raise UserError for environments that are known to start something other than one job of several ranks.

    Args:
        world_size: how many ranks the configuration expects; None for any number.
    """
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
    # `accelerate launch --cpu --num_processes 2` sets a master address and starts one process.
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ and world_size != 1:
        raise UserError(
            "launcher: several processes were requested, but one was started (accelerate launch --cpu does that); "
            "use bash launch/cpu.sh N, or --config_file configs/accelerate/cpu_2.yaml"
        )
