"""What holds weights, gradients and optimizer state, and updates them: here where every rank holds all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn
from torch.optim import Optimizer

from warmup.errors import UserError
from warmup.plan import Plan
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.data.batching.prefetcher import RankBatch
from warmup.training.engines.sparse_embedding import SparseEmbeddingGrad, sparse_embedding_grad

NamedTensors = Iterator[tuple[str, str, torch.Tensor]]
"""File of a checkpoint, name in it, whole tensor; of an optimizer's state the name is "weight/what"."""


class DDPEngine:
    """One process, or ranks under DistributedDataParallel. `zero.ZeRO` and `fsdp.FSDP2` have the same methods.

    bare: the model as it was given. model: as Accelerate wrapped it, to be called. optimizer: the one whose parameter
    groups hold the rate. gradient_parts: what a loss sum is multiplied by, because its gradient is divided by it.
    together: whether all ranks must call the model equally often, because each holds a part of it. loss_scale: what the
    last step's loss was multiplied by for fp16's sake; None in other precisions.
    """

    together = False
    loss_scale: float | None = None

    def __init__(self, accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, plan: Plan):
        self.accelerator, self.bare, self.optimizer, self.plan = accelerator, model, optimizer, plan
        self.gradient_parts = accelerator.num_processes  # DistributedDataParallel takes the mean over ranks
        self._clip_at = plan.max_grad_norm or float("inf")
        self._word_embedding: SparseEmbeddingGrad | None = None
        self.model, self._prepared = self._prepare(model, optimizer)

    @property
    def name(self) -> str:
        return "DistributedDataParallel" if self.accelerator.num_processes > 1 else "one process"

    def turn(self, last: bool) -> AbstractContextManager:
        """Around the passes of one micro-batch. In the step's last one, ranks add up their gradients."""
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def backward(self, loss: torch.Tensor) -> None:
        self.accelerator.backward(loss)

    def exchange(self, share: RankBatch) -> None:
        """Add up over ranks what `backward` left out. A collective call."""
        if self._word_embedding is not None:
            self._word_embedding.exchange(share.token_ids, share.most_token_ids)

    def update(self, counts: torch.Tensor) -> tuple[list[float], float, bool]:
        """Clip, and update the weights unless a gradient is not finite; the gradients are gone then.

        Returns counts as they are on the host, the global gradient norm before clipping, and whether it updated.
        """
        scaler = self.accelerator.scaler
        norm = self._whole(self.accelerator.clip_grad_norm_(self.model.parameters(), self._clip_at)).double().reshape(1)
        scale = scaler.scale(torch.ones_like(norm)) if scaler else torch.ones_like(norm)
        # The one read of the device per step: everything before it was only enqueued.
        *read, grad_norm, scale = torch.cat([counts, norm, scale]).tolist()
        applied = bool(np.isfinite(grad_norm))
        if applied:
            self.optimizer.step()  # Accelerate's step would have the scaler read the device again, to know the same
        if scaler:
            scaler.update()
            self.loss_scale = scale
        self._zero_grad(whole=not applied)
        return read, grad_norm, applied

    def state(self) -> dict[str, Any]:
        """What there is to go on from, besides `tensors`, as JSON."""
        scaler = self.accelerator.scaler
        return {"scaler": scaler.state_dict()} if scaler else {}

    def settle(self, work: Callable[[], object]) -> None:
        """Do `work`, the passes of some micro-batch, without an effect: what the first passes set up is set up then.

        DistributedDataParallel groups gradients anew after its first; without this the first step of a resumed run
        would add up in another order than that of a run that went through.
        """
        for _ in range(2):
            work()
            self._zero_grad()

    def tensors(self) -> NamedTensors:
        """Weights and optimizer state, weights that share memory once. A collective call on some engines."""
        for name, tensor in saved_tensors(self.bare):
            yield checkpoint_format.MODEL, name, self._whole(tensor)
        for name, parameter in self.bare.named_parameters():
            for what, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    yield checkpoint_format.OPTIMIZER, f"{name}/{what}", self._whole(value)

    def weights(self) -> dict[str, torch.Tensor]:
        """All weights in host memory, as `save_pretrained` takes them. A collective call on some engines."""
        return {name: tensor.cpu() for file, name, tensor in self.tensors() if file == checkpoint_format.MODEL}

    def restore(self, folder: Path) -> None:
        """Take a checkpoint's optimizer state; its weights are the model's already. Raises UserError where it is of
        another model.
        """
        saved = read_optimizer_state(folder / checkpoint_format.OPTIMIZER, self.bare)
        names = {id(parameter): name for name, parameter in self.bare.named_parameters()}
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        state = {
            number: {what: self._own(value, parameter) for what, value in saved[names[id(parameter)]].items()}
            for number, parameter in enumerate(trained)
            if names[id(parameter)] in saved
        }
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        scaler = self.accelerator.scaler
        if scaler and (
            scaled := checkpoint_format.read_state(folder).get("scaler")
        ):  # none of a run in another precision
            scaler.load_state_dict(scaled)

    def _prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        self._word_embedding = sparse_embedding_grad(model, self.accelerator.device)
        return self.accelerator.prepare(model, optimizer)

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """Put together what the ranks hold of it."""
        return tensor

    def _own(self, tensor: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
        """This rank's part of a parameter's state."""
        return tensor

    def _zero_grad(self, whole: bool = False) -> None:
        self._prepared.zero_grad()
        if self._word_embedding is not None:
            self._word_embedding.clear(whole)


def saved_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What `from_pretrained` reads: parameters, those with several names once, and buffers."""
    yield from model.named_parameters()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    yield from ((name, tensor) for name, tensor in model.state_dict().items() if name not in parameters)


def read_optimizer_state(file: Path, model: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """An optimizer's state as a checkpoint holds it, by weight. Raises UserError where it is of another model."""
    saved: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(file).items():
        weight, _, what = name.rpartition("/")
        saved.setdefault(weight, {})[what] = tensor.clone()  # memory of its own, aligned as a fresh one's
    odd = sorted(saved.keys() - {name for name, parameter in model.named_parameters() if parameter.requires_grad})
    if odd:
        raise UserError(f"--resume: {file} does not fit the model: only one of them has {odd[0]}")
    return saved
