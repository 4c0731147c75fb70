"""PyTorch's FSDP2: each rank holds a part of the weights, the gradients and the optimizer state of every layer.

Zhao et al. 2023 (arXiv:2304.11277).
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from warmup.training.engines.ddp import DDPEngine, NamedTensors
from warmup.training.engines.optimizers import check_shardable


class FSDPEngine(DDPEngine):
    """Implements `Engine` for ranks under FSDP2, which averages gradients over ranks like DistributedDataParallel."""

    lockstep = True

    @property
    def name(self) -> str:
        return "FSDP2"

    def _prepare(self, model: PreTrainedModel, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Shard the model, and give the optimizer the sharded parameters."""
        check_shardable(self.plan.optimizer, self.name)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        _shard(model, self.accelerator)
        sharded = dict(model.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [sharded[names[id(parameter)]] for parameter in group["params"]]
        return model, optimizer

    def tensors(self) -> NamedTensors:
        # A forward pass without a backward pass, as of an evaluation, leaves the outermost parameters whole: in memory
        # that FSDP2 frees later, and not the parameters that the optimizer knows.
        for module in self.unwrapped_model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        yield from super().tensors()

    def _full_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def _local_part(self, tensor: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
        if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
            return tensor
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)


def _shard(model: nn.Module, accelerator: Accelerator) -> None:
    """Shard each layer on its own, and the rest together: Accelerate would separate BERT's tied output bias.

    Under bf16 the passes compute in bf16, and gradients are reduced in full precision.
    """
    compute_dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    model.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    for layer in max(lists, key=len, default=()):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
