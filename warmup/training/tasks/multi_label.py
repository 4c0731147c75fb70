"""Multi-label classification: any number of labels, none included, for a text or for a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from warmup.config import Config
from warmup.config.recipe import BALANCED, Recipe
from warmup.config.tasks import TASKS
from warmup.training.data.batching.micro_batch import Targets
from warmup.training.data.readers.columns import LABEL_NAMES, STRING, Column, RowFormat, pair_column, text_column
from warmup.training.data.readers.text import read_names
from warmup.training.data.readers.values import is_blank, parse_class, parse_list
from warmup.training.data.samples import Samples
from warmup.training.data.tokenizers.windows import TokenizeBatch
from warmup.training.models.input_layout import Head
from warmup.training.tasks import text_pairs
from warmup.training.tasks.labels import find_classes
from warmup.training.tasks.losses import class_counts, class_weights
from warmup.training.tasks.metrics import sum_by_sample
from warmup.training.tasks.metrics.breakdown import Breakdown, counts_breakdown
from warmup.training.tasks.task import Loss, Objective, Predictor, Task

_USUAL = 0.5
"""The probability from which a label counts as predicted, unless thresholds are tuned."""
(THRESHOLDS,) = TASKS["multi-label"].model_settings
"""That probability, by label."""


class MultiLabel(Task):
    """Predicts the probability of each label by itself."""

    facts = TASKS["multi-label"]
    auto_class: Any = AutoModelForSequenceClassification
    head: Head = "sequence"
    features: Mapping[str, Any] = {**text_pairs.LABELLED_FEATURES, "label": datasets.List(datasets.Value("int32"))}

    def __init__(self, config: Config):
        self._data, self._recipe, self._tuned = config.data, config.recipe, config.evaluation.thresholds == "tuned"
        label = Column("label", LABEL_NAMES, self._parse, datasets.List(STRING), parse_several=self._parse_columns)
        self.row_format = RowFormat.of(config.data, text_column(), pair_column(), label)

    def _parse(self, value: Any, what: str) -> list[str]:
        file = self._data.label_names
        return parse_labels(value, what, self._data.label_separator, read_names(file) if file else ())

    def _parse_columns(self, values: Mapping[str, Any]) -> list[str]:
        """Labels as data.label_columns spells them; a file's columns may differ in case."""
        return parse_indicators(dict(zip(self._data.label_columns, values.values(), strict=True)))

    def find_labels(self, train: datasets.Dataset, validation: datasets.Dataset) -> list[str]:
        text_pairs.check_pairs(train, validation)
        if self._data.label_columns:
            return list(self._data.label_columns)
        if self._data.label_names:
            return list(read_names(self._data.label_names))
        return find_classes(train, validation, least=1)

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> TokenizeBatch:
        index = {label: number for number, label in enumerate(labels)}
        return text_pairs.tokenize_labelled(
            tokenizer, self._data.max_length, lambda of_row: [index[label] for label in of_row]
        )

    def objective(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], train: Any) -> Objective:
        def thresholds(results_SW: torch.Tensor) -> torch.Tensor:
            return tune_thresholds(results_SW) if self._tuned else torch.full((len(labels),), _USUAL)

        def settings(results_SW: torch.Tensor) -> dict[str, Any]:
            tuned = dict(zip(labels, thresholds(results_SW).tolist(), strict=True))
            return {THRESHOLDS: tuned} if self._tuned else {}

        return Objective(
            collate=text_pairs.collate_labelled(tokenizer, partial(multi_hot, classes=len(labels))),
            losses=binary_cross_entropy,
            training_loss_sum=multi_label_loss(self._recipe, labels, train),
            results=logits_and_labels,
            width=2 * len(labels),
            metrics=lambda loss_sum, results_SW: label_metrics(loss_sum, results_SW, thresholds(results_SW)),
            breakdown=lambda results_SW: label_breakdown(results_SW, thresholds(results_SW), labels),
            model_settings=settings,
            outcome=partial(label_outcome, labels=labels),
        )

    def output_biases(self, labels: Sequence[str], train: Any) -> Sequence[float]:
        """What predicts each label as often as it is there (Lin et al. 2017, arXiv:1708.02002, section 3.3).

        From 0, hundreds of steps first teach that labels are rare, and an encoder can forget what it knows of texts.
        """
        weights = positive_weights(self._recipe.class_weights, labels, train) if self._recipe.class_weights else 1.0
        count, smoothing = len(train), self._recipe.label_smoothing
        there_C = (class_counts(train, "label", len(labels)) * (1 - smoothing) + count * smoothing / 2).clip(0.5)
        return np.log(np.maximum(weights, 1e-3) * there_C / (count - there_C).clip(0.5)).tolist()

    def predictor(
        self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], settings: Mapping[str, Any]
    ) -> Predictor:
        """The labels whose probability is at least their threshold, and the probability of each."""
        found = settings.get(THRESHOLDS)
        thresholds = found if isinstance(found, dict) else {}

        def to_record(values: np.ndarray, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
            scores = text_pairs.class_scores(labels, values[0])
            predicted = [
                label for label, value in zip(labels, values[0], strict=True) if value >= thresholds.get(label, _USUAL)
            ]
            return {"labels": predicted, "scores": scores}

        return text_pairs.predictor(
            self.row_format,
            tokenizer,
            self._data.max_length,
            width=len(labels),
            postprocess=lambda logits_nC: logits_nC.sigmoid(),
            to_record=to_record,
            csv_columns=("labels",),
        )


def parse_labels(value: Any, what: str, separator: str, names: Sequence[str]) -> list[str]:
    """The labels of a row, each once. Raises ValueError with the reason where one cannot be used.

    Args:
        value: a list, a text with separators, or one number.
        what: its name for messages.
        separator: what parts labels in a text.
        names: all that there are, by their numbers; () if labels are names already.
    """
    if isinstance(value, int | float):
        value = [value]
    parts = parse_list(value, what, lambda text: [] if is_blank(text) else text.split(separator))
    labels = [parse_class(part, f"label {number} of {what}") for number, part in enumerate(parts, 1)]
    return list(dict.fromkeys(_name(label, what, names) for label in labels))


def _name(label: str, what: str, names: Sequence[str]) -> str:
    numbered = names[int(label)] if label.isdecimal() and int(label) < len(names) else label
    if label in names and numbered != label:
        raise ValueError(f"{what} holds {label!r}, which could be a name or a number of data.label_names")
    if not names or label in names:
        return label
    if numbered != label:
        return numbered
    raise ValueError(f"{what} holds {label!r}, which is none of the {len(names)} names of data.label_names")


def parse_indicators(values: Mapping[str, Any]) -> list[str]:
    """The columns that are 1. Raises ValueError where one is neither 0 nor 1."""
    meant = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
    for name, value in values.items():
        if str(value).strip().lower() not in meant:
            raise ValueError(f"{name!r} holds {str(value)[:40]!r}, which is neither 0 nor 1")
    return [name for name, value in values.items() if meant[str(value).strip().lower()]]


def multi_hot(labels_B: np.ndarray, classes: int) -> np.ndarray:
    """Lists of class ids as (B, classes) float32: 1 at those in the list."""
    values_BC = np.zeros((len(labels_B), classes), np.float32)
    for row_C, ids in zip(values_BC, labels_B, strict=True):
        row_C[ids] = 1
    return values_BC


def binary_cross_entropy(
    logits: torch.Tensor, targets: Targets, smoothing: float = 0.0, positive_weights_C: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean over the labels of their binary cross entropies, in nats, of each target, (N,); 0 where it is NaN.

    Args:
        logits: (N, C).
        targets: values (N, C), 1 for labels that are there and 0 for others.
        smoothing: share of each target that is spread evenly over "there" and "not there".
        positive_weights_C: factors of the losses of labels that are there.
    """
    values_NC = targets.values
    smoothed_NC = values_NC.nan_to_num() * (1 - smoothing) + smoothing / 2
    losses_NC = F.binary_cross_entropy_with_logits(
        logits.float(), smoothed_NC, pos_weight=positive_weights_C, reduction="none"
    )
    return torch.where(values_NC.isnan(), 0.0, losses_NC).mean(1)


def multi_label_loss(recipe: Recipe, labels: Sequence[str], samples: Samples) -> Loss:
    """The recipe's loss: `binary_cross_entropy`, smoothed and weighted if it says so, summed over the targets."""
    weights = positive_weights(recipe.class_weights, labels, samples) if recipe.class_weights else None
    weights_on = cache(lambda device: torch.tensor(weights, dtype=torch.float32, device=device) if weights else None)

    def loss_sum(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        return binary_cross_entropy(logits, targets, recipe.label_smoothing, weights_on(logits.device)).sum()

    return loss_sum


def positive_weights(requested: Sequence[str], labels: Sequence[str], samples: Samples) -> list[float]:
    """The weight of each label where it is there, as `recipe.class_weights` requests it: balanced is rows without it /
    rows with it, so that both weigh the same.
    """
    if tuple(requested) != (BALANCED,):
        return class_weights(requested, labels, samples, "label")
    counts_C = class_counts(samples, "label", len(labels))
    return np.where(counts_C > 0, (len(samples) - counts_C).clip(1) / counts_C.clip(1), 1.0).tolist()


def logits_and_labels(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """(samples, 2 * C): the logit of each label, and whether it is there; 0 where there is no target.

    A logit that is no number predicts nothing.
    """
    logits_NC = logits.double().nan_to_num(nan=-1e4)
    both_NW = torch.cat([logits_NC, targets.values.double()], 1)
    return sum_by_sample(both_NW.masked_fill(targets.values.isnan().any(1, keepdim=True), 0), targets)


def probabilities_and_labels(results_SW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and labels, (S, C) each, of what `logits_and_labels` kept. It keeps no probabilities, because their
    last bits depend on how many are computed together.
    """
    logits_SC, labels_SC = results_SW.chunk(2, 1)
    return logits_SC.float().sigmoid().double(), labels_SC  # as predictions compute them


def tune_thresholds(results_SW: torch.Tensor) -> torch.Tensor:
    """For each label, the threshold with the largest F1 on these samples, (C,); 0.5 for a label that none of them has.

    It lies halfway between two probabilities, or halfway to 0 below the smallest. With a threshold of its own for each
    label, macro F1 is the largest that thresholds can give.
    """
    probabilities_SC, labels_SC = probabilities_and_labels(results_SW)
    sorted_SC, order_SC = probabilities_SC.sort(stable=True, dim=0, descending=True)
    next_SC = torch.cat([sorted_SC[1:], torch.zeros_like(sorted_SC[:1])])
    counts_S1 = torch.arange(1, len(results_SW) + 1, device=results_SW.device)[:, None]
    labelled_C = labels_SC.sum(0)
    f1_SC = 2 * labels_SC.gather(0, order_SC).cumsum(0) / (counts_S1 + labelled_C)
    best_C = f1_SC.masked_fill(sorted_SC == next_SC, -1).argmax(0, keepdim=True)
    halfway_C = ((sorted_SC + next_SC) / 2).gather(0, best_C)[0]
    return torch.where(labelled_C > 0, halfway_C, _USUAL)


def label_counts(results_SW: torch.Tensor, thresholds_C: torch.Tensor) -> torch.Tensor:
    """(3, C): how often each label was predicted rightly, predicted, and there."""
    probabilities_SC, labels_SC = probabilities_and_labels(results_SW)
    preds_SC = probabilities_SC >= thresholds_C
    return torch.stack([(preds_SC & (labels_SC == 1)).sum(0), preds_SC.sum(0), labels_SC.sum(0).long()])


def label_metrics(loss_sum: float, results_SW: torch.Tensor, thresholds_C: torch.Tensor) -> dict[str, float]:
    """Micro F1 counts all labels of all samples alike, macro F1 is the mean over the labels (0 for one that is neither
    predicted nor there, as in scikit-learn), subset accuracy the share of samples whose labels are all right.
    """
    probabilities_SC, labels_SC = probabilities_and_labels(results_SW)
    correct_C, predicted_C, labelled_C = label_counts(results_SW, thresholds_C).double()
    f1_C = 2 * correct_C / (predicted_C + labelled_C).clamp_min(1)
    exact_S = ((probabilities_SC >= thresholds_C) == (labels_SC == 1)).all(1)
    return {
        "loss": loss_sum / len(results_SW),
        "micro_f1": float(2 * correct_C.sum() / (predicted_C + labelled_C).sum().clamp_min(1)),
        "macro_f1": float(f1_C.mean()),
        "subset_accuracy": float(exact_S.double().mean()),
        "targets": float(len(results_SW)),
    }


def label_breakdown(results_SW: torch.Tensor, thresholds_C: torch.Tensor, labels: Sequence[str]) -> Breakdown:
    """Precision, recall and F1 of each label."""
    return counts_breakdown(label_counts(results_SW, thresholds_C), labels, "label")


def label_outcome(result: Sequence[float], labels: Sequence[str]) -> dict[str, str | float]:
    """A sample's labels, and those that are likeliest, with their probabilities."""
    probabilities, there = torch.tensor(result[: len(labels)]).sigmoid().tolist(), result[len(labels) :]
    likeliest = sorted(zip(probabilities, labels, strict=True), key=lambda pair: -pair[0])[:3]
    return {
        "label": ", ".join(label for label, is_there in zip(labels, there, strict=True) if is_there) or "none",
        "prediction": ", ".join(f"{label} {probability:.2f}" for probability, label in likeliest),
    }
