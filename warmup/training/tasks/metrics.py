"""Scores of predictions: what an evaluation says of a model, each one number."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

METRICS = {
    "mlm": ("loss", "perplexity", "accuracy"),
    "clm": ("loss", "perplexity", "accuracy"),
    "classification": ("loss", "accuracy", "f1", "matthews"),
    "token-classification": ("loss", "accuracy", "f1"),
    "regression": ("loss", "mse", "pearson", "spearman"),
}
"""Of each task, what one evaluation can be better by than another: what the functions below give, but the counts."""
LOWER_IS_BETTER = ("loss", "perplexity", "mse")


def is_better(metric: str, metrics: dict[str, float], than: dict[str, float]) -> bool:
    """Whether an evaluation is a better one than another ({}: than none). One that is not a number never is."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    return sign * metrics[metric] > (sign * than[metric] if than else -math.inf)


def language_metrics(loss_sum: float, results_n2: torch.Tensor) -> dict[str, float]:
    """Of the numbers of right targets and of targets."""
    right, count = results_n2.sum(0).tolist()
    mean = loss_sum / max(count, 1)
    return {
        "loss": mean,
        "perplexity": math.exp(min(mean, 700)),
        "accuracy": right / max(count, 1),
        "targets": count,
    }


def entity_metrics(loss_sum: float, results_n5: torch.Tensor) -> dict[str, float]:
    """Of the numbers of right tags and of tags, of right entities, of found and of true ones: each entity counts once
    (micro), and is right as a whole or not at all.
    """
    right, count, right_entities, found, true = results_n5.sum(0).tolist()
    return {
        "loss": loss_sum / max(count, 1),
        "accuracy": right / max(count, 1),
        "precision": right_entities / max(found, 1),
        "recall": right_entities / max(true, 1),
        "f1": 2 * right_entities / max(found + true, 1),
        "targets": count,
    }


def tag_metrics(loss_sum: float, results_nW: torch.Tensor) -> dict[str, float]:
    """Of the numbers of right, of found and of true tags of each kind. F1 is the mean over those that there are."""
    right_C, found_C, true_C = results_nW.sum(0).view(3, -1)
    there_C = found_C + true_C > 0
    f1_C = (2 * right_C / (found_C + true_C))[there_C]
    count = float(true_C.sum())
    return {
        "loss": loss_sum / max(count, 1),
        "accuracy": float(right_C.sum()) / max(count, 1),
        "f1": float(f1_C.mean()) if len(f1_C) else 0.0,
        "targets": count,
    }


def class_metrics(loss_sum: float, results_N2: torch.Tensor, classes: int) -> dict[str, float]:
    """Of each sample's predicted and true class. F1 is that of the second class of two, as in GLUE, and of more
    than two the mean over them (macro).
    """
    from torchmetrics.functional import classification as library  # which the first step need not wait for

    found_N, wanted_N = results_N2.long().unbind(1)
    count = len(results_N2)
    if classes == 2:
        f1 = library.binary_f1_score(found_N, wanted_N)
    else:
        f1 = library.multiclass_f1_score(found_N, wanted_N, classes, average="macro")
    matthews = _correlation(lambda *pair: library.multiclass_matthews_corrcoef(*pair, classes), found_N, wanted_N)
    return {
        "loss": loss_sum / count,
        "accuracy": int((found_N == wanted_N).sum()) / count,
        "f1": float(f1),
        "matthews": matthews,
        "targets": float(count),
    }


def regression_metrics(loss_sum: float, results_N2: torch.Tensor) -> dict[str, float]:
    """Of each sample's predicted and true number."""
    from torchmetrics.functional import regression as library

    found_N, wanted_N = results_N2.unbind(1)
    return {
        "loss": loss_sum / len(results_N2),
        "mse": float((found_N - wanted_N).square().mean()),
        "pearson": _correlation(library.pearson_corrcoef, found_N, wanted_N),
        # Spearman's by its definition: the library's own adds up ranks in 32 bits, too few for 100,000 samples.
        "spearman": _correlation(library.pearson_corrcoef, _ranks(found_N), _ranks(wanted_N)),
        "targets": float(len(results_N2)),
    }


def _ranks(values_N: torch.Tensor) -> torch.Tensor:
    """Places in ascending order, from 1; equal values share the mean of theirs."""
    _, which_N, counts = values_N.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[which_N]


def _correlation(
    correlate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], found_N: torch.Tensor, wanted_N: torch.Tensor
) -> float:
    """0 where either is the same for all samples: nothing goes with it. (The library says NaN, or what its epsilon
    makes of it.)
    """
    constant = any(bool((values_N == values_N[0]).all()) for values_N in (found_N, wanted_N))
    return 0.0 if constant else float(correlate(found_N, wanted_N))
