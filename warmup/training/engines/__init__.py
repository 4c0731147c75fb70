"""Engines hold the weights, the gradients and the optimizer state, and update them.

`ddp` is for one process and for ranks that each hold everything, `fsdp` and `deepspeed` for ranks that share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from warmup.plan import Plan
from warmup.training.data.batching.prefetcher import RankBatch
from warmup.training.engines.ddp import DDPEngine, NamedTensors, OptimizerState
from warmup.training.engines.deepspeed import DeepSpeedEngine
from warmup.training.engines.fsdp import FSDPEngine


@runtime_checkable
class Engine(Protocol):
    """What a training step and the checkpoints need of an engine."""

    unwrapped_model: PreTrainedModel
    """The model as it was given."""
    model: nn.Module
    """The model to call: wrapped by Accelerate where the engine needs that."""
    optimizer: Optimizer
    """The optimizer whose parameter groups hold the learning rate."""
    grad_divisor: int
    """What the engine divides gradients by when it averages them. A loss that is multiplied by it gives their sum."""
    lockstep: bool
    """Whether all ranks must call the model equally often, because each holds a part of its weights."""
    loss_scale: float | None
    """What fp16 multiplied the last step's loss by; None in other precisions."""

    @property
    def name(self) -> str:
        """The engine's name, for the user."""
        ...

    @property
    def restores_weights(self) -> bool:
        """Whether `restore` needs the checkpoint's weights too, because the model holds them rounded."""
        ...

    def micro_batch_context(self, last: bool) -> AbstractContextManager[None]:
        """The context of the forward and backward pass of one micro-batch.

        `last`: whether it is the last one of its step, in which the ranks reduce their gradients.
        """
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss` to the gradients of this step."""
        ...

    def reduce_sparse_grads(self, rank_batch: RankBatch) -> None:
        """Reduce the gradients that `backward` does not, after the last micro-batch of a step. A collective call."""
        ...

    def update(self, counts: torch.Tensor) -> tuple[list[float], float, bool]:
        """Clip the gradients, update the weights unless a gradient is not finite, and drop the gradients.

        A collective call.

        Args:
            counts: numbers on the device, to be read together with the gradient norm.

        Returns:
            The counts on the host, the global gradient norm before clipping, and whether the weights were updated.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of the engine besides `tensors`, as JSON."""
        ...

    def warm_up_passes(self, run_passes: Callable[[], object]) -> None:
        """Let the engine set up what it sets up in its first steps. Changes no weight.

        `run_passes` runs the forward and backward pass of some micro-batch.
        """
        ...

    def tensors(self) -> NamedTensors:
        """All weights and the optimizer state, whole; weights that share memory once. A collective call."""
        ...

    def weights(self) -> dict[str, torch.Tensor]:
        """All weights in host memory, as `save_pretrained` takes them. A collective call."""
        ...

    def restore(
        self, weights: Mapping[str, torch.Tensor], optimizer_state: OptimizerState, state: Mapping[str, Any]
    ) -> None:
        """Restore a checkpoint, after `warm_up_passes`. The model was built with the checkpoint's weights already.

        Args:
            weights: the checkpoint's weights; may be empty unless `restores_weights`.
            optimizer_state: the optimizer state of each weight. A weight without state is left out.
            state: JSON with what `state` returned; ignored where another engine or precision wrote it.
        """
        ...


def build_engine(accelerator: Accelerator, model: PreTrainedModel, optimizer: Optimizer, plan: Plan) -> Engine:
    """The engine that the launcher requested.

    Args:
        accelerator: knows what was requested.
        model: with its weights, in host memory.
        optimizer: over the model's parameters.
        plan: the batch sizes and the gradient clipping.

    Raises:
        UserError: if the optimizer or the DeepSpeed configuration does not fit the engine.
    """
    match accelerator.distributed_type.value:
        case "DEEPSPEED":
            return DeepSpeedEngine(accelerator, model, optimizer, plan)
        case "FSDP":
            return FSDPEngine(accelerator, model, optimizer, plan)
    return DDPEngine(accelerator, model, optimizer, plan)
