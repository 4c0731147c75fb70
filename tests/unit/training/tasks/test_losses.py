"""Losses: smoothed labels and weighted classes in training alone, and one softmax over the positions of a sample."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_samples import (
    TOKEN_LAYOUTS,
    objective,
    samples,
    targets_by_row,
    targets_of,
    token_ids_of_logits,
)

from warmup.config import Config
from warmup.config.recipe import Recipe
from warmup.errors import UserError
from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import Targets, padded_inputs, token_targets, zero_weight
from warmup.training.data.samples import IGNORE_INDEX, Samples
from warmup.training.tasks.losses import (
    balanced_weights,
    class_counts,
    classification_loss,
    cross_entropy_sum,
    group_cross_entropy_sum,
)
from warmup.training.tasks.metrics import correct_and_total
from warmup.training.tasks.task import Loss

LABELS = ("negative", "neutral", "a=b")


def labelled(*labels: int) -> Samples:
    return samples([[2, 9, 3]] * len(labels), second_start=[3] * len(labels), label=list(labels))


def build(*weights: str, smoothing: float = 0.0, labels: tuple[int, ...] = (0, 1, 2)) -> Loss:
    return classification_loss(
        Recipe(label_smoothing=smoothing, class_weights=weights), LABELS, labelled(*labels), "label"
    )


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
    logits, values = torch.from_numpy(random.normal(size=(4, 5, 3))), torch.from_numpy(random.integers(0, 3, (4, 5)))
    values[1:3, 2] = IGNORE_INDEX
    loss = build(*weights, smoothing=smoothing, labels=(0, 1, 0, 2, 0, 1))
    assert (loss is cross_entropy_sum) == (not weights and not smoothing)
    targets, counted = targets_by_row(values), values != IGNORE_INDEX
    pairs = zip(logits[counted].numpy(), values[counted].tolist(), strict=True)
    expected = sum(by_definition(row, target, numbers, smoothing) for row, target in pairs)
    assert float(loss(logits, targets)) == pytest.approx(expected, rel=1e-6)
    theirs = F.cross_entropy(
        logits[counted],
        values[counted],
        weight=torch.tensor(numbers).double(),
        label_smoothing=smoothing,
        reduction="sum",
    )
    assert float(loss(logits, targets)) == pytest.approx(float(theirs), rel=1e-6)
    assert loss(logits.bfloat16(), targets).dtype == torch.float32


def test_by_hand() -> None:
    """Probabilities of 1/2, 1/4 and 1/4, and the second class with a weight of 4: 4 ln 4; smoothed by 0.3 its part of
    it is 0.8, and 0.1 are of each other one.
    """
    logits, targets = torch.tensor([[math.log(2), 0.0, 0.0]]), targets_by_row(torch.tensor([1]))
    assert float(build("neutral=4")(logits, targets)) == pytest.approx(4 * math.log(4), rel=1e-6)
    expected = 0.8 * 4 * math.log(4) + 0.1 * math.log(2) + 0.1 * math.log(4)
    assert float(build("neutral=4", smoothing=0.3)(logits, targets)) == pytest.approx(expected, rel=1e-6)


def test_balanced_weights_are_1_in_the_mean() -> None:
    """n / (classes * n_c), as scikit-learn's compute_class_weight has it."""
    counts = np.array([5, 2, 13, 1])
    weights = balanced_weights(counts)
    assert weights == pytest.approx([21 / 4 / count for count in counts])
    assert (counts * weights).sum() == pytest.approx(counts.sum())
    assert balanced_weights(np.array([6, 0, 2])) == pytest.approx([8 / 12, 1.0, 8 / 4])  # no target to learn from


def test_counts_of_texts_and_of_words() -> None:
    assert class_counts(labelled(0, 2, 2, 0, 2), "label", 3).tolist() == [2, 0, 3]
    token_labels = [[IGNORE_INDEX, 1, IGNORE_INDEX], [0, 1, IGNORE_INDEX], [IGNORE_INDEX] * 3]
    assert class_counts(samples([[2, 9, 3]] * 3, token_labels=token_labels), "token_labels", 3).tolist() == [1, 2, 0]


