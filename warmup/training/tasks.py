"""Tasks: what of a sample is the input, what is to be predicted, and how good a prediction is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
)

from warmup.training import order, packing, scores
from warmup.training.model import Reading
from warmup.training.outcome import UserError
from warmup.training.tokens import Prepared, Samples

IGNORED = -100
_EVALUATION = 0xE7A1  # evaluation masks are the same in every run, whatever its seed


@dataclass(frozen=True)
class MicroBatch:
    """Samples ready for the model. inputs: tensors (B, T); targets: (B, T) or (B,), IGNORED, or of numbers NaN,
    where nothing is asked.
    (Laid out by `lay_out`, other shapes.)
    """

    inputs: dict[str, torch.Tensor]
    targets: torch.Tensor
    target_count: int
    token_count: int

    @property
    def place_count(self) -> int:
        """Tokens and padding."""
        return self.inputs["input_ids"].numel()


@dataclass(frozen=True)
class Task:
    """`collate(samples, indices, epochs, seed)` makes a micro-batch. `loss_sum(logits, targets)` is its loss, summed.

    `results(logits, targets)` (n, 2) is what metrics need of one beside the loss: with `per_sample` the prediction and
    the target of each sample (n of them), else the number of right targets and of targets (n is 1). `metrics(loss_sum,
    results)` names what comes of all of them.
    """

    auto_class: type
    labels: tuple[str, ...]
    collate: Callable[[Samples, np.ndarray, np.ndarray, int], MicroBatch]
    loss_sum: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    per_sample: bool
    results: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    metrics: Callable[[float, torch.Tensor], dict[str, float]]


def build(name: str, prepared: Prepared, mask_rate: float) -> Task:
    """The task of that name: mlm, classification or regression."""
    tokenizer = prepared.tokenizer
    if name == "mlm":
        mask = _masker(tokenizer, mask_rate)
        return Task(AutoModelForMaskedLM, (), mask, loss_sum, False, _right_and_count, scores.of_language)
    kind, labels = AutoModelForSequenceClassification, prepared.labels
    if name == "regression":
        collate = _labeller(tokenizer, np.float32)
        return Task(kind, labels, collate, squared_error_sum, True, _numbers, scores.of_numbers)
    metrics = partial(scores.of_classes, classes=len(labels))
    return Task(kind, labels, _labeller(tokenizer, np.int64), loss_sum, True, _classes, metrics)


def evaluation_batch(task: Task, samples: Samples, indices: np.ndarray) -> MicroBatch:
    """A micro-batch for evaluation: masks depend on the sample alone."""
    return task.collate(samples, indices, np.zeros_like(indices), _EVALUATION)


def weightless(batch: MicroBatch) -> MicroBatch:
    """The same batch with nothing to predict and nothing counted: what a rank without samples computes."""
    nothing = math.nan if batch.targets.is_floating_point() else IGNORED  # any number may be a target
    return replace(batch, targets=torch.full_like(batch.targets, nothing), target_count=0, token_count=0)


def lay_out(batch: MicroBatch, reading: Reading) -> MicroBatch:
    """The batch as the model is to get it: samples in rows, and where in them something is asked.

    What is found out of the batch is found here, on the host, where no device has to wait for it.
    """
    if reading.rows:
        inputs, targets = _in_rows(batch, reading)
    elif reading.positions and batch.targets.ndim == 2:
        asked = _asked(batch.targets.flatten())
        inputs, targets = {**batch.inputs, "positions": asked}, batch.targets.flatten()[asked]
    else:
        return batch
    return replace(batch, inputs=inputs, targets=targets)


def pinned(batch: MicroBatch) -> MicroBatch:
    """The same batch in memory that a GPU reads by itself."""
    inputs = {name: tensor.pin_memory() for name, tensor in batch.inputs.items()}
    return replace(batch, inputs=inputs, targets=batch.targets.pin_memory())


def on_device(batch: MicroBatch, device: torch.device) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The model's inputs, and the targets of the logits that it will give."""
    inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()}
    if "segments" in inputs:
        inputs["attention_mask"] = packing.block_diagonal(inputs.pop("segments"))
    return inputs, batch.targets.to(device, non_blocking=True)


def _asked(targets: torch.Tensor) -> torch.Tensor:
    """The places that are asked for, at least one."""
    asked = (targets != IGNORED).nonzero().squeeze(1)
    return asked if len(asked) else torch.zeros(1, dtype=torch.int64)


