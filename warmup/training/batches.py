"""Micro-batches: samples ready for the model, and how they are laid out for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from warmup.training import packing
from warmup.training.reading import Reading

IGNORED = -100
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


def weightless(batch: MicroBatch) -> MicroBatch:
    """The same batch with nothing to predict and nothing counted: what a rank without samples computes."""
    targets = torch.full_like(batch.targets, _nothing(batch.targets))
    return replace(batch, targets=targets, target_count=0, token_count=0)


def _nothing(targets: torch.Tensor) -> float:
    """The target where nothing is asked. Any number may be one."""
    return math.nan if targets.is_floating_point() else IGNORED


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


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
    inputs = {name: value.pin_memory() if _is_tensor(value) else value for name, value in batch.inputs.items()}
    return replace(batch, inputs=inputs, targets=batch.targets.pin_memory())


def on_device(batch: MicroBatch, device: torch.device) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The model's inputs, and the targets of the logits that it will give."""
    inputs = {
        name: value.to(device, non_blocking=True) if _is_tensor(value) else value
        for name, value in batch.inputs.items()
    }
    for name, attends in _MASKS.items():
        if name in inputs:
            inputs["attention_mask"] = attends(inputs.pop(name))
    return inputs, batch.targets.to(device, non_blocking=True)


def _asked(targets: torch.Tensor) -> torch.Tensor:
    """The places that are asked for, at least one."""
    asked = (targets != IGNORED).nonzero().squeeze(1)
    return asked if len(asked) else torch.zeros(1, dtype=torch.int64)


def _in_rows(batch: MicroBatch, reading: Reading) -> MicroBatch:
    """The batch in rows, and what tells samples apart: `offsets` where each begins, of a single row; else segments,
    which sample each place is of, where a row is not just one; or a `mask` of places that are of one.
    """
    mask_BT = batch.inputs["attention_mask"].bool()
    lengths_B = mask_BT.sum(1).numpy()
    rows = _rows(lengths_B, reading)
    places_N = packing.places(rows, mask_BT)

    def lay(values_BT: torch.Tensor, fill: int) -> torch.Tensor:
        return packing.lay(values_BT, mask_BT, places_N, rows, fill)

    inputs = {name: lay(tensor, 0) for name, tensor in batch.inputs.items() if name != "attention_mask"}
    inputs["input_ids"] = lay(batch.inputs["input_ids"], reading.padding)
    numbers_B, width = torch.arange(1, len(lengths_B) + 1), mask_BT.shape[1]
    numbers = lay(numbers_B[:, None].expand(-1, width), 0)
    if reading.varlen:
        inputs["longest"] = reading.steady or int(lengths_B.max())
        inputs["offsets"] = packing.offsets(lengths_B, rows, reading.steady)
    elif rows.count < len(lengths_B) or rows.count * rows.width > lengths_B.sum():  # else a row is one sample
        name = "causal_segments" if reading.causal else "segments" if reading.packs else "mask"
        inputs[name] = numbers > 0 if name == "mask" else numbers
    if reading.packs:
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
    return _read(replace(batch, inputs=inputs, targets=targets, owners=owners[asked]), asked, rows, reading)


def _rows(lengths_B: np.ndarray, reading: Reading) -> packing.Rows:
    if reading.varlen:
        return packing.end_to_end(lengths_B, reading.steady)
    width = -(-reading.steady // 8) * 8  # what kernels like
    if not reading.packs:
        return packing.apart(lengths_B, width)
    return packing.steady(lengths_B, width) if reading.steady else packing.arrange(lengths_B)


def _read(batch: MicroBatch, asked: torch.Tensor, rows: packing.Rows, reading: Reading) -> MicroBatch:
    """With the places to be read, where the targets are asked. Where there are to be few shapes, some more are read,
    for nothing, so that their number is a multiple of a part of all places.
    """
    if reading.varlen:
        grain = max(8, rows.width // 32) if reading.steady else 1
        read_n, kept, read_offsets = packing.by_sample(asked, batch.inputs["offsets"], grain)
        inputs = batch.inputs | {"read": read_n[None], "read_offsets": read_offsets}
    else:
        read_Rm, kept = packing.by_row(asked, rows, max(4, rows.width // 32) if reading.steady else 1)
        inputs = batch.inputs | {"read": read_Rm}
    if not (reading.varlen or reading.steady):
        return replace(batch, inputs=inputs | {"kept": kept})

    def of_all(values: torch.Tensor, fill: float) -> torch.Tensor:
        every = torch.full((inputs["read"].numel(),), fill, dtype=values.dtype)
        every[kept] = values
        return every

    targets = of_all(batch.targets, _nothing(batch.targets))
    return replace(batch, inputs=inputs, targets=targets, owners=of_all(batch.owners, 0))