def test_the_held_out_loss_has_no_weights_and_no_smoothing(tokenizer) -> None:
    recipe = Recipe(label_smoothing=0.1, class_weights=("neutral=3",))
    logits, values = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    for task in ("classification", "token-classification"):
        built = objective(task, tokenizer, LABELS, labelled(0, 1, 2), recipe)
        expected = F.cross_entropy(logits, values, reduction="sum")
        assert float(built.losses(logits, targets_by_row(values)).sum()) == pytest.approx(float(expected), rel=1e-6)
        assert float(built.training_loss_sum(logits, targets_by_row(values))) > 1.2 * float(expected)


def test_balanced_weights_of_a_task_are_of_its_own_column(tokenizer) -> None:
    """Of texts 1:1:2; of words 3:1:1."""
    recipe = Recipe(class_weights=("balanced",))
    token_labels = [[IGNORE_INDEX, 0, IGNORE_INDEX], [IGNORE_INDEX, 0, 1], [0, 2, IGNORE_INDEX]]
    words = samples([[2, 9, 3]] * 3, token_labels=token_labels)
    logits, values = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    cases = {"classification": (labelled(0, 1, 2, 2), [4 / 3, 4 / 3, 4 / 6])}
    cases["token-classification"] = words, [5 / 9, 5 / 3, 5 / 3]
    for task, (train, weights) in cases.items():
        built = objective(task, tokenizer, LABELS, train, recipe)
        expected = F.cross_entropy(logits, values, weight=torch.tensor(weights), reduction="sum")
        assert float(built.training_loss_sum(logits, targets_by_row(values))) == pytest.approx(
            float(expected), rel=1e-6
        )


def test_a_weight_for_an_unknown_class() -> None:
    with pytest.raises(
        UserError, match="^recipe.class_weights: no class 'positive' in the training data .there are neg"
    ):
        build("positive=2")
    with pytest.raises(UserError, match="^recipe.class_weights: no class has a weight above 0"):
        build("negative=0", "neutral=0", "a=b=0")


@pytest.mark.parametrize("weights", [("positive",), ("=2",), ("a=-1",), ("a=inf",), ("a=nan",), ("balanced", "a=2")])
def test_weights_that_cannot_be_read(weights: tuple[str, ...]) -> None:
    with pytest.raises(
        ValueError, match="^recipe.class_weights: .* is not a class and a number .positive=2., or balanced"
    ):
        Recipe(class_weights=weights)


def test_tasks_without_classes() -> None:
    for smoothing in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="^recipe.label_smoothing: .* is not in 0 <= x < 1"):
            Recipe(label_smoothing=smoothing)
    for task in ("mlm", "clm", "regression"):
        for recipe in (Recipe(label_smoothing=0.1), Recipe(class_weights=("balanced",))):
            message = (
                r"^recipe\.\w+: is for the tasks classification, multi-label and token-classification, not for "
                + f"{task}; leave it out$"
            )
            with pytest.raises(UserError, match=message):
                Config(task=task, recipe=recipe)


def test_the_loss_is_the_sum_of_nats() -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]], [[5.0, -5.0], [0.0, math.log(4)]]])
    values = torch.tensor([[0, 1], [IGNORE_INDEX, 1]])
    targets = targets_by_row(values)
    # ln 2, ln 4 and ln 5/4
    expected = math.log(2) + math.log(4) + math.log(1.25)
    assert float(cross_entropy_sum(logits, targets)) == pytest.approx(expected, rel=1e-6)
    assert correct_and_total(logits, targets).tolist() == [[1, 2], [1, 1]]  # the first of a tie, and the last
    first = targets_by_row(values[:, 0])
    assert float(cross_entropy_sum(logits[:, 0], first)) == pytest.approx(math.log(2), rel=1e-6)
    assert cross_entropy_sum(logits.bfloat16(), targets).dtype == torch.float32
    torch.manual_seed(0)
    logits, values = torch.randn(3, 7, 11), torch.randint(0, 11, (3, 7))
    values[1] = IGNORE_INDEX
    mean = F.cross_entropy(logits[[0, 2]].reshape(14, 11), values[[0, 2]].reshape(14))
    assert float(cross_entropy_sum(logits, targets_by_row(values))) == pytest.approx(14 * float(mean), rel=1e-6)


