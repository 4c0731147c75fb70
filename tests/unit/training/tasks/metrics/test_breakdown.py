"""Scores of each class, tag and entity type against scikit-learn and seqeval."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from seqeval.metrics import classification_report as entity_report
from sklearn.metrics import classification_report, confusion_matrix

from warmup.training.data.batching.micro_batch import Targets
from warmup.training.tasks.metrics import breakdown, entity_f1, tag_counts

NAMES = ("no", "<b>", "a|b", "never")


def expected(report: dict, names: tuple[str, ...]) -> dict:
    """A report of either library, with the names that ours has."""
    keys = {"precision": "precision", "recall": "recall", "f1": "f1-score", "support": "support"}
    return {
        name: pytest.approx({key: float(report[name][theirs]) for key, theirs in keys.items()}, rel=1e-12)
        for name in names
    }


def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(labels, predictions) of four classes; the last is never a label, and is predicted."""
    random = np.random.default_rng(3)
    return random.integers(0, 3, count), random.integers(0, 4, count)


def reference(labels: np.ndarray, preds: np.ndarray) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about scores that are 0 / 0
        return classification_report(labels, preds, labels=range(4), target_names=NAMES, output_dict=True)


def test_classes() -> None:
    labels, preds = draw(200)
    found = breakdown.class_breakdown(torch.tensor(np.stack([preds, labels], 1)).double(), NAMES)
    assert found.kind == "class" and found.per_class == expected(reference(labels, preds), NAMES)
    matrix = np.zeros((4, 4), int)
    for label, pred, count in found.confusion:
        matrix[label, pred] = count
    assert matrix.tolist() == confusion_matrix(labels, preds, labels=range(4)).tolist()
    assert all(count for _, _, count in found.confusion)
    assert breakdown.class_outcome([1.0, 2.0], NAMES) == {"label": "a|b", "prediction": "<b>"}


def test_tags() -> None:
    labels, preds = draw(90)
    targets = Targets(torch.tensor(labels), torch.arange(90) // 3, 30)
    results = tag_counts(torch.nn.functional.one_hot(torch.tensor(preds), 4).double(), targets)
    found = breakdown.tag_breakdown(results, NAMES)
    assert found.kind == "tag" and found.per_class == expected(reference(labels, preds), NAMES)


def test_entity_types() -> None:
    tags = ("O", "B-PER", "I-PER", "B-<i>", "I-<i>")
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, (40, 12))
    preds = np.where(random.random(labels.shape) < 0.8, labels, random.integers(0, 5, labels.shape))
    targets = Targets(torch.tensor(labels).flatten(), torch.arange(40).repeat_interleave(12), 40)
    logits = torch.nn.functional.one_hot(torch.tensor(preds).flatten(), 5).double()
    scheme = entity_f1.parse_scheme(tags)
    assert scheme is not None and scheme.types == ("<i>", "PER")
    found = breakdown.entity_breakdown(entity_f1.entity_counts(logits, targets, scheme), scheme.types)
    named = [[[tags[index] for index in row] for row in rows.tolist()] for rows in (labels, preds)]
    report = entity_report(*named, output_dict=True)
    assert found.kind == "entity type" and found.per_class == expected(report, scheme.types)


def test_entities_without_a_type_have_a_name() -> None:
    assert list(breakdown.entity_breakdown(torch.ones(1, 5), ("",)).per_class) == ["entity"]


def test_numbers_are_thinned_out() -> None:
    results = torch.arange(5000.0).double().view(2500, 2)  # each row (prediction, label)
    found = breakdown.number_breakdown(results)
    assert len(found.pairs) == 834 and found.pairs[:2] == [(1.0, 0.0), (7.0, 6.0)]
    assert not found.per_class and breakdown.number_outcome([1 / 3, 2.0]) == {"label": 2.0, "prediction": 0.333333}
