"""The training loss: smoothed labels, weighted classes, divided by the number of targets; and nothing else of it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_samples import samples

from warmup.config import Config
from warmup.config.recipe import Recipe
from warmup.errors import UserError
from warmup.training import tasks
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.tasks.losses import balanced, build_objective, class_counts

LABELS = ("negative", "neutral", "a=b")


def prepared(*labels: int) -> SimpleNamespace:
    rows = samples([[2, 9, 3]] * len(labels), first=[3] * len(labels), label=list(labels))
    return SimpleNamespace(tokenizer=None, labels=LABELS, train=rows)


def build(*weights: str, smoothing: float = 0.0, labels: tuple[int, ...] = (0, 1, 2)):
    return build_objective(Recipe(label_smoothing=smoothing, class_weights=weights), prepared(*labels))


def by_definition(logits: np.ndarray, target: int, weights: list[float], smoothing: float) -> float:
    """Cross entropy to the smoothed target, each class's part times its weight (Szegedy et al. 2016, section 7)."""
    log_p = logits - np.log(np.exp(logits).sum())
    smoothed = np.full(len(logits), smoothing / len(logits))
    smoothed[target] += 1 - smoothing
    return float(-(smoothed * np.array(weights) * log_p).sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize(("weights", "numbers"), [
    ((), [1, 1, 1]), (("neutral=0.5", "a=b=3"), [1, 0.5, 3]), (("negative=0",), [0, 1, 1]),
    (("balanced",), [6 / 9, 6 / 6, 6 / 3]),
])  # fmt: skip
def test_against_the_definition_and_torch(weights: tuple[str, ...], numbers: list[float], smoothing: float) -> None:
    random = np.random.default_rng(3)
    logits, targets = torch.from_numpy(random.normal(size=(4, 5, 3))), torch.from_numpy(random.integers(0, 3, (4, 5)))
    targets[1:3, 2] = IGNORE_INDEX
    loss = build(*weights, smoothing=smoothing, labels=(0, 1, 0, 2, 0, 1))
    if not weights and not smoothing:
        assert loss is None
        loss = tasks.loss_sum
    asked = targets != IGNORE_INDEX
    pairs = zip(logits[asked].numpy(), targets[asked].tolist(), strict=True)
    wanted = sum(by_definition(row, target, numbers, smoothing) for row, target in pairs)
    assert float(loss(logits, targets)) == pytest.approx(wanted, rel=1e-6)
    theirs = F.cross_entropy(
        logits[asked], targets[asked], weight=torch.tensor(numbers).double(), label_smoothing=smoothing, reduction="sum"
    )
    assert float(loss(logits, targets)) == pytest.approx(float(theirs), rel=1e-6)
    assert loss(logits.bfloat16(), targets).dtype == torch.float32


def test_by_hand() -> None:
    """Probabilities of 1/2, 1/4 and 1/4, and the second class with a weight of 4: 4 ln 4; smoothed by 0.3 its part of
    it is 0.8, and 0.1 are of each other one.
    """
    logits, targets = torch.tensor([[math.log(2), 0.0, 0.0]]), torch.tensor([1])
    assert float(build("neutral=4")(logits, targets)) == pytest.approx(4 * math.log(4), rel=1e-6)
    wanted = 0.8 * 4 * math.log(4) + 0.1 * math.log(2) + 0.1 * math.log(4)
    assert float(build("neutral=4", smoothing=0.3)(logits, targets)) == pytest.approx(wanted, rel=1e-6)


def test_balanced_weights_are_1_in_the_mean() -> None:
    """n / (classes * n_c), as scikit-learn's compute_class_weight has it."""
    counts = np.array([5, 2, 13, 1])
    weights = balanced(counts)
    assert weights == pytest.approx([21 / 4 / count for count in counts])
    assert (counts * weights).sum() == pytest.approx(counts.sum())
    assert balanced(np.array([6, 0, 2])) == pytest.approx([8 / 12, 1.0, 8 / 4])  # none to learn from


def test_counts_of_texts_and_of_words() -> None:
    assert class_counts(prepared(0, 2, 2, 0, 2).train, 3).tolist() == [2, 0, 3]
    words = samples([[2, 9, 3]] * 3, label=[[IGNORE_INDEX, 1, IGNORE_INDEX], [0, 1, IGNORE_INDEX], [IGNORE_INDEX] * 3])
    assert class_counts(words, 3).tolist() == [1, 2, 0]


def test_the_held_out_loss_knows_nothing_of_it(tokenizer) -> None:
    recipe = Recipe(label_smoothing=0.1, class_weights=("neutral=3",))
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    for task in ("classification", "token-classification"):
        data = prepared(0, 1, 2)
        data.tokenizer = tokenizer
        built = tasks.build_task(Config(task=task, recipe=recipe), data)
        plain = F.cross_entropy(logits, targets, reduction="sum")
        assert float(built.loss_sum(logits, targets)) == pytest.approx(float(plain), rel=1e-6)
        assert float(built.training_loss(logits, targets)) > 1.2 * float(plain)


def test_a_class_that_there_is_not() -> None:
    with pytest.raises(
        UserError, match="^recipe.class_weights: no class 'positive' in the training data .there are neg"
    ):
        build("positive=2")
    with pytest.raises(UserError, match="^recipe.class_weights: no class has a weight above 0"):
        build("negative=0", "neutral=0", "a=b=0")


@pytest.mark.parametrize("weights", [("positive",), ("=2",), ("a=-1",), ("a=inf",), ("a=nan",), ("balanced", "a=2")])
def test_weights_that_are_none(weights: tuple[str, ...]) -> None:
    with pytest.raises(
        ValueError, match="^recipe.class_weights: .* is not a class and a number .positive=2., nor balanced"
    ):
        Recipe(class_weights=weights)


def test_where_there_are_no_classes() -> None:
    for smoothing in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="^recipe.label_smoothing: .* is not in 0 <= x < 1"):
            Recipe(label_smoothing=smoothing)
    for task in ("mlm", "regression"):
        for recipe in (Recipe(label_smoothing=0.1), Recipe(class_weights=("balanced",))):
            with pytest.raises(ValueError, match=rf"^recipe\.\w+: task: {task} has no classes; leave it out"):
                Config(task=task, recipe=recipe)
