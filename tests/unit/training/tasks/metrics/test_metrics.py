"""Metrics: against formulas written here, and where those of a library go wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from warmup.config import Config
from warmup.config.run import Evaluation
from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.tasks.metrics import (
    class_metrics,
    entity_metrics,
    language_metrics,
    regression_metrics,
    tag_metrics,
)
from warmup.training.tasks.metrics.answers import answer_metrics
from warmup.training.tasks.multi_label import label_metrics
from warmup.training.tasks.multiple_choice import choice_metrics


def table(preds: object, labels: object) -> torch.Tensor:
    return torch.tensor(np.stack([preds, labels], 1), dtype=torch.float64)


def test_the_names_are_known_before_there_is_a_value() -> None:
    """evaluation.metric can be each metric of the task but the number of targets, and nothing else."""
    computed = {
        "mlm": language_metrics(1.0, torch.ones(1, 2)),
        "clm": language_metrics(1.0, torch.ones(1, 2)),
        "classification": class_metrics(1.0, table([0, 1, 1], [0, 1, 0]), 2),
        "multi-label": label_metrics(1.0, torch.ones(1, 6), torch.full((3,), 0.5)),
        "regression": regression_metrics(1.0, table([0.5, 1.0], [0.0, 1.0])),
        "token-classification": tag_metrics(1.0, torch.ones(1, 6)),
        "multiple-choice": choice_metrics(1.0, torch.ones(1, 2)),
        "question-answering": answer_metrics(1.0, torch.tensor([[-1.0, 1, 1, 0, 1]]).double()),
    }
    names = {task: tuple(name for name in metrics if name != "targets") for task, metrics in computed.items()}
    assert names == {task: facts.metrics for task, facts in TASKS.items()}
    assert entity_metrics(1.0, torch.ones(1, 5)).keys() >= set(TASKS["token-classification"].metrics)
    for task, metrics in computed.items():
        for name in metrics:
            if name == "targets":
                with pytest.raises(UserError, match="^evaluation.metric: 'targets' is none of those of "):
                    Config(task=task, evaluation=Evaluation(metric=name))
            else:
                assert Config(task=task, evaluation=Evaluation(metric=name)).evaluation.metric == name
    with pytest.raises(UserError, match=f"^task: 'other' is not one of {', '.join(computed)}$"):
        Config(task="other")


def test_language() -> None:
    metrics = language_metrics(20.0, torch.tensor([[1.0, 4.0], [2.0, 6.0]]))
    assert metrics == {"loss": 2.0, "perplexity": pytest.approx(7.38905609893065), "accuracy": 0.3, "targets": 10.0}
    nothing = language_metrics(0.0, torch.zeros(1, 2))
    assert nothing == {"loss": 0.0, "perplexity": 1.0, "accuracy": 0.0, "targets": 0.0}
    assert math.isfinite(language_metrics(1e6, torch.tensor([[0.0, 1.0]]))["perplexity"])  # which JSON can hold


def test_two_classes_by_hand() -> None:
    """3 right positives, 1 wrong one, 2 missed, 4 right negatives."""
    metrics = class_metrics(6.0, table([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]), 2)
    assert metrics == {
        "loss": 0.6,
        "accuracy": 0.7,
        "f1": pytest.approx(2 * 3 / (2 * 3 + 1 + 2)),  # of the second class; that of the first is 8/11
        "matthews": pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6)),
        "targets": 10.0,
    }


@pytest.mark.parametrize(("classes", "count"), [(2, 50), (3, 500), (7, 100_000)])
def test_random_classes_against_numpy(classes: int, count: int) -> None:
    random = np.random.default_rng(classes)
    labels = random.choice(classes, count, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    preds = np.where(random.random(count) < 0.6, labels, random.integers(0, classes, count))
    f1 = [
        2 * ((preds == one) & (labels == one)).sum() / ((preds == one).sum() + (labels == one).sum())
        for one in range(classes)
    ]
    # Gorodkin 2004: the correlation of the one-hot tables.
    one_hot_preds, one_hot_labels = np.eye(classes)[preds], np.eye(classes)[labels]
    x, y = one_hot_preds - one_hot_preds.mean(0), one_hot_labels - one_hot_labels.mean(0)
    matthews = (x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum())
    metrics = class_metrics(1.0, table(preds, labels), classes)
    assert metrics["accuracy"] == (preds == labels).mean()
    assert metrics["f1"] == pytest.approx(f1[1] if classes == 2 else np.mean(f1), rel=1e-6)
    assert metrics["matthews"] == pytest.approx(matthews, rel=1e-5)


@pytest.mark.parametrize("preds", [0, 1])
def test_one_class_for_all_goes_with_nothing(preds: int) -> None:
    """torchmetrics alone gives a Matthews correlation of 0.087 here."""
    labels = np.arange(100) < 30
    metrics = class_metrics(1.0, table(np.full(100, preds), labels), 2)
    assert metrics["matthews"] == 0.0 and metrics["accuracy"] == (0.3 if preds else 0.7)
    assert metrics["f1"] == pytest.approx(60 / 130 if preds else 0.0)


def ranks(values: np.ndarray) -> np.ndarray:
    """As many as are smaller, and half of those that are equal."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2


@pytest.mark.parametrize("count", [3, 100, 200_000])
def test_random_numbers_against_numpy(count: int) -> None:
    """With ties. torchmetrics' own Spearman correlation of the last is -0.07, of 0.83."""
    random = np.random.default_rng(count)
    labels = random.integers(1, 6, count).astype(float)
    preds = labels + random.normal(size=count)
    preds[1] = preds[0]
    metrics = regression_metrics(2.0 * count, table(preds, labels))
    assert metrics == {
        "loss": 2.0,
        "mse": pytest.approx(((preds - labels) ** 2).mean()),
        "pearson": pytest.approx(np.corrcoef(preds, labels)[0, 1], abs=1e-9),
        "spearman": pytest.approx(np.corrcoef(ranks(preds), ranks(labels))[0, 1], abs=1e-9),
        "targets": float(count),
    }


@pytest.mark.parametrize(
    ("preds", "labels"), [([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]), ([1.0, 2.0], [5.0, 5.0]), ([1.0], [3.0])]
)
def test_a_constant_goes_with_nothing(preds: list[float], labels: list[float]) -> None:
    metrics = regression_metrics(1.0, table(np.array(preds), np.array(labels)))
    assert (metrics["pearson"], metrics["spearman"]) == (0.0, 0.0)  # not NaN, which JSON cannot hold
    assert metrics["mse"] == np.mean((np.array(preds) - labels) ** 2)
