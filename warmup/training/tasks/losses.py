"""Losses, summed over the targets: a step divides by the number of targets of all ranks and micro-batches."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pyarrow
import torch
import torch.nn.functional as F

from warmup.config.recipe import BALANCED, Recipe, parse_class_weight
from warmup.errors import UserError
from warmup.training.data.batching.micro_batch import Targets
from warmup.training.data.samples import IGNORE_INDEX, Samples
from warmup.training.tasks.task import Loss


def cross_entropy_sum(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Cross entropy summed over the targets, in nats. logits: (..., C), as many as there are targets."""
    return F.cross_entropy(
        logits.flatten(0, -2).float(), targets.values.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )


def cross_entropy(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Cross entropy of each target, in nats, (N,); 0 where there is none. logits: (..., C), as many as targets."""
    return F.cross_entropy(
        logits.flatten(0, -2).float(), targets.values.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )


def squared_error_sum(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Squared error summed over the targets that are not NaN. logits: (N, 1)."""
    return squared_error(logits, targets).sum()


def squared_error(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Squared error of each target, (N,); 0 where it is NaN. logits: (N, 1)."""
    errors = logits.flatten().float() - targets.values.nan_to_num()
    return torch.where(targets.values.isnan(), 0.0, errors).square()


def group_cross_entropy_sum(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """`group_cross_entropy` summed over all positions."""
    return group_cross_entropy(logits, targets).sum()


def group_cross_entropy(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Cross entropy, in nats, of one softmax over all positions of a sample, summed over columns: at the right position
    of each sample, and 0 at all others, (N,).

    Args:
        logits: (..., K), as many as there are targets: the score of each position, for each of K questions (the start
            and the end of an answer, say).
        targets: values (N, K) or (N,) for K = 1: 1 at the right position of each sample, 0 at its others, IGNORE_INDEX
            at positions that do not count. A sample without a 1 adds nothing.
    """
    scores_NK = logits.flatten(0, -2).float()
    right_NK = targets.values.reshape(scores_NK.shape)
    groups_NK = targets.sample_ids_N[:, None].expand_as(right_NK)
    counts_NK = right_NK != IGNORE_INDEX
    shape = (targets.sample_count, scores_NK.shape[1])
    lowest = torch.finfo(scores_NK.dtype).min
    masked_NK = scores_NK.masked_fill(~counts_NK, lowest)
    # Of a sum of exponentials relative to the largest, which changes nothing and cannot overflow.
    largest_SK = masked_NK.new_full(shape, lowest).scatter_reduce(0, groups_NK, masked_NK.detach(), "amax")
    relative_NK = masked_NK - largest_SK.gather(0, groups_NK)
    terms_NK = relative_NK.exp() * counts_NK
    sums_SK = terms_NK.new_zeros(shape).scatter_add(0, groups_NK, terms_NK)
    log_sums_NK = sums_SK.clamp_min(torch.finfo(scores_NK.dtype).tiny).log().gather(0, groups_NK)
    # Subtracted position by position: the difference of two sums over the batch would lose small losses to rounding.
    return torch.where(right_NK == 1, log_sums_NK - relative_NK, 0.0).sum(1)


def group_target_counts(targets: Targets) -> torch.Tensor:
    """How many questions each position is the right answer to, (N,). Values as of `group_cross_entropy`."""
    return (targets.values.reshape(len(targets.values), -1) == 1).sum(1)


def classification_loss(recipe: Recipe, labels: Sequence[str], samples: Samples, column: str) -> Loss:
    """The recipe's loss for classes: cross entropy, of smoothed labels and weighted by class if it says so.

    The step divides the sum by the number of targets, whatever their weights, so a target's part in the gradient
    depends on its class and not on the other targets. (torch's mean divides by the sum of the weights.)

    Args:
        recipe: its label_smoothing and class_weights.
        labels: names of the classes.
        samples: training samples, to count classes in.
        column: where their class ids are.

    Raises:
        UserError: a weight is given for a class that does not exist.
    """
    if not recipe.label_smoothing and not recipe.class_weights:
        return cross_entropy_sum
    weights = class_weights(recipe.class_weights, labels, samples, column)
    weight_on = functools.cache(lambda device: torch.tensor(weights, dtype=torch.float32, device=device))

    def weighted_cross_entropy_sum(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        return F.cross_entropy(
            logits.flatten(0, -2).float(),
            targets.values.flatten(),
            weight=weight_on(logits.device),
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=recipe.label_smoothing,
        )

    return weighted_cross_entropy_sum


def class_weights(requested: Sequence[str], labels: Sequence[str], samples: Samples, column: str) -> list[float]:
    """The weight of each class, as `recipe.class_weights` requests it. See `classification_loss`."""
    if tuple(requested) == (BALANCED,):
        return balanced_weights(class_counts(samples, column, len(labels)))
    given = dict(map(parse_class_weight, requested))
    if unknown := [name for name in given if name not in labels]:
        there = ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "")
        raise UserError(f"recipe.class_weights: no class {unknown[0]!r} in the training data (there are {there})")
    weights = [given.get(label, 1.0) for label in labels]
    if not any(weights):
        raise UserError("recipe.class_weights: no class has a weight above 0, so that nothing would be learned")
    return weights


def balanced_weights(counts_C: np.ndarray) -> list[float]:
    """n / (classes * n_c), whose mean over the targets is 1 (King and Zeng 2001, "Logistic regression in rare events
    data"; named so by scikit-learn). 1 for a class without targets.
    """
    there_C = counts_C > 0
    return np.where(there_C, counts_C.sum() / (there_C.sum() * counts_C.clip(1)), 1.0).tolist()


def class_counts(samples: Samples, column: str, classes: int) -> np.ndarray:
    """Count the targets of each class.

    Args:
        samples: a tokenised set.
        column: of class ids, one or several for each sample.
        classes: how many classes there are.
    """
    counts_C = np.zeros(classes, np.int64)
    for chunk in samples.table.data.column(column).chunks:
        ids = (chunk.flatten() if pyarrow.types.is_list(chunk.type) else chunk).to_numpy()
        counts_C += np.bincount(ids[ids != IGNORE_INDEX], minlength=classes)
    return counts_C
