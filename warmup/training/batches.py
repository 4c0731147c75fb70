"""Micro-batches: samples ready for the model, and how they are laid out for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from warmup.training import packing
from warmup.training.model import Reading

IGNORED = -100
_MASKS = {"segments": packing.block_diagonal, "causal_segments": packing.block_triangular}


@dataclass(frozen=True)
class MicroBatch:
    """Samples ready for the model. inputs: tensors (B, T); targets: (B, T) or (B,), IGNORED, or of numbers NaN,
    where nothing is asked.
    (Laid out by `lay_out`, other shapes, and `owners`, as the targets: the number in the batch of the sample of each.)
    """

    inputs: dict[str, torch.Tensor]
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


def weightless(batch: MicroBatch) -> MicroBatch:
    """The same batch with nothing to predict and nothing counted: what a rank without samples computes."""
    nothing = math.nan if batch.targets.is_floating_point() else IGNORED  # any number may be a target
    return replace(batch, targets=torch.full_like(batch.targets, nothing), target_count=0, token_count=0)


def lay_out(batch: MicroBatch, reading: Reading) -> MicroBatch:
    """The batch as the model is to get it: samples in rows, and where in them something is asked.

    What is found out of the batch is found here, on the host, where no device has to wait for it.
    """
    if reading.rows:
        return _in_rows(batch, reading)
    owners = torch.arange(len(batch.targets)).view(-1, *[1] * (batch.targets.ndim - 1)).expand_as(batch.targets)
    if not (reading.positions and batch.targets.ndim == 2):
        return replace(batch, owners=owners)
    asked = _asked(batch.targets.flatten())
    inputs, targets = {**batch.inputs, "positions": asked}, batch.targets.flatten()[asked]
    return replace(batch, inputs=inputs, targets=targets, owners=owners.flatten()[asked])


def pinned(batch: MicroBatch) -> MicroBatch:
    """The same batch in memory that a GPU reads by itself."""
    inputs = {name: tensor.pin_memory() for name, tensor in batch.inputs.items()}
    return replace(batch, inputs=inputs, targets=batch.targets.pin_memory())


def on_device(batch: MicroBatch, device: torch.device) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The model's inputs, and the targets of the logits that it will give."""
    inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()}
    for name, within in _MASKS.items():
        if name in inputs:
            inputs["attention_mask"] = within(inputs.pop(name))
    return inputs, batch.targets.to(device, non_blocking=True)


def _asked(targets: torch.Tensor) -> torch.Tensor:
    """The places that are asked for, at least one."""
    asked = (targets != IGNORED).nonzero().squeeze(1)
    return asked if len(asked) else torch.zeros(1, dtype=torch.int64)


def _in_rows(batch: MicroBatch, reading: Reading) -> MicroBatch:
    """The batch in rows. Segments tell which sample each place is of, where a row is not just one."""
    mask_BT = batch.inputs["attention_mask"].bool()
    lengths_B = mask_BT.sum(1).numpy()
    rows = (packing.arrange if reading.packs else packing.apart)(lengths_B)
    places_N = packing.places(rows, mask_BT)

    def lay(values_BT: torch.Tensor, fill: int) -> torch.Tensor:
        return packing.lay(values_BT, mask_BT, places_N, rows, fill)

    inputs = {name: lay(tensor, 0) for name, tensor in batch.inputs.items()}
    inputs["input_ids"] = lay(batch.inputs["input_ids"], reading.padding)
    numbers_B, width = torch.arange(1, len(lengths_B) + 1), mask_BT.shape[1]
    numbers = lay(numbers_B[:, None].expand(-1, width), 0)
    if reading.packs:
        del inputs["attention_mask"]
        if rows.count < len(lengths_B) or rows.count * rows.width > lengths_B.sum():  # else a row is one sample
            inputs["causal_segments" if reading.causal else "segments"] = numbers
        positions = torch.arange(width).expand(len(lengths_B), -1) + reading.first_position
        inputs["position_ids"] = lay(positions, reading.first_position)
    targets, owners = batch.targets, numbers.flatten() - 1
    if targets.ndim == 2:
        targets = lay(targets, IGNORED).flatten()
        if reading.dense:
            return replace(batch, inputs=inputs, targets=targets, owners=owners)
        asked = _asked(targets)
        targets = targets[asked]
        if reading.positions:
            return replace(batch, inputs={**inputs, "positions": asked}, targets=targets, owners=owners[asked])
    else:
        asked = torch.from_numpy(rows.row_B * rows.width + rows.start_B)
    inputs["read"], inputs["kept"] = packing.by_row(asked, rows)
    return replace(batch, inputs=inputs, targets=targets, owners=owners[asked])
