"""What ranks say to each other: the few collectives of a run."""

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
    """How long ranks wait for each other from here on."""
    groups = list(dist.distributed_c10d._world.pg_map) if is_distributed() else []  # DeepSpeed has some of its own
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
    """Every rank's value, in the order of ranks."""
    everyone = [value]
    if is_distributed():
        everyone *= dist.get_world_size()
        dist.all_gather_object(everyone, value)
    return everyone


def barrier() -> None:
    """Part from the other ranks, all at once; then leave by `outcome.leave`.

    The group is not destroyed: whoever drops it with the interpreter's lock waits for the group's own thread, which may
    be waiting for that lock. That was one run of 70 on 3 ranks.
    """
    if is_distributed():
        dist.barrier()


def on_main(accelerator: Accelerator, work: Callable[[], Value]) -> Value:
    """Do something on rank 0 alone; all ranks get its result, or raise its UserError together.

    What goes wrong with files (OSError) is the user's to mend: no space, no permission.
    """
    outcome = [_attempt(work) if accelerator.is_main_process else None]
    if is_distributed():
        dist.broadcast_object_list(outcome, src=0)
    return _result(outcome[0])


def on_each_machine(accelerator: Accelerator, work: Callable[[], Value]) -> Value:
    """As `on_main`, on one rank of each machine: the other ranks there get its result. Any UserError is everyone's."""
    everyone = gather_objects(_attempt(work) if accelerator.is_local_main_process else None)
    results = [outcome and _result(outcome) for outcome in everyone]
    here = [number for number, outcome in enumerate(everyone) if outcome and number <= accelerator.process_index]
    return results[here[-1]]  # ranks of a machine follow each other


def _attempt(work: Callable[[], Value]) -> tuple[Value | None, str | None]:
    """What it returns, or why that could not be had."""
    try:
        return work(), None
    except UserError as error:
        return None, str(error)
    except OSError as error:
        return None, f"{error.filename or 'file'}: {error.strerror or error}"


def _result(outcome: tuple[Value, str | None]) -> Value:
    result, reason = outcome
    if reason is not None:
        raise UserError(reason)
    return result


def require_same(fields: Mapping[str, Any]) -> None:
    """Raise UserError on all ranks, naming rank, field and values, unless all ranks hold the same."""
    try:
        clock.require_same(fields)
    except clock.RanksDisagree as error:
        raise UserError(str(error)) from error
