"""Micro-batches: samples as a task collates them, and as they go to the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from warmup.training.data.batching import packing
from warmup.training.data.samples import IGNORE_INDEX

_MASKS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "segments": packing.block_diagonal,
    "causal_segments": packing.block_triangular,
    "mask": lambda mask_RT: mask_RT[:, None, None],  # transformers would wait for the device to look into one of rows
}


@dataclass(frozen=True)
class MicroBatch:
    """Samples ready for the model: its inputs, the positions where something is predicted, and what."""

    inputs: Mapping[str, torch.Tensor | int]
    """Padded sequences (B, T) as collated; other shapes once they are laid out for a model."""
    positions_N: torch.Tensor
    """Positions in the flattened input where something is predicted, int64, ascending within each sequence."""
    targets: torch.Tensor
    """What is to be predicted there, (N,) or (N, K): IGNORE_INDEX, or NaN among numbers, where nothing is."""
    sample_ids_N: torch.Tensor
    """Number in the batch of the sample that each target belongs to, int64."""
    sample_count: int
    target_count: int
    token_count: int
    """Special tokens included, padding not."""

    @property
    def input_ids(self) -> torch.Tensor:
        ids = self.inputs["input_ids"]
        assert isinstance(ids, torch.Tensor)
        return ids

    @property
    def padded_tokens(self) -> int:
        """Tokens and padding."""
        return self.input_ids.numel()


class Targets(NamedTuple):
    """What the logits of a micro-batch are compared with, on the device."""

    values: torch.Tensor
    """(N,) or (N, K), in the order of the logits."""
    sample_ids_N: torch.Tensor
    sample_count: int

    @property
    def is_target_N(self) -> torch.Tensor:
        """Where something is predicted: not at values that are IGNORE_INDEX or, among numbers, NaN."""
        values_NK = self.values.reshape(len(self.values), -1)
        ignored_NK = values_NK.isnan() if values_NK.is_floating_point() else values_NK == IGNORE_INDEX
        return ~ignored_NK.any(1)


def padded_inputs(
    ids_BT: np.ndarray,
    mask_BT: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    second_start_B: np.ndarray | None = None,
) -> dict[str, torch.Tensor]:
    """A model's inputs for padded sequences.

    Args:
        ids_BT: token ids.
        mask_BT: True at tokens.
        tokenizer: tells the id of padding, and whether the model takes token types.
        second_start_B: where the second text of each pair begins; None for single texts.

    Returns:
        input_ids, attention_mask and, if the model takes them, token_type_ids: (B, T) int64.
    """
    padding_id = tokenizer.pad_token_id  # a causal model may have none, and sees none
    ids_BT = np.where(mask_BT, ids_BT, 0 if padding_id is None else padding_id)
    inputs = {"input_ids": torch.from_numpy(ids_BT), "attention_mask": torch.from_numpy(mask_BT.astype(np.int64))}
    if "token_type_ids" in tokenizer.model_input_names:
        types_BT = np.zeros_like(ids_BT)
        if second_start_B is not None:
            types_BT = ((np.arange(ids_BT.shape[1]) >= second_start_B[:, None]) & mask_BT).astype(np.int64)
        inputs["token_type_ids"] = torch.from_numpy(types_BT)
    return inputs


def token_targets(inputs: Mapping[str, torch.Tensor], predicted_BT: np.ndarray, targets_BT: np.ndarray) -> MicroBatch:
    """A batch that predicts single tokens. Each sequence is one sample.

    Args:
        inputs: as `padded_inputs`.
        predicted_BT: True at tokens that have a target.
        targets_BT: the targets; other values do not matter.
    """
    rows_N, _ = predicted_BT.nonzero()
    return MicroBatch(
        inputs=inputs,
        positions_N=torch.from_numpy(np.flatnonzero(predicted_BT)),
        targets=torch.from_numpy(targets_BT[predicted_BT]),
        sample_ids_N=torch.from_numpy(rows_N),
        sample_count=len(predicted_BT),
        target_count=len(rows_N),
        token_count=int(inputs["attention_mask"].sum()),
    )


def group_targets(inputs: Mapping[str, torch.Tensor], group_BT: np.ndarray, right_BT: np.ndarray) -> MicroBatch:
    """A batch that predicts which one of a group of tokens is the right one. Each sequence is one sample.

    A group counts as one target for each question, however many positions it has: the step divides the loss by the
    number of targets.

    Args:
        inputs: as `padded_inputs`.
        group_BT: True at the tokens that share one softmax.
        right_BT: 1 at the right one, 0 at the others, or (B, T, K) for K questions; other values do not matter.
    """
    batch = token_targets(inputs, group_BT, right_BT)
    return replace(batch, target_count=batch.sample_count * math.prod(right_BT.shape[2:]))


def sequence_targets(
    inputs: Mapping[str, torch.Tensor], targets_S: np.ndarray, sample_ids_S: np.ndarray | None = None
) -> MicroBatch:
    """A batch that predicts one thing for each sample, at the first token of its sequence, or of all its sequences.

    Args:
        inputs: as `padded_inputs`.
        targets_S: of each sequence. Those of one sample count as one target.
        sample_ids_S: the sample that each sequence is of, ascending; None where each is one.
    """
    count, length = inputs["input_ids"].shape
    sequences_S = torch.arange(count)
    samples_S = sequences_S if sample_ids_S is None else torch.from_numpy(sample_ids_S)
    sample_count = int(samples_S[-1]) + 1
    return MicroBatch(
        inputs=inputs,
        positions_N=sequences_S * length,
        targets=torch.from_numpy(targets_S),
        sample_ids_N=samples_S,
        sample_count=sample_count,
        target_count=sample_count,
        token_count=int(inputs["attention_mask"].sum()),
    )


def zero_weight(batch: MicroBatch) -> MicroBatch:
    """The same batch with nothing to predict and nothing counted: what a rank without samples computes."""
    targets = torch.full_like(batch.targets, ignore_value(batch.targets))
    return replace(batch, targets=targets, target_count=0, token_count=0)


def ignore_value(targets: torch.Tensor) -> float:
    """The target that stands for none. Among numbers any value may be a real one, so there it is NaN."""
    return math.nan if targets.is_floating_point() else IGNORE_INDEX


def pin_memory(batch: MicroBatch) -> MicroBatch:
    """The same batch in memory that a GPU can read by itself."""
    inputs = {
        name: value.pin_memory() if isinstance(value, torch.Tensor) else value for name, value in batch.inputs.items()
    }
    return replace(
        batch, inputs=inputs, targets=batch.targets.pin_memory(), sample_ids_N=batch.sample_ids_N.pin_memory()
    )


def to_device(batch: MicroBatch, device: torch.device) -> tuple[dict[str, torch.Tensor | int], Targets]:
    """The model's keyword arguments, and what its logits are to be compared with."""
    inputs = {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.inputs.items()
    }
    for name, attention_mask in _MASKS.items():
        segments = inputs.pop(name, None)
        if isinstance(segments, torch.Tensor):
            inputs["attention_mask"] = attention_mask(segments)
    targets, sample_ids_N = (tensor.to(device, non_blocking=True) for tensor in (batch.targets, batch.sample_ids_N))
    return inputs, Targets(targets, sample_ids_N, batch.sample_count)
