"""Metrics of predictions: what an evaluation says of a model, each one number. Beside it: what is behind them.

`results` of each sample are summed or listed first (they do not depend on how samples were batched), then become
metrics on rank 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from warmup.training.data.batching.micro_batch import Targets
from warmup.training.data.samples import IGNORE_INDEX


def sum_by_sample(values_NW: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Values of single targets summed over each sample, (samples, W), float64."""
    sums_SW = values_NW.new_zeros((targets.sample_count, values_NW.shape[1]), dtype=torch.float64)
    return sums_SW.index_add(0, targets.sample_ids_N, values_NW.double())


def correct_and_total(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """(samples, 2): the number of targets whose logit is the largest, and of all targets."""
    labels_N = targets.values.flatten()
    correct_N = logits.flatten(0, -2).argmax(-1) == labels_N  # IGNORE_INDEX is never the largest
    return sum_by_sample(torch.stack([correct_N, labels_N != IGNORE_INDEX], 1), targets)


def prediction_and_label(preds_N: torch.Tensor, targets: Targets) -> torch.Tensor:
    """(samples, 2): the prediction and the label of each sample, for tasks with one target per sample."""
    pairs_N2 = torch.stack([preds_N.double(), targets.values.double()], 1)
    return sum_by_sample(pairs_N2.masked_fill(~targets.is_target_N[:, None], 0), targets)


def tag_counts(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """(samples, 3 * C): of each tag, how often it was predicted rightly, predicted, and the label."""
    classes, labels_N = logits.shape[-1], targets.values.flatten()
    preds_N, counted_N = logits.flatten(0, -2).argmax(-1), labels_N != IGNORE_INDEX

    def count(tags_N: torch.Tensor, counts_N: torch.Tensor) -> torch.Tensor:
        sums = tags_N.new_zeros(targets.sample_count * classes, dtype=torch.float64)
        # bincount would have to wait for the device
        sums = sums.index_add(0, targets.sample_ids_N * classes + tags_N, counts_N.double())
        return sums.view(targets.sample_count, classes)

    correct_SC, predicted_SC = count(preds_N, preds_N == labels_N), count(preds_N, counted_N)
    return torch.cat([correct_SC, predicted_SC, count(labels_N.clamp(0), counted_N)], 1)


def language_metrics(loss_sum: float, results_S2: torch.Tensor) -> dict[str, float]:
    """From the number of correct targets and of all targets."""
    correct, total = results_S2.sum(0).tolist()
    mean = loss_sum / max(total, 1)
    return {
        "loss": mean,
        "perplexity": math.exp(min(mean, 700)),
        "accuracy": correct / max(total, 1),
        "targets": total,
    }


def entity_metrics(loss_sum: float, results_SW: torch.Tensor) -> dict[str, float]:
    """From the number of correct tags and of all tags, and of correct, predicted and labelled entities of each type.

    Each entity counts once (micro average), and is correct as a whole or not at all.
    """
    sums_W = results_SW.sum(0)
    correct, total = sums_W[:2].tolist()
    correct_entities, predicted, labelled = sums_W[2:].view(3, -1).sum(1).tolist()
    return {
        "loss": loss_sum / max(total, 1),
        "accuracy": correct / max(total, 1),
        "precision": correct_entities / max(predicted, 1),
        "recall": correct_entities / max(labelled, 1),
        "f1": 2 * correct_entities / max(predicted + labelled, 1),
        "targets": total,
    }


def tag_metrics(loss_sum: float, results_SW: torch.Tensor) -> dict[str, float]:
    """From the counts of `tag_counts`. F1 is the mean over all tags that were predicted or are labels (macro)."""
    correct_C, predicted_C, labelled_C = results_SW.sum(0).view(3, -1)
    there_C = predicted_C + labelled_C > 0
    f1_C = (2 * correct_C / (predicted_C + labelled_C))[there_C]
    count = float(labelled_C.sum())
    return {
        "loss": loss_sum / max(count, 1),
        "accuracy": float(correct_C.sum()) / max(count, 1),
        "f1": float(f1_C.mean()) if len(f1_C) else 0.0,
        "targets": count,
    }


def class_metrics(loss_sum: float, results_S2: torch.Tensor, classes: int) -> dict[str, float]:
    """Of each sample's predicted and true class. F1 is that of the second class of two, as in GLUE, and of more
    than two the mean over them (macro).
    """
    from torchmetrics.functional import classification as library  # which the first step need not wait for

    preds_N, labels_N = results_S2.long().unbind(1)
    count = len(results_S2)
    if classes == 2:
        f1 = library.binary_f1_score(preds_N, labels_N)
    else:
        f1 = library.multiclass_f1_score(preds_N, labels_N, classes, average="macro")
    matthews = _correlation(
        lambda preds, labels: library.multiclass_matthews_corrcoef(preds, labels, classes), preds_N, labels_N
    )
    return {
        "loss": loss_sum / count,
        "accuracy": int((preds_N == labels_N).sum()) / count,
        "f1": float(f1),
        "matthews": matthews,
        "targets": float(count),
    }


def regression_metrics(loss_sum: float, results_S2: torch.Tensor) -> dict[str, float]:
    """Of each sample's predicted and true number."""
    from torchmetrics.functional import regression as library

    preds_N, labels_N = results_S2.unbind(1)
    return {
        "loss": loss_sum / len(results_S2),
        "mse": float((preds_N - labels_N).square().mean()),
        "pearson": _correlation(library.pearson_corrcoef, preds_N, labels_N),
        # Spearman's by its definition: the library's own adds up ranks in 32 bits, too few for 100,000 samples.
        "spearman": _correlation(library.pearson_corrcoef, _ranks(preds_N), _ranks(labels_N)),
        "targets": float(len(results_S2)),
    }


def _ranks(values_N: torch.Tensor) -> torch.Tensor:
    """Places in ascending order, from 1; equal values share the mean of theirs."""
    _, which_N, counts = values_N.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[which_N]


def _correlation(
    correlate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], preds_N: torch.Tensor, labels_N: torch.Tensor
) -> float:
    """0 where either is the same for all samples: nothing goes with it. (The library says NaN, or what its epsilon
    makes of it.)
    """
    constant = any(bool((values_N == values_N[0]).all()) for values_N in (preds_N, labels_N))
    return 0.0 if constant else float(correlate(preds_N, labels_N))
