"""The few collective operations of a run, over torch.distributed. Each also works in a process without a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator

from warmup import clock
from warmup.errors import UserError

Value = TypeVar("Value")


def set_timeout(seconds: float) -> None:
    """From now on, collectives fail after this many seconds of waiting for another rank."""
    groups = list(dist.distributed_c10d._world.pg_map) if is_distributed() else []  # DeepSpeed creates further groups
    for group in groups:
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over ranks, in place."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def gather_objects(value: Value) -> list[Value]:
    """The value of every rank, in the order of ranks."""
    values = [value]
    if is_distributed():
        values *= dist.get_world_size()
        dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all ranks at the end of a run; then leave with `exit_status.exit_now`.

    The process group is not destroyed: the call would hold the interpreter's lock while it waits for the group's own
    thread, which may be waiting for that lock. One run in 70 on 3 ranks hung this way.
    """
    if is_distributed():
        on_gpu = "nccl" in dist.get_backend()
        dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)  # NCCL warns if it has to guess


def on_main(accelerator: Accelerator, work: Callable[[], Value]) -> Value:
    """Do something on rank 0 only. A collective call.

    Args:
        accelerator: tells which rank this is.
        work: called on rank 0.

    Returns:
        On every rank, what `work` returned on rank 0.

    Raises:
        UserError: on every rank, where `work` raised a UserError, or an OSError: a full disk or a missing permission
            is for the user to mend.
    """
    results = [_attempt(work) if accelerator.is_main_process else None]
    if is_distributed():
        dist.broadcast_object_list(results, src=0)
    return _value_of(results[0])


def on_each_machine(accelerator: Accelerator, work: Callable[[], Value]) -> Value:
    """Do something on one rank of each machine. A collective call.

    Args:
        accelerator: tells which rank this is.
        work: called on the first rank of each machine.

    Returns:
        What `work` returned on the first rank of this machine.

    Raises:
        UserError: as `on_main`, on every rank of all machines if it failed on one of them.
    """
    results = gather_objects(_attempt(work) if accelerator.is_local_main_process else None)
    values: list[Any] = [result and _value_of(result) for result in results]
    on_this_machine = [rank for rank, result in enumerate(results) if result and rank <= accelerator.process_index]
    return values[on_this_machine[-1]]  # the ranks of a machine have consecutive numbers


def _attempt(work: Callable[[], Any]) -> tuple[Any, str | None]:
    """The value that `work` returns and None, or None and why it failed."""
    try:
        return work(), None
    except UserError as error:
        return None, str(error)
    except OSError as error:
        return None, f"{error.filename or 'file'}: {error.strerror or error}"


def _value_of(result: Any) -> Any:
    """The value of an attempt. Raises UserError if it failed."""
    value, reason = result
    if reason is not None:
        raise UserError(reason)
    return value


def require_same(fields: Mapping[str, Any]) -> None:
    """Raise UserError on all ranks, naming rank, field and values, unless all ranks hold the same values.

    A collective call.
    """
    try:
        clock.require_same(fields)
    except clock.RanksDisagree as error:
        raise UserError(str(error)) from error