# One softmax over the positions of a sample


def group_targets(columns: int, seed: int, count: int = 9) -> Targets:
    """Samples with 1 to 12 positions each, all mixed: some positions do not count, one is right for each question. The
    second sample has no right position, and of the last one no position counts.
    """
    random = torch.Generator().manual_seed(seed)
    ids, values = [], []
    for sample in range(count):
        length = int(torch.randint(1, 13, (), generator=random))
        values_nK = torch.zeros(length, columns, dtype=torch.int64)
        values_nK[torch.rand(length, columns, generator=random) < 0.3] = IGNORE_INDEX
        if sample != 1:
            values_nK[torch.randint(length, (columns,), generator=random), torch.arange(columns)] = 1
        if sample == count - 1:
            values_nK[:] = IGNORE_INDEX
        ids.append(torch.full((length,), sample))
        values.append(values_nK)
    mixed_N = torch.randperm(sum(map(len, ids)), generator=random)
    return Targets(torch.cat(values)[mixed_N], torch.cat(ids)[mixed_N], count)


def sample_by_sample(logits_NK: torch.Tensor, targets: Targets) -> torch.Tensor:
    """torch's cross entropy of each question of each sample, over the positions that count."""
    losses = [logits_NK.sum() * 0]
    for sample in range(targets.sample_count):
        for column in range(logits_NK.shape[1]):
            counted_N = (targets.sample_ids_N == sample) & (targets.values[:, column] != IGNORE_INDEX)
            right = (targets.values[counted_N, column] == 1).nonzero().flatten()
            if len(right):
                losses.append(F.cross_entropy(logits_NK[counted_N, column][None], right, reduction="sum"))
    return torch.stack(losses).sum()


def loss_and_gradient(loss: Loss, logits: torch.Tensor, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, targets)
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_a_softmax_over_each_sample_against_torch(seed: int, columns: int, scale: float) -> None:
    targets = group_targets(columns, seed)
    logits = scale * torch.randn(targets.values.shape, generator=torch.Generator().manual_seed(seed))
    value, gradient = loss_and_gradient(group_cross_entropy_sum, logits, targets)
    expected, expected_gradient = loss_and_gradient(sample_by_sample, logits.double(), targets)
    assert float(value) == pytest.approx(float(expected), rel=1e-6) and float(value) > 0
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-6)
    assert not gradient[targets.values == IGNORE_INDEX].any() and not gradient[targets.sample_ids_N == 1].any()
    assert gradient.any()


@pytest.mark.parametrize("columns", [1, 2])
def test_a_softmax_over_extreme_logits(columns: int) -> None:
    """All of +1e4 and -1e4: the right one among the largest, or far below them."""
    for seed in range(20):
        targets = group_targets(columns, seed)
        signs = torch.randint(0, 2, targets.values.shape, generator=torch.Generator().manual_seed(seed))
        logits = 2e4 * signs.float() - 1e4
        value, gradient = loss_and_gradient(group_cross_entropy_sum, logits, targets)
        expected, expected_gradient = loss_and_gradient(sample_by_sample, logits.double(), targets)
        assert value.isfinite() and gradient.isfinite().all()
        assert float(value) == pytest.approx(float(expected), rel=1e-6)
        torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-6)
    for same in (-1e4, 0.0, 1e4):  # all alike: ln n for each sample that has a right position
        targets = Targets(torch.tensor([[1, 0, 0, 1, 0]] * columns).T, torch.tensor([0, 0, 0, 1, 1]), 2)
        value = group_cross_entropy_sum(torch.full((5, columns), same), targets)
        assert float(value) == pytest.approx(columns * (math.log(3) + math.log(2)), rel=1e-6)