def _in_rows(batch: MicroBatch, reading: Reading) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs and targets in rows. `segments` tells which sample each place is of, where a row is not just one."""
    mask_BT = batch.inputs["attention_mask"].bool()
    lengths_B = mask_BT.sum(1).numpy()
    rows = (packing.arrange if reading.packs else packing.apart)(lengths_B)
    places_N = packing.places(rows, mask_BT)

    def lay(values_BT: torch.Tensor, fill: int) -> torch.Tensor:
        return packing.lay(values_BT, mask_BT, places_N, rows, fill)

    inputs = {name: lay(tensor, 0) for name, tensor in batch.inputs.items()}
    inputs["input_ids"] = lay(batch.inputs["input_ids"], reading.padding)
    if reading.packs:
        del inputs["attention_mask"]
        numbers_B, width = torch.arange(1, len(lengths_B) + 1), mask_BT.shape[1]
        if rows.count < len(lengths_B) or rows.count * rows.width > lengths_B.sum():  # else all in a row see each other
            inputs["segments"] = lay(numbers_B[:, None].expand(-1, width), 0)
        positions = torch.arange(width).expand(len(lengths_B), -1) + reading.first_position
        inputs["position_ids"] = lay(positions, reading.first_position)
    targets = batch.targets
    if targets.ndim == 2:
        targets = lay(targets, IGNORED).flatten()
        if reading.dense:
            return inputs, targets
        asked = _asked(targets)
        targets = targets[asked]
    else:
        asked = torch.from_numpy(rows.row_B * rows.width + rows.start_B)
    inputs["read"], inputs["kept"] = packing.by_row(asked, rows)
    return inputs, targets


def loss_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy summed over the targets, in nats. logits: (..., classes), targets: (...)."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def squared_error_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Squared error summed over the targets that are asked for. logits: (B, 1), targets: (B,)."""
    errors = logits.flatten().float() - targets.nan_to_num()
    return torch.where(targets.isnan(), 0.0, errors).square().sum()


def correct(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Number of targets whose logit is the largest."""
    return (logits.flatten(0, -2).argmax(-1) == targets.flatten()).sum()  # IGNORED is never the largest


def _right_and_count(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.stack([correct(logits, targets), (targets != IGNORED).sum()])[None]


def _classes(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.stack([logits.argmax(-1), targets], 1)


def _numbers(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.stack([logits.flatten().float(), targets], 1)


def _inputs(
    ids_BT: np.ndarray, mask_BT: np.ndarray, tokenizer: PreTrainedTokenizerBase, first_B: np.ndarray | None = None
) -> dict[str, torch.Tensor]:
    ids_BT = np.where(mask_BT, ids_BT, tokenizer.pad_token_id)
    inputs = {"input_ids": torch.from_numpy(ids_BT), "attention_mask": torch.from_numpy(mask_BT.astype(np.int64))}
    if "token_type_ids" in tokenizer.model_input_names:
        second = (
            np.zeros_like(ids_BT) if first_B is None else (np.arange(ids_BT.shape[1]) >= first_B[:, None]) & mask_BT
        )
        inputs["token_type_ids"] = torch.from_numpy(second.astype(np.int64))
    return inputs


def _labeller(tokenizer: PreTrainedTokenizerBase, kind: type) -> Callable[..., MicroBatch]:
    def collate(samples: Samples, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
        ids_BT, mask_BT, columns = samples.take(indices)
        targets = torch.from_numpy(columns["label"].astype(kind))
        inputs = _inputs(ids_BT, mask_BT, tokenizer, columns["first"])
        return MicroBatch(inputs, targets, len(targets), int(mask_BT.sum()))

    return collate


def _masker(tokenizer: PreTrainedTokenizerBase, rate: float) -> Callable[..., MicroBatch]:
    """BERT's masking: of a part of the tokens 80% become [MASK], 10% another token, 10% stay (Devlin et al., 3.1).

    The part is a number, as in their code, and not a coin for each token: round(rate * n) of a sample's n tokens that
    are not special, halves up, and at least one. Keyed by (seed, epoch, sample), whoever computes it.
    """
    if tokenizer.mask_token_id is None:
        raise UserError("data.tokenizer: has no mask token, which task: mlm needs")
    special = np.array(sorted(tokenizer.all_special_ids))
    regular = np.setdiff1d(np.arange(len(tokenizer)), special)

    def collate(samples: Samples, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
        ids_BT, mask_BT, _ = samples.take(indices)
        keys_BT = order.key(order.key(seed, epochs, indices)[:, None], np.arange(ids_BT.shape[1]))
        chosen_BT = _choose(keys_BT, mask_BT & ~np.isin(ids_BT, special), rate)
        fate_BT = order.uniform(order.key(keys_BT, 1))
        other_BT = regular[(order.uniform(order.key(keys_BT, 2)) * len(regular)).astype(np.int64)]
        masked_BT = np.where(fate_BT < 0.8, tokenizer.mask_token_id, np.where(fate_BT < 0.9, other_BT, ids_BT))
        targets_BT = torch.from_numpy(np.where(chosen_BT, ids_BT, IGNORED))
        inputs = _inputs(np.where(chosen_BT, masked_BT, ids_BT), mask_BT, tokenizer)
        return MicroBatch(inputs, targets_BT, int(chosen_BT.sum()), int(mask_BT.sum()))

    return collate


def _choose(keys_BT: np.ndarray, eligible_BT: np.ndarray, rate: float) -> np.ndarray:
    """In each row, the round(rate * n) of its n eligible places with the smallest keys, at least one if n > 0."""
    eligible_B = eligible_BT.sum(1)
    counts_B = np.minimum(np.maximum(np.floor(rate * eligible_B + 0.5), 1), eligible_B)
    draws_BT = np.where(eligible_BT, order.uniform(keys_BT), 2.0)
    ranks_BT = draws_BT.argsort(1, kind="stable").argsort(1, kind="stable")
    return ranks_BT < counts_B[:, None]
