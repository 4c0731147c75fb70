"""Tasks: what of a sample is the input, what is to be predicted, and how good a prediction is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerBase,
)

from warmup.config import Config
from warmup.training.data.batching.micro_batch import MicroBatch, padded_inputs
from warmup.training.data.prepare import Prepared
from warmup.training.data.samples import IGNORE_INDEX, Samples
from warmup.training.tasks import entity_f1
from warmup.training.tasks.losses import build_objective
from warmup.training.tasks.metrics import (
    class_metrics,
    entity_metrics,
    language_metrics,
    regression_metrics,
    tag_metrics,
)
from warmup.training.tasks.mlm import masker

_EVALUATION = 0xE7A1  # evaluation masks are the same in every run, whatever its seed


@dataclass(frozen=True)
class Task:
    """`collate(samples, indices, epochs, seed)` makes a micro-batch. `loss_sum(logits, targets)` is its loss, summed;
    `objective(logits, targets)` what training minimises, where that is another.

    `results(logits, targets, owners)` (n, width) is what metrics need of one beside the loss: with `per_sample` the
    prediction and the target of each sample (n of them), else counts (n is 1). `metrics(loss_sum, results)` names what
    comes of all of them.
    """

    auto_class: type
    labels: tuple[str, ...]
    collate: Callable[[Samples, np.ndarray, np.ndarray, int], MicroBatch]
    loss_sum: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    per_sample: bool
    results: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
    metrics: Callable[[float, torch.Tensor], dict[str, float]]
    width: int = 2
    objective: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    @property
    def training_loss(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        return self.objective or self.loss_sum


def build_task(config: Config, prepared: Prepared) -> Task:
    """The configuration's task, on this data."""
    tokenizer = prepared.tokenizer
    if config.task == "mlm":
        mask = masker(tokenizer, config.data.mask_rate)
        return Task(AutoModelForMaskedLM, (), mask, loss_sum, False, _right_and_count, language_metrics)
    if config.task == "clm":
        follow = _follower(tokenizer)
        return Task(AutoModelForCausalLM, (), follow, loss_sum, False, _right_and_count, language_metrics)
    kind, labels = AutoModelForSequenceClassification, prepared.labels
    if config.task == "regression":
        collate = _labeller(tokenizer, np.float32)
        return Task(kind, labels, collate, squared_error_sum, True, _numbers, regression_metrics)
    minimised = build_objective(config.recipe, prepared)
    if config.task == "token-classification":
        return _tagging(tokenizer, labels, minimised)
    metrics = partial(class_metrics, classes=len(labels))
    return Task(kind, labels, _labeller(tokenizer, np.int64), loss_sum, True, _classes, metrics, objective=minimised)


def _tagging(tokenizer: PreTrainedTokenizerBase, labels: tuple[str, ...], minimised: Callable | None) -> Task:
    """Scores are of entities where the tags tell of some, else of tags."""
    how = entity_f1.parse_scheme(labels)
    results, metrics, width = _counts_of_tags, tag_metrics, 3 * len(labels)
    if how:
        results, metrics, width = partial(_counts_of_entities, how=how), entity_metrics, 5
    kind = AutoModelForTokenClassification
    return Task(kind, labels, _tagger(tokenizer), loss_sum, False, results, metrics, width, minimised)


def evaluation_batch(task: Task, samples: Samples, indices: np.ndarray) -> MicroBatch:
    """A micro-batch for evaluation: masks depend on the sample alone."""
    return task.collate(samples, indices, np.zeros_like(indices), _EVALUATION)


def loss_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy summed over the targets, in nats. logits: (..., classes), targets: (...)."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")


def squared_error_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Squared error summed over the targets that are asked for. logits: (B, 1), targets: (B,)."""
    errors = logits.flatten().float() - targets.nan_to_num()
    return torch.where(targets.isnan(), 0.0, errors).square().sum()


def correct(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Number of targets whose logit is the largest."""
    return (logits.flatten(0, -2).argmax(-1) == targets.flatten()).sum()  # IGNORED is never the largest


def _right_and_count(logits: torch.Tensor, targets: torch.Tensor, owners: object = None) -> torch.Tensor:
    return torch.stack([correct(logits, targets), (targets != IGNORE_INDEX).sum()])[None]


def _counts_of_entities(
    logits: torch.Tensor, targets: torch.Tensor, owners: torch.Tensor, how: entity_f1.Scheme
) -> torch.Tensor:
    """Right tags, tags; right entities, found ones, true ones."""
    counts = entity_f1.count_entities(logits.flatten(0, -2).argmax(-1), targets.flatten(), owners.flatten(), how)
    return torch.cat([_right_and_count(logits, targets), counts[None]], 1)


def _counts_of_tags(logits: torch.Tensor, targets: torch.Tensor, owners: object = None) -> torch.Tensor:
    """Of each tag: right ones, found ones, true ones."""
    classes, found_N, wanted_N = logits.shape[-1], logits.flatten(0, -2).argmax(-1), targets.flatten()
    asked_N = wanted_N != IGNORE_INDEX

    def count(tags_N: torch.Tensor, counted_N: torch.Tensor) -> torch.Tensor:
        zeros_C = torch.zeros(classes, dtype=torch.float64, device=tags_N.device)
        return zeros_C.index_add(0, tags_N, counted_N.double())  # bincount would have to wait for the device

    right_C, found_C = count(found_N, found_N == wanted_N), count(found_N, asked_N)
    return torch.cat([right_C, found_C, count(wanted_N.clamp(0), asked_N)])[None]


def _classes(logits: torch.Tensor, targets: torch.Tensor, owners: object = None) -> torch.Tensor:
    return torch.stack([logits.argmax(-1), targets], 1)


def _numbers(logits: torch.Tensor, targets: torch.Tensor, owners: object = None) -> torch.Tensor:
    return torch.stack([logits.flatten().float(), targets], 1)


def _labeller(tokenizer: PreTrainedTokenizerBase, kind: type) -> Callable[..., MicroBatch]:
    def collate(samples: Samples, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
        ids_BT, mask_BT, columns = samples.take(indices)
        targets = torch.from_numpy(columns["label"].astype(kind))
        inputs = padded_inputs(ids_BT, mask_BT, tokenizer, columns["first"])
        return MicroBatch(inputs, targets, len(targets), int(mask_BT.sum()))

    return collate


def _follower(tokenizer: PreTrainedTokenizerBase) -> Callable[..., MicroBatch]:
    """Of each token of a sample the one after it is asked for; of the last one nothing."""

    def collate(samples: Samples, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
        ids_BT, mask_BT, _ = samples.take(indices)
        targets_BT = np.full_like(ids_BT, IGNORE_INDEX)
        targets_BT[:, :-1] = np.where(mask_BT[:, 1:], ids_BT[:, 1:], IGNORE_INDEX)
        inputs, count = padded_inputs(ids_BT, mask_BT, tokenizer), int(mask_BT.sum())
        return MicroBatch(inputs, torch.from_numpy(targets_BT), count - len(ids_BT), count)

    return collate


def _tagger(tokenizer: PreTrainedTokenizerBase) -> Callable[..., MicroBatch]:
    def collate(samples: Samples, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
        ids_BT, mask_BT, columns = samples.take(indices)
        targets_BT = torch.from_numpy(np.where(mask_BT, columns["label"], IGNORE_INDEX))
        count = int((targets_BT != IGNORE_INDEX).sum())
        return MicroBatch(padded_inputs(ids_BT, mask_BT, tokenizer), targets_BT, count, int(mask_BT.sum()))

    return collate
