"""How the samples of a micro-batch are laid out for the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from warmup.training.data.batching import packing
from warmup.training.data.batching.micro_batch import MicroBatch, ignore_value
from warmup.training.models.input_layout import InputLayout


def lay_out(batch: MicroBatch, layout: InputLayout) -> MicroBatch:
    """A collated batch as the model is to get it.

    Everything that depends on the batch's contents is found here, on the host, where no device has to wait for it.
    """
    if layout.rows:
        return _in_rows(batch, layout)
    batch = _without_needless_mask(batch)
    if layout.logits == "positions":
        batch = _with_some_position(batch)
        return replace(batch, inputs={**batch.inputs, "positions": batch.positions_N})
    return batch if layout.head == "sequence" else _with_targets_everywhere(batch)


def _without_needless_mask(batch: MicroBatch) -> MicroBatch:
    """The batch without a mask if nothing is padded: a model that is given none attends to every token."""
    if not torch.as_tensor(batch.inputs["attention_mask"]).all():
        return batch
    return replace(batch, inputs={name: value for name, value in batch.inputs.items() if name != "attention_mask"})


def _with_some_position(batch: MicroBatch) -> MicroBatch:
    """The batch with at least one position: a model computes nothing for an empty tensor, but has no gradient then."""
    if len(batch.positions_N):
        return batch
    nowhere = torch.zeros(1, dtype=torch.int64)
    targets = batch.targets.new_full((1, *batch.targets.shape[1:]), ignore_value(batch.targets))
    return replace(batch, positions_N=nowhere, targets=targets, sample_ids_N=nowhere)


def _with_targets_everywhere(batch: MicroBatch) -> MicroBatch:
    """The batch with a target for every token and all padding, for a model that gives logits for all of them."""
    count = batch.padded_tokens

    def scatter(values: torch.Tensor, fill: float) -> torch.Tensor:
        everywhere = values.new_full((count, *values.shape[1:]), fill)
        everywhere[batch.positions_N] = values
        return everywhere

    targets = scatter(batch.targets, ignore_value(batch.targets))
    return replace(batch, targets=targets, sample_ids_N=scatter(batch.sample_ids_N, 0))


def _in_rows(batch: MicroBatch, layout: InputLayout) -> MicroBatch:
    """The batch in rows, with what tells samples apart: `cu_seqlens`, where each begins in a single row; else
    `segments`, the number of each token's sequence, or a `mask` of tokens, unless each row is one whole sample.
    """
    mask_BT = torch.as_tensor(batch.inputs["attention_mask"]).bool()
    lengths_B = mask_BT.sum(1).numpy()
    bins = _choose_bins(lengths_B, layout)
    tokens_N = packing.token_positions(bins, mask_BT)

    def scatter(values_BT: torch.Tensor, fill: int) -> torch.Tensor:
        return packing.scatter_tokens(values_BT[mask_BT], tokens_N, bins, fill)

    inputs: dict[str, torch.Tensor | int] = {
        name: scatter(torch.as_tensor(tensor), 0) for name, tensor in batch.inputs.items() if name != "attention_mask"
    }
    inputs["input_ids"] = scatter(batch.input_ids, layout.padding_id)
    count, width = mask_BT.shape
    if layout.varlen:
        inputs["max_seqlen"] = layout.static_max_length or int(lengths_B.max())
        inputs["cu_seqlens"] = packing.cu_seqlens(lengths_B, bins, layout.static_max_length)
    elif bins.count < count or bins.count * bins.width > lengths_B.sum():  # else each row is one whole sample
        name = "causal_segments" if layout.causal else "segments" if layout.packed else "mask"
        segments_RT = scatter(torch.arange(1, count + 1)[:, None].expand(-1, width), 0)
        inputs[name] = segments_RT > 0 if name == "mask" else segments_RT
    if layout.packed:
        positions_BT = torch.arange(width).expand(count, -1) + layout.first_position
        inputs["position_ids"] = scatter(positions_BT, layout.first_position)
    batch = _move_targets(replace(batch, inputs=inputs), mask_BT, tokens_N, layout)
    if layout.logits == "all":
        return _with_targets_everywhere(batch)
    batch = _with_some_position(batch)
    if layout.positions_in == "head":
        return replace(batch, inputs={**inputs, "positions": batch.positions_N})
    return _with_read_positions(batch, bins, layout)


def _move_targets(batch: MicroBatch, mask_BT: torch.Tensor, tokens_N: torch.Tensor, layout: InputLayout) -> MicroBatch:
    """The targets at their positions in the rows. Those of tokens are put into ascending order; those of whole
    sequences stay in the order of the samples.
    """
    row_position = torch.zeros(mask_BT.numel(), dtype=torch.int64)
    row_position[mask_BT.flatten()] = tokens_N
    positions_N = row_position[batch.positions_N]
    if layout.head == "sequence":
        return replace(batch, positions_N=positions_N)
    positions_N, order_N = positions_N.sort()
    return replace(
        batch, positions_N=positions_N, targets=batch.targets[order_N], sample_ids_N=batch.sample_ids_N[order_N]
    )


def _choose_bins(lengths_B: np.ndarray, layout: InputLayout) -> packing.Bins:
    static = layout.static_max_length
    if layout.varlen:
        return packing.pack_one_row(lengths_B, static)
    width = -(-static // 8) * 8  # a multiple of 8, which kernels like
    if not layout.packed:
        return packing.one_per_row(lengths_B, width)
    return packing.pack_fixed_width(lengths_B, width) if static else packing.pack_balanced(lengths_B)


def _with_read_positions(batch: MicroBatch, bins: packing.Bins, layout: InputLayout) -> MicroBatch:
    """The batch with the positions where the last layer is computed. If there are to be few shapes, some more are
    read in vain, so that their number is a multiple of a fraction of all positions.
    """
    static, inputs = bool(layout.static_max_length), dict(batch.inputs)
    if layout.varlen:
        multiple = max(8, bins.width // 32) if static else 1
        starts = torch.as_tensor(inputs["cu_seqlens"])
        read_n, index_N, inputs["read_cu_seqlens"] = packing.group_by_sample(batch.positions_N, starts, multiple)
        inputs["read_positions"] = read_n[None]
    else:
        multiple = max(4, bins.width // 32) if static else 1
        inputs["read_positions"], index_N = packing.group_by_row(batch.positions_N, bins, multiple)
    if not (layout.varlen or static):
        return replace(batch, inputs=inputs | {"gather_index": index_N})
    read_count = torch.as_tensor(inputs["read_positions"]).numel()

    def scatter(values: torch.Tensor, fill: float) -> torch.Tensor:
        everywhere = values.new_full((read_count, *values.shape[1:]), fill)
        everywhere[index_N] = values
        return everywhere

    targets = scatter(batch.targets, ignore_value(batch.targets))
    return replace(batch, inputs=inputs, targets=targets, sample_ids_N=scatter(batch.sample_ids_N, 0))
