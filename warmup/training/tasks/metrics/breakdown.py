"""What is behind the metrics of an evaluation: the scores of each class, tag or entity type, and what was taken for
what. Made from the same results of samples, so without another pass over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

_PAIRS = 1000  # of predicted and true numbers that are kept, evenly spaced


@dataclass(frozen=True)
class Breakdown:
    """What is behind the metrics of one evaluation."""

    kind: str
    """What the scores are of: class, tag or entity type; number for regression, which has none."""
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """precision, recall, f1 and support (how often it is the label), by name."""
    confusion: Sequence[tuple[int, int, int]] = ()
    """(label, prediction, count) of classes, by their places in `per_class`, where the count is not 0."""
    pairs: Sequence[tuple[float, float]] = ()
    """(label, prediction) of numbers."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def scores(correct: float, predicted: float, labelled: float) -> dict[str, float]:
    """Precision, recall and F1 from counts; 0 where they would be 0 / 0, as in scikit-learn and seqeval."""
    return {
        "precision": correct / max(predicted, 1),
        "recall": correct / max(labelled, 1),
        "f1": 2 * correct / max(predicted + labelled, 1),
        "support": int(labelled),
    }


def counts_breakdown(counts_3C: torch.Tensor, names: Sequence[str], kind: str) -> Breakdown:
    """From how often each was predicted rightly, predicted, and the label.

    Args:
        counts_3C: those counts.
        names: of the classes, tags or types.
        kind: which of these they are.
    """
    rows = counts_3C.T.tolist()
    return Breakdown(kind, {name: scores(*row) for name, row in zip(names, rows, strict=True)})


def tag_breakdown(results_SW: torch.Tensor, tags: Sequence[str]) -> Breakdown:
    """From the counts of `metrics.tag_counts`."""
    return counts_breakdown(results_SW.sum(0).view(3, -1), tags, "tag")


def entity_breakdown(results_SW: torch.Tensor, types: Sequence[str]) -> Breakdown:
    """From the counts of `entity_f1.entity_counts`."""
    return counts_breakdown(results_SW.sum(0)[2:].view(3, -1), [name or "entity" for name in types], "entity type")


def class_breakdown(results_S2: torch.Tensor, labels: Sequence[str]) -> Breakdown:
    """From each sample's predicted and true class."""
    classes = len(labels)
    preds_S, labels_S = results_S2.long().unbind(1)
    pairs, counts = (labels_S * classes + preds_S).unique(return_counts=True)
    correct_C = torch.bincount(labels_S[preds_S == labels_S], minlength=classes)
    counts_3C = torch.stack([correct_C, *(torch.bincount(of_S, minlength=classes) for of_S in (preds_S, labels_S))])
    confusion = torch.stack([pairs // classes, pairs % classes, counts], 1).tolist()
    breakdown = counts_breakdown(counts_3C, labels, "class")
    return Breakdown("class", breakdown.per_class, [(label, pred, count) for label, pred, count in confusion])


def class_outcome(result: Sequence[float], labels: Sequence[str]) -> dict[str, str | float]:
    """The names of a sample's true and predicted class."""
    return {"label": labels[int(result[1])], "prediction": labels[int(result[0])]}


def number_breakdown(results_S2: torch.Tensor) -> Breakdown:
    """From each sample's predicted and true number."""
    spaced_S2 = results_S2[:: -(-len(results_S2) // _PAIRS)]
    return Breakdown("number", pairs=[(label, pred) for pred, label in spaced_S2.tolist()])


def number_outcome(result: Sequence[float]) -> dict[str, str | float]:
    """A sample's true and predicted number, with six digits."""
    return {"label": float(f"{result[1]:.6g}"), "prediction": float(f"{result[0]:.6g}")}
