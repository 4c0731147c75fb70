"""How the samples of a micro-batch are laid out for the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from warmup.training.data.batching import packing
from warmup.training.data.batching.micro_batch import MicroBatch, ignore_value
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.models.input_layout import InputLayout


def lay_out(batch: MicroBatch, reading: InputLayout) -> MicroBatch:
    """The batch as the model is to get it: samples in rows, and where in them something is asked.

    What is found out of the batch is found here, on the host, where no device has to wait for it.
    """
    if reading.rows:
        return _pack(batch, reading)
    owners = torch.arange(len(batch.targets)).view(-1, *[1] * (batch.targets.ndim - 1)).expand_as(batch.targets)
    if not (reading.positions and batch.targets.ndim == 2):
        return replace(batch, owners=owners)
    asked = _target_positions(batch.targets.flatten())
    inputs, targets = {**batch.inputs, "positions": asked}, batch.targets.flatten()[asked]
    return replace(batch, inputs=inputs, targets=targets, owners=owners.flatten()[asked])


def _target_positions(targets: torch.Tensor) -> torch.Tensor:
    """The places that are asked for, at least one."""
    asked = (targets != IGNORE_INDEX).nonzero().squeeze(1)
    return asked if len(asked) else torch.zeros(1, dtype=torch.int64)


def _pack(batch: MicroBatch, reading: InputLayout) -> MicroBatch:
    """The batch in rows, and what tells samples apart: `offsets` where each begins, of a single row; else segments,
    which sample each place is of, where a row is not just one; or a `mask` of places that are of one.
    """
    mask_BT = batch.inputs["attention_mask"].bool()
    lengths_B = mask_BT.sum(1).numpy()
    rows = _choose_bins(lengths_B, reading)
    places_N = packing.token_positions(rows, mask_BT)

    def lay(values_BT: torch.Tensor, fill: int) -> torch.Tensor:
        return packing.scatter_tokens(values_BT, mask_BT, places_N, rows, fill)

    inputs = {name: lay(tensor, 0) for name, tensor in batch.inputs.items() if name != "attention_mask"}
    inputs["input_ids"] = lay(batch.inputs["input_ids"], reading.padding)
    numbers_B, width = torch.arange(1, len(lengths_B) + 1), mask_BT.shape[1]
    numbers = lay(numbers_B[:, None].expand(-1, width), 0)
    if reading.varlen:
        inputs["longest"] = reading.steady or int(lengths_B.max())
        inputs["offsets"] = packing.cu_seqlens(lengths_B, rows, reading.steady)
    elif rows.count < len(lengths_B) or rows.count * rows.width > lengths_B.sum():  # else a row is one sample
        name = "causal_segments" if reading.causal else "segments" if reading.packs else "mask"
        inputs[name] = numbers > 0 if name == "mask" else numbers
    if reading.packs:
        positions = torch.arange(width).expand(len(lengths_B), -1) + reading.first_position
        inputs["position_ids"] = lay(positions, reading.first_position)
    targets, owners = batch.targets, numbers.flatten() - 1
    if targets.ndim == 2:
        targets = lay(targets, IGNORE_INDEX).flatten()
        if reading.dense:
            return replace(batch, inputs=inputs, targets=targets, owners=owners)
        asked = _target_positions(targets)
        targets = targets[asked]
        if reading.positions:
            return replace(batch, inputs={**inputs, "positions": asked}, targets=targets, owners=owners[asked])
    else:
        asked = torch.from_numpy(rows.row_B * rows.width + rows.start_B)
    return _with_read_positions(
        replace(batch, inputs=inputs, targets=targets, owners=owners[asked]), asked, rows, reading
    )


def _choose_bins(lengths_B: np.ndarray, reading: InputLayout) -> packing.Bins:
    if reading.varlen:
        return packing.pack_one_row(lengths_B, reading.steady)
    width = -(-reading.steady // 8) * 8  # what kernels like
    if not reading.packs:
        return packing.one_per_row(lengths_B, width)
    return packing.pack_fixed_width(lengths_B, width) if reading.steady else packing.pack_balanced(lengths_B)


def _with_read_positions(
    batch: MicroBatch, asked: torch.Tensor, rows: packing.Bins, reading: InputLayout
) -> MicroBatch:
    """With the places to be read, where the targets are asked. Where there are to be few shapes, some more are read,
    for nothing, so that their number is a multiple of a part of all places.
    """
    if reading.varlen:
        grain = max(8, rows.width // 32) if reading.steady else 1
        read_n, kept, read_offsets = packing.group_by_sample(asked, batch.inputs["offsets"], grain)
        inputs = batch.inputs | {"read": read_n[None], "read_offsets": read_offsets}
    else:
        read_Rm, kept = packing.group_by_row(asked, rows, max(4, rows.width // 32) if reading.steady else 1)
        inputs = batch.inputs | {"read": read_Rm}
    if not (reading.varlen or reading.steady):
        return replace(batch, inputs=inputs | {"kept": kept})

    def of_all(values: torch.Tensor, fill: float) -> torch.Tensor:
        every = torch.full((inputs["read"].numel(),), fill, dtype=values.dtype)
        every[kept] = values
        return every

    targets = of_all(batch.targets, ignore_value(batch.targets))
    return replace(batch, inputs=inputs, targets=targets, owners=of_all(batch.owners, 0))