def test_a_confident_softmax_keeps_its_small_loss() -> None:
    """Of 256 samples, each of which gives e^-8 to the wrong position of two, at large logits that cancel."""
    logits = torch.tensor([[1000.0], [992.0]]).repeat(256, 1)
    targets = Targets(torch.tensor([1, 0]).repeat(256), torch.arange(256).repeat_interleave(2), 256)
    value, gradient = loss_and_gradient(group_cross_entropy_sum, logits, targets)
    assert float(value) == pytest.approx(256 * math.log1p(math.exp(-8)), rel=1e-4)
    assert gradient.flatten()[:2].tolist() == pytest.approx([-1 / (1 + math.exp(8)), 1 / (1 + math.exp(8))], rel=1e-3)


def test_the_shapes_of_a_softmax_over_each_sample() -> None:
    """A head of sequences gives (N, 1), one of tokens (R, N, K) or (N, 1, K); one question may do without a column."""
    targets = group_targets(1, 3)
    logits_N1 = torch.randn(len(targets.values), 1)
    value = group_cross_entropy_sum(logits_N1, targets)
    assert value.shape == () and value.dtype == torch.float32
    for other in (logits_N1[None], logits_N1[:, None]):
        assert torch.equal(group_cross_entropy_sum(other, targets), value)
    assert torch.equal(group_cross_entropy_sum(logits_N1, targets._replace(values=targets.values.flatten())), value)
    assert group_cross_entropy_sum(logits_N1.bfloat16(), targets).dtype == torch.float32


def test_a_softmax_over_each_sample_on_any_split_into_batches() -> None:
    targets = group_targets(2, 4)
    logits = torch.randn(targets.values.shape)
    whole, gradient = loss_and_gradient(group_cross_entropy_sum, logits, targets)
    total = 0.0
    for sample in range(targets.sample_count):
        own_N = targets.sample_ids_N == sample
        part = Targets(targets.values[own_N], torch.zeros(int(own_N.sum()), dtype=torch.int64), 1)
        value, part_gradient = loss_and_gradient(group_cross_entropy_sum, logits[own_N], part)
        torch.testing.assert_close(part_gradient, gradient[own_N])
        assert sample not in (1, 8) or float(value) == 0.0
        total += float(value)
    assert total == pytest.approx(float(whole), rel=1e-6)


@pytest.mark.parametrize("name", TOKEN_LAYOUTS)
def test_a_softmax_over_each_sample_in_every_layout(name: str, tokenizer) -> None:
    """Two questions, with logits that are a function of the token alone: padding and other samples change nothing."""
    random = np.random.default_rng(5)
    rows = [random.permutation(np.arange(5, 200))[: random.integers(2, 17)] for _ in range(10)]
    ids_BT, mask_BT, _ = samples([row.tolist() for row in rows]).gather(np.arange(10))
    counted_BT = mask_BT & (np.arange(ids_BT.shape[1]) > 0)  # the first token of each is no answer
    right_BT2 = np.zeros((*ids_BT.shape, 2), np.int64)
    for sample, row in enumerate(rows):
        right_BT2[sample, random.integers(1, len(row), 2), [0, 1]] = 1
    batch = token_targets(padded_inputs(ids_BT, mask_BT, tokenizer), counted_BT, right_BT2)
    logits_V2 = torch.from_numpy(random.normal(size=(200, 2))).float()
    expected = sample_by_sample(logits_V2[torch.from_numpy(ids_BT[counted_BT])], targets_of(batch))
    layout = TOKEN_LAYOUTS[name]
    laid_out = lay_out(batch, layout)
    assert laid_out.targets.shape[1:] == (2,) and laid_out.target_count == batch.target_count
    value = group_cross_entropy_sum(logits_V2[token_ids_of_logits(laid_out, layout)], targets_of(laid_out))
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    nothing = targets_of(zero_weight(laid_out))
    assert float(group_cross_entropy_sum(logits_V2[token_ids_of_logits(laid_out, layout)], nothing)) == 0.0
