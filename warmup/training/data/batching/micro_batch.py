"""Micro-batches: samples ready for the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from warmup.training.data.batching import packing
from warmup.training.data.samples import IGNORE_INDEX

_MASKS = {
    "segments": packing.block_diagonal,
    "causal_segments": packing.block_triangular,
    "mask": lambda mask_RT: mask_RT[:, None, None],  # transformers would wait for the device to look into one of rows
}


@dataclass(frozen=True)
class MicroBatch:
    """Samples ready for the model. inputs: tensors (B, T); targets: (B, T) or (B,), IGNORED, or of numbers NaN,
    where nothing is asked.
    (Laid out by `lay_out`, other shapes, and `owners`, as the targets: the number in the batch of the sample of each.)
    """

    inputs: dict[str, torch.Tensor | int]
    targets: torch.Tensor
    target_count: int
    token_count: int
    owners: torch.Tensor | None = None

    @property
    def place_count(self) -> int:
        """Tokens and padding."""
        return self.inputs["input_ids"].numel()


def padded_inputs(
    ids_BT: np.ndarray, mask_BT: np.ndarray, tokenizer: PreTrainedTokenizerBase, first_B: np.ndarray | None = None
) -> dict[str, torch.Tensor]:
    padding = tokenizer.pad_token_id  # a causal model may have none, and sees none
    ids_BT = np.where(mask_BT, ids_BT, 0 if padding is None else padding)
    inputs = {"input_ids": torch.from_numpy(ids_BT), "attention_mask": torch.from_numpy(mask_BT.astype(np.int64))}
    if "token_type_ids" in tokenizer.model_input_names:
        second = (
            np.zeros_like(ids_BT) if first_B is None else (np.arange(ids_BT.shape[1]) >= first_B[:, None]) & mask_BT
        )
        inputs["token_type_ids"] = torch.from_numpy(second.astype(np.int64))
    return inputs


def zero_weight(batch: MicroBatch) -> MicroBatch:
    """The same batch with nothing to predict and nothing counted: what a rank without samples computes."""
    targets = torch.full_like(batch.targets, ignore_value(batch.targets))
    return replace(batch, targets=targets, target_count=0, token_count=0)


def ignore_value(targets: torch.Tensor) -> float:
    """The target where nothing is asked. Any number may be one."""
    return math.nan if targets.is_floating_point() else IGNORE_INDEX


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def pin_memory(batch: MicroBatch) -> MicroBatch:
    """The same batch in memory that a GPU reads by itself."""
    inputs = {name: value.pin_memory() if _is_tensor(value) else value for name, value in batch.inputs.items()}
    return replace(batch, inputs=inputs, targets=batch.targets.pin_memory())


def to_device(batch: MicroBatch, device: torch.device) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The model's inputs, and the targets of the logits that it will give."""
    inputs = {
        name: value.to(device, non_blocking=True) if _is_tensor(value) else value
        for name, value in batch.inputs.items()
    }
    for name, attends in _MASKS.items():
        if name in inputs:
            inputs["attention_mask"] = attends(inputs.pop(name))
    return inputs, batch.targets.to(device, non_blocking=True)
