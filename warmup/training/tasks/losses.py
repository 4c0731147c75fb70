"""What training minimises where it is not the held-out loss: cross entropy of smoothed labels, weighted by class."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow
import torch
import torch.nn.functional as F

from warmup.config.recipe import BALANCED, Recipe, parse_class_weight
from warmup.errors import UserError
from warmup.training.data.prepare import Prepared
from warmup.training.data.samples import IGNORE_INDEX, Samples


def build_objective(recipe: Recipe, prepared: Prepared) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None:
    """The recipe's loss, summed over the targets; None where it is the plain one.

    The step divides the sum by the number of targets, whatever their weights, so that a target's part in the gradient
    depends on its class alone, and not on its company. (torch's mean divides by the sum of the weights.)
    """
    if not recipe.label_smoothing and not recipe.class_weights:
        return None
    weights = class_weights(recipe.class_weights, prepared)
    weight_on = functools.cache(lambda device: torch.tensor(weights, dtype=torch.float32, device=device))

    def objective(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(
            logits.flatten(0, -2).float(),
            targets.flatten(),
            weight=weight_on(logits.device),
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=recipe.label_smoothing,
        )

    return objective


def class_weights(wanted: Sequence[str], prepared: Prepared) -> list[float]:
    """The weight of each class. Raises UserError where one is wanted for a class that there is not."""
    labels = prepared.labels
    if wanted == (BALANCED,):
        return balanced(class_counts(prepared.train, len(labels)))
    given = dict(map(parse_class_weight, wanted))
    if unknown := [name for name in given if name not in labels]:
        there = ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "")
        raise UserError(f"recipe.class_weights: no class {unknown[0]!r} in the training data (there are {there})")
    weights = [given.get(label, 1.0) for label in labels]
    if not any(weights):
        raise UserError("recipe.class_weights: no class has a weight above 0, so that nothing would be learned")
    return weights


def balanced(counts_C: np.ndarray) -> list[float]:
    """n / (classes * n_c), which is 1 in the mean over the targets (King and Zeng 2001, "Logistic regression in rare
    events data"; so named by scikit-learn). 1 for a class that no target is of.
    """
    there_C = counts_C > 0
    return np.where(there_C, counts_C.sum() / (there_C.sum() * counts_C.clip(1)), 1.0).tolist()


def class_counts(samples: Samples, classes: int) -> np.ndarray:
    """Targets of each class."""
    counts_C = np.zeros(classes, np.int64)
    for chunk in samples.table.data.column("label").chunks:
        values = chunk.flatten() if pyarrow.types.is_list(chunk.type) else chunk
        numbers = values.to_numpy()
        counts_C += np.bincount(numbers[numbers != IGNORE_INDEX], minlength=classes)
    return counts_C
