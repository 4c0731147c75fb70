"""The engine of one process, and of DistributedDataParallel, where every rank holds all weights and all state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from warmup.plan import Plan
from warmup.training.data.batching.prefetcher import RankBatch
from warmup.training.engines.sparse_embedding import (
    SparseEmbeddingGrad,
    add_tied_grad_by_rows,
    sparse_embedding_grad,
)

NamedTensors: TypeAlias = Iterator[tuple[Literal["model", "optimizer"], str, torch.Tensor]]
"""What a tensor belongs to, its name, and the tensor. The name of optimizer state is "<weight>/<kind of state>"."""
OptimizerState: TypeAlias = Mapping[str, Mapping[str, torch.Tensor]]
"""The optimizer state of each weight, by the weight's name and the kind of state."""


class DDPEngine:
    """Implements `Engine` for one process, and for ranks under DistributedDataParallel."""

    lockstep = False
    restores_weights = False
    loss_scale: float | None = None

    def __init__(self, accelerator: Accelerator, model: PreTrainedModel, optimizer: Optimizer, plan: Plan):
        self.accelerator, self.unwrapped_model, self.optimizer, self.plan = accelerator, model, optimizer, plan
        self.grad_divisor: int = accelerator.num_processes  # DistributedDataParallel averages gradients over ranks
        self._max_grad_norm = plan.max_grad_norm or float("inf")
        self._sparse_embedding: SparseEmbeddingGrad | None = None
        self.model, self._prepared_optimizer = self._prepare(model, optimizer)

    @property
    def name(self) -> str:
        return "DistributedDataParallel" if self.accelerator.num_processes > 1 else "one process"

    def micro_batch_context(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def backward(self, loss: torch.Tensor) -> None:
        self.accelerator.backward(loss)

    def reduce_sparse_grads(self, rank_batch: RankBatch) -> None:
        if self._sparse_embedding is not None:
            self._sparse_embedding.reduce(rank_batch.token_ids(), rank_batch.max_token_ids)

    def update(self, counts: torch.Tensor) -> tuple[list[float], float, bool]:
        scaler = self.accelerator.scaler
        clipped = self.accelerator.clip_grad_norm_(self.model.parameters(), self._max_grad_norm)
        norm = self._full_tensor(clipped).double().reshape(1)
        scale = scaler.scale(torch.ones_like(norm)) if scaler else torch.ones_like(norm)
        # The only read of the device per step: everything before it was only enqueued.
        *host_counts, grad_norm, scale = torch.cat([counts, norm, scale]).tolist()
        applied = bool(np.isfinite(grad_norm))
        if applied:
            self.optimizer.step()  # Accelerate's own step would let the scaler read the device once more
        if scaler:
            scaler.update()
            self.loss_scale = scale
        self._zero_grad(whole=not applied)
        return host_counts, grad_norm, applied

    def state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {"scaler": scaler.state_dict()} if scaler else {}

    def warm_up_passes(self, run_passes: Callable[[], object]) -> None:
        """Run the passes twice and drop their gradients.

        DistributedDataParallel regroups its gradient buckets after the first backward pass. Without this, the first
        step of a resumed run would add gradients in another order than the same step of an uninterrupted run.
        """
        for _ in range(2):
            run_passes()
            self._zero_grad()

    def tensors(self) -> NamedTensors:
        for name, tensor in saved_tensors(self.unwrapped_model):
            yield "model", name, self._full_tensor(tensor)
        for name, parameter in self.unwrapped_model.named_parameters():
            for kind, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    yield "optimizer", f"{name}/{kind}", self._full_tensor(value)

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.cpu() for part, name, tensor in self.tensors() if part == "model"}

    def restore(
        self, weights: Mapping[str, torch.Tensor], optimizer_state: OptimizerState, state: Mapping[str, Any]
    ) -> None:
        names = {id(parameter): name for name, parameter in self.unwrapped_model.named_parameters()}
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        restored = {
            index: {
                kind: self._local_part(value, parameter)
                for kind, value in optimizer_state[names[id(parameter)]].items()
            }
            for index, parameter in enumerate(trained)
            if names[id(parameter)] in optimizer_state
        }
        self.optimizer.load_state_dict({"state": restored, "param_groups": self.optimizer.state_dict()["param_groups"]})
        scaler = self.accelerator.scaler
        if scaler and (scaler_state := state.get("scaler")):  # missing after a run in another precision
            scaler.load_state_dict(scaler_state)

    def _prepare(self, model: PreTrainedModel, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """The model and the optimizer as Accelerate wraps them."""
        self._sparse_embedding = sparse_embedding_grad(model, self.accelerator.device)
        prepared = self.accelerator.prepare(model, optimizer)
        add_tied_grad_by_rows(model, self.accelerator.device)
        return prepared

    def _full_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The whole tensor, where the ranks hold parts of it."""
        return tensor

    def _local_part(self, tensor: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
        """The part of `parameter`'s state that this rank holds."""
        return tensor

    def _zero_grad(self, whole: bool = False) -> None:
        self._prepared_optimizer.zero_grad()
        if self._sparse_embedding is not None:
            self._sparse_embedding.clear(whole)


def saved_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that `from_pretrained` reads: all parameters, those with several names once, and all buffers."""
    yield from model.named_parameters()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    yield from ((name, tensor) for name, tensor in model.state_dict().items() if name not in parameters)
