"""The gradient of the word embedding, restricted to the rows that a step touches.

More than half of a small model's weights belong to the word embedding, and a step touches only a few hundred of its
rows. Unless the output layer shares the weight (as a language model's does, which gives every row a gradient), all
other rows of the gradient are zero: they need neither be rewritten in each pass nor exchanged between ranks.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from warmup.training.distributed import collectives


def sparse_embedding_grad(model: PreTrainedModel, device: torch.device) -> SparseEmbeddingGrad | None:
    """Take over the gradient of the word embedding from DistributedDataParallel.

    Args:
        model: not yet wrapped by DistributedDataParallel.
        device: the device that it trains on.

    Returns:
        The gradient; None where this does not pay: the weight is tied to the output layer or frozen, or the device is
        a GPU, where it has not been measured.
    """
    embedding = cast(nn.Embedding, model.get_input_embeddings())
    tied = model.get_output_embeddings() is not None
    if tied or not embedding.weight.requires_grad or device.type != "cpu":
        return None
    names = [name for name, parameter in model.named_parameters() if parameter is embedding.weight]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)
    embedding.sparse = True  # backward then yields only the touched rows, which PyTorch adds to the existing gradient
    return SparseEmbeddingGrad(embedding.weight)


def add_tied_grad_by_rows(model: PreTrainedModel, device: torch.device) -> None:
    """Let a word embedding that is tied to the output layer add its gradient to the output layer's row by row.

    Otherwise each backward pass fills a second tensor of (vocabulary, dimension) with zeros, and adds it up with the
    first. Call this once DistributedDataParallel has the model: it would take the gradient for a sparse one, and the
    sum is dense. On GPUs it has not been measured, and is left as it is.
    """
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    if device.type == "cpu" and output is not None and output.weight is embedding.weight:
        cast(nn.Embedding, embedding).sparse = True


class SparseEmbeddingGrad:
    """A dense gradient buffer of shape (vocabulary, dimension), zero except for the rows touched since `clear`."""

    def __init__(self, weight: torch.Tensor):
        self._weight = weight
        self._grad_VD = torch.zeros_like(weight, requires_grad=False)
        self._touched: torch.Tensor | None = None  # None: any row may have been touched
        self.clear()

    def clear(self, whole: bool = False) -> None:
        """Set the gradient to zero; the optimizer's zero_grad() would remove the buffer.

        `whole`: clear all rows, not only the touched ones, because clipping by a norm that is not finite may have
        changed the others.
        """
        if whole or self._touched is None:
            self._grad_VD.zero_()
        else:
            self._grad_VD.index_fill_(0, self._touched, 0)
        self._weight.grad, self._touched = self._grad_VD, None

    def reduce(self, token_ids: np.ndarray, max_token_ids: int) -> None:
        """Replace the gradient by its mean over ranks, the same bits on all of them. A collective call.

        Args:
            token_ids: the rows that this rank touched, each once.
            max_token_ids: at least as many as any rank touched; the same number on all ranks.
        """
        grad_VD, touched_N = self._grad_VD, torch.from_numpy(token_ids)
        if not collectives.is_distributed():
            self._touched = touched_N
            return
        world_size = dist.get_world_size()
        if max_token_ids * world_size >= len(grad_VD):
            dist.all_reduce(grad_VD.div_(world_size))
            return
        local_N = torch.zeros(max_token_ids, dtype=torch.int64)  # padded with row 0, to which zeros are added
        local_N[: len(token_ids)] = touched_N
        rows_ND = grad_VD.new_zeros(max_token_ids, grad_VD.shape[1])
        rows_ND[: len(token_ids)] = grad_VD[touched_N] / world_size
        self._touched = torch.empty(world_size * max_token_ids, dtype=torch.int64)
        all_ND = rows_ND.new_empty(world_size * max_token_ids, grad_VD.shape[1])
        dist.all_gather(list(self._touched.split(max_token_ids)), local_N)
        dist.all_gather(list(all_ND.split(max_token_ids)), rows_ND)
        grad_VD[touched_N] = 0
        for start in range(0, len(self._touched), max_token_ids):  # rank by rank: the same order everywhere
            end = start + max_token_ids
            grad_VD.index_add_(0, self._touched[start:end], all_ND[start:end])
