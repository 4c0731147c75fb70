"""The squared norms of the gradients of single micro-batches, before they are added up and reduced over ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from warmup.training.distributed import collectives


class PartNorms:
    """The sums that `warmup.noise_scale.PartSums` holds, of one step.

    The hook of a parameter sees the gradient of each backward pass on its own: also of the last one of a step, in which
    ranks reduce what they have accumulated, and of a word embedding that is reduced outside DistributedDataParallel.
    The hooks are there in the measured passes only, because they cost time in others too.
    """

    def __init__(self, model: nn.Module):
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._norms: list[torch.Tensor] = []
        self._square_targets = 0

    @contextmanager
    def part(self, targets: int) -> Iterator[None]:
        """Around the backward pass of a micro-batch with so many targets."""
        hooks = [parameter.register_hook(self._add) for parameter in self._parameters]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self._square_targets += targets**2

    def _add(self, gradient: torch.Tensor) -> None:
        values = gradient.coalesce().values() if gradient.is_sparse else gradient  # it may hold a row several times
        self._norms.append(torch.linalg.vector_norm(values, dtype=torch.float32))

    def over_ranks(self) -> torch.Tensor:
        """Over the micro-batches of all ranks, the sums of squared norms and of squared numbers of targets: (2,)
        float64 on the device. A collective call.
        """
        squares = torch.stack(self._norms).double().square().sum()
        return collectives.sum_over_ranks(torch.stack([squares, torch.full_like(squares, self._square_targets)]))
