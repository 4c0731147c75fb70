"""The word embedding's gradient, by the rows that a step touches.

Of a small model's weights more than half are the word embedding's, of which a step touches a few hundred rows. Where
nothing but the embedding itself gives them a gradient (a language model's head, tied to it, gives every row one), all
others are zero: they need not be written anew for each pass, nor exchanged.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from warmup.training.distributed import collectives


def sparse_embedding_grad(model: PreTrainedModel, device: torch.device) -> SparseEmbeddingGrad | None:
    """Take the word embedding's gradient out of DistributedDataParallel's hands; call it before the model is wrapped.

    None where it is not worth it: with a tied head, frozen, or on GPUs, where it has not been measured.
    """
    embedding = model.get_input_embeddings()
    tied = model.get_output_embeddings() is not None
    if tied or not embedding.weight.requires_grad or device.type != "cpu":
        return None
    names = [name for name, parameter in model.named_parameters() if parameter is embedding.weight]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)
    embedding.sparse = True  # a pass gives the touched rows alone, which PyTorch adds to the gradient that is there
    return SparseEmbeddingGrad(embedding.weight)


class SparseEmbeddingGrad:
    """Holds the gradient, zero but for the rows that passes since the last `clear` touched."""

    def __init__(self, weight: nn.Parameter):
        self._weight = weight
        self._grad_VD = torch.zeros_like(weight, requires_grad=False)
        self._touched: torch.Tensor | None = None  # None: may be any
        self.clear()

    def clear(self, whole: bool = False) -> None:
        """In the place of the optimizer's zero_grad(), which takes the gradient away. whole: not the touched rows
        alone, where clipping by a norm that is not finite may have spoilt the others.
        """
        if whole or self._touched is None:
            self._grad_VD.zero_()
        else:
            self._grad_VD.index_fill_(0, self._touched, 0)
        self._weight.grad, self._touched = self._grad_VD, None

    def exchange(self, ids: np.ndarray, most: int) -> None:
        """Make it the mean over ranks: the same bits on all of them. A collective call.

        ids: the rows that this rank touched, each once. most: at least as many as any rank touched, the same on all.
        """
        grad_VD, touched_N = self._grad_VD, torch.from_numpy(ids)
        if not collectives.is_distributed():
            self._touched = touched_N
            return
        world_size = dist.get_world_size()
        if most * world_size >= len(grad_VD):
            dist.all_reduce(grad_VD.div_(world_size))
            return
        mine_N = torch.zeros(most, dtype=torch.int64)  # filled up with row 0, to which nothing is added
        mine_N[: len(ids)] = touched_N
        rows_ND = grad_VD.new_zeros(most, grad_VD.shape[1])
        rows_ND[: len(ids)] = grad_VD[touched_N] / world_size
        self._touched = torch.empty(world_size * most, dtype=torch.int64)
        all_ND = rows_ND.new_empty(world_size * most, grad_VD.shape[1])
        dist.all_gather(list(self._touched.split(most)), mine_N)
        dist.all_gather(list(all_ND.split(most)), rows_ND)
        grad_VD[touched_N] = 0
        for start in range(0, len(self._touched), most):  # rank by rank, in one order everywhere
            grad_VD.index_add_(0, self._touched[start : start + most], all_ND[start : start + most])
