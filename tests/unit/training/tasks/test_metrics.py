"""Scores: against formulas of their own, and where a library's go wrong."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from warmup.config import Config
from warmup.training.tasks.metrics import (
    METRICS,
    class_metrics,
    entity_metrics,
    language_metrics,
    regression_metrics,
    tag_metrics,
)


def table(found: object, wanted: object) -> torch.Tensor:
    return torch.tensor(np.stack([found, wanted], 1), dtype=torch.float64)


def test_the_names_are_known_before_there_is_a_number() -> None:
    """What may be asked for as evaluation.metric is what comes of each task, but the number of targets."""
    found = {
        "mlm": language_metrics(1.0, torch.ones(1, 2)),
        "clm": language_metrics(1.0, torch.ones(1, 2)),
        "classification": class_metrics(1.0, table([0, 1, 1], [0, 1, 0]), 2),
        "token-classification": tag_metrics(1.0, torch.ones(1, 6)),
        "regression": regression_metrics(1.0, table([0.5, 1.0], [0.0, 1.0])),
    }
    wanted = {task: tuple(name for name in metrics if name != "targets") for task, metrics in found.items()}
    assert wanted == METRICS
    assert entity_metrics(1.0, torch.ones(1, 5)).keys() >= set(METRICS["token-classification"])
    assert METRICS.keys() == set(get_args(get_type_hints(Config)["task"]))


def test_language() -> None:
    found = language_metrics(20.0, torch.tensor([[1.0, 4.0], [2.0, 6.0]]))
    assert found == {"loss": 2.0, "perplexity": pytest.approx(7.38905609893065), "accuracy": 0.3, "targets": 10.0}
    nothing = language_metrics(0.0, torch.zeros(1, 2))
    assert nothing == {"loss": 0.0, "perplexity": 1.0, "accuracy": 0.0, "targets": 0.0}
    assert math.isfinite(language_metrics(1e6, torch.tensor([[0.0, 1.0]]))["perplexity"])  # which JSON can hold


def test_two_classes_by_hand() -> None:
    """3 right positives, 1 wrong one, 2 missed, 4 right negatives."""
    found = class_metrics(6.0, table([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]), 2)
    assert found == {
        "loss": 0.6,
        "accuracy": 0.7,
        "f1": pytest.approx(2 * 3 / (2 * 3 + 1 + 2)),  # of the second class; that of the first is 8/11
        "matthews": pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6)),
        "targets": 10.0,
    }


@pytest.mark.parametrize(("classes", "count"), [(2, 50), (3, 500), (7, 100_000)])
def test_random_classes_against_numpy(classes: int, count: int) -> None:
    random = np.random.default_rng(classes)
    wanted = random.choice(classes, count, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    found = np.where(random.random(count) < 0.6, wanted, random.integers(0, classes, count))
    f1 = [
        2 * ((found == one) & (wanted == one)).sum() / ((found == one).sum() + (wanted == one).sum())
        for one in range(classes)
    ]
    # Gorodkin 2004: the correlation of the one-hot tables.
    one_hot_found, one_hot_wanted = np.eye(classes)[found], np.eye(classes)[wanted]
    x, y = one_hot_found - one_hot_found.mean(0), one_hot_wanted - one_hot_wanted.mean(0)
    matthews = (x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum())
    metrics = class_metrics(1.0, table(found, wanted), classes)
    assert metrics["accuracy"] == (found == wanted).mean()
    assert metrics["f1"] == pytest.approx(f1[1] if classes == 2 else np.mean(f1), rel=1e-6)
    assert metrics["matthews"] == pytest.approx(matthews, rel=1e-5)


@pytest.mark.parametrize("found", [0, 1])
def test_one_class_for_all_goes_with_nothing(found: int) -> None:
    """torchmetrics alone gives a Matthews correlation of 0.087 here."""
    wanted = np.arange(100) < 30
    metrics = class_metrics(1.0, table(np.full(100, found), wanted), 2)
    assert metrics["matthews"] == 0.0 and metrics["accuracy"] == (0.3 if found else 0.7)
    assert metrics["f1"] == pytest.approx(60 / 130 if found else 0.0)


def ranks(values: np.ndarray) -> np.ndarray:
    """As many as are smaller, and half of those that are equal."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2


@pytest.mark.parametrize("count", [3, 100, 200_000])
def test_random_numbers_against_numpy(count: int) -> None:
    """With ties. torchmetrics' own Spearman correlation of the last is -0.07, of 0.83."""
    random = np.random.default_rng(count)
    wanted = random.integers(1, 6, count).astype(float)
    found = wanted + random.normal(size=count)
    found[1] = found[0]
    metrics = regression_metrics(2.0 * count, table(found, wanted))
    assert metrics == {
        "loss": 2.0,
        "mse": pytest.approx(((found - wanted) ** 2).mean()),
        "pearson": pytest.approx(np.corrcoef(found, wanted)[0, 1], abs=1e-9),
        "spearman": pytest.approx(np.corrcoef(ranks(found), ranks(wanted))[0, 1], abs=1e-9),
        "targets": float(count),
    }


@pytest.mark.parametrize(
    ("found", "wanted"), [([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]), ([1.0, 2.0], [5.0, 5.0]), ([1.0], [3.0])]
)
def test_a_constant_goes_with_nothing(found: list[float], wanted: list[float]) -> None:
    metrics = regression_metrics(1.0, table(np.array(found), np.array(wanted)))
    assert (metrics["pearson"], metrics["spearman"]) == (0.0, 0.0)  # and not NaN, for which JSON has no word
    assert metrics["mse"] == np.mean((np.array(found) - wanted) ** 2)
