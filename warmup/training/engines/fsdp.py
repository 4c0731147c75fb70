"""PyTorch's FSDP2: weights, gradients and optimizer state lie in parts on the ranks, layer by layer.

Zhao et al. 2023 (arXiv:2304.11277).
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from warmup.training.engines.ddp import DDPEngine
from warmup.training.engines.optimizers import check_shardable


class FSDPEngine(DDPEngine):
    """`engine.Engine` for ranks under FSDP2, which takes the mean over ranks too."""

    name, together = "FSDP2", True

    def _prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Divide the model, and give the optimizer the parts."""
        check_shardable(self.plan.optimizer, self.name)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        _shard(model, self.accelerator)
        parts = dict(model.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [parts[names[id(parameter)]] for parameter in group["params"]]
        return model, optimizer

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def _own(self, tensor: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
        if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
            return tensor
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)


def _shard(model: nn.Module, accelerator: Accelerator) -> None:
    """Each layer on its own, and the rest together: Accelerate would part the two names of BERT's tied output bias.

    In bf16 it computes, and adds gradients up in full precision.
    """
    computes = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    model.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    how = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(param_dtype=computes, reduce_dtype=torch.float32)}
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    for layer in max(lists, key=len, default=()):
        fully_shard(layer, **how)
    fully_shard(model, **how)
