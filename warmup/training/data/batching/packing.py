"""Packing: the samples of a micro-batch laid end to end in a few rows, so that almost no padding is computed.

Positions restart with each sample and attention stays within it, so the result is that of one sample per row.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace

import numpy as np
import torch

# The cost of a place, beside its share of everything else in a layer, is that of attention: as much again in rows of
# this length. (Measured on a CPU at a width of 384; all that it decides is whether rows are short or full.)
_ATTENTION = 600
_TRIED = 16  # numbers of rows


@dataclass(frozen=True)
class Bins:
    """Where each sample lies: its row and its first place there; `width` is the length of all rows."""

    row_B: np.ndarray
    start_B: np.ndarray
    count: int
    width: int


def pack_balanced(lengths_B: np.ndarray) -> Bins:
    """Lay samples into rows: the longest first, each into the row that is emptiest (Graham 1969, "Bounds on
    multiprocessing timing anomalies", LPT); into as many rows as cost least, of some numbers between those that would
    be full at once and at three times the length of the longest sample.
    """
    longest, total = int(lengths_B.max()), int(lengths_B.sum())
    fewest, most = max(1, total // (3 * longest)), min(len(lengths_B), -(-total // longest) + 2)
    counts = np.unique(np.linspace(fewest, most, _TRIED).astype(np.int64))
    every = (_fill(lengths_B, int(count)) for count in counts)
    return min(every, key=lambda rows: rows.count * rows.width * (_ATTENTION + rows.width))


def one_per_row(lengths_B: np.ndarray, width: int = 0) -> Bins:
    """One sample in each row, of at least this width."""
    count = len(lengths_B)
    return Bins(np.arange(count), np.zeros(count, np.int64), count, max(width, int(lengths_B.max())))


def pack_fixed_width(lengths_B: np.ndarray, width: int) -> Bins:
    """Rows of this width, as few as will do, of the numbers that `rounded` gives: ragged samples have few shapes."""
    most = len(lengths_B)
    for count in range(-(-int(lengths_B.sum()) // width), most):
        if count == round_up(count) and (rows := _fill(lengths_B, count)).width <= width:
            return replace(rows, width=width)
    return one_per_row(lengths_B, width)


def pack_one_row(lengths_B: np.ndarray, longest: int = 0) -> Bins:
    """All samples in one row. With `longest`, the most that a sample can have, it is filled up to a width of the
    numbers that `rounded` gives.
    """
    ends_B = np.cumsum(lengths_B)
    total = width = int(ends_B[-1])
    if longest and round_up(total) > total:
        width = round_up(total)
        while width - total < _fillers(width, longest):
            width = round_up(width + 1)
    return Bins(np.zeros(len(lengths_B), np.int64), ends_B - lengths_B, 1, width)


def cu_seqlens(lengths_B: np.ndarray, rows: Bins, longest: int = 0) -> torch.Tensor:
    """Where each sample of a single row begins, and where the last ends, (S + 1,) int32. What fills the row up counts
    as samples, the same number in all rows of a width, none of them empty or longer than `longest`.
    """
    starts, total = rows.start_B, int(lengths_B.sum())
    ends = (
        np.linspace(total, rows.width, _fillers(rows.width, longest) + 1) if rows.width > total else np.array([total])
    )
    return torch.from_numpy(np.concatenate([starts, ends]).astype(np.int32))


def _fillers(width: int, longest: int) -> int:
    return -(-2 * _grain(width) // longest)


def round_up(count: int) -> int:
    """Up to a multiple of an eighth of the power of two below: 16, 18, 20, ... 32, 36, ... at most an eighth more."""
    return -(-count // _grain(count)) * _grain(count)


def _grain(count: int) -> int:
    return max(1, 1 << max(count.bit_length() - 4, 0))


def _fill(lengths_B: np.ndarray, count: int) -> Bins:
    row_B, start_B = np.zeros(len(lengths_B), np.int64), np.zeros(len(lengths_B), np.int64)
    rows = [(0, row) for row in range(count)]
    for sample in np.argsort(-lengths_B, kind="stable").tolist():
        used, row = rows[0]
        row_B[sample], start_B[sample] = row, used
        heapq.heapreplace(rows, (used + int(lengths_B[sample]), row))
    return Bins(row_B, start_B, count, max(used for used, _ in rows))


def token_positions(rows: Bins, mask_BT: torch.Tensor) -> torch.Tensor:
    """Where each token of padded samples goes in the flattened rows, (tokens,) int64, sample by sample."""
    starts_B = torch.from_numpy(rows.row_B * rows.width + rows.start_B)
    return (starts_B[:, None] + torch.arange(mask_BT.shape[1]))[mask_BT]


def scatter_tokens(
    values_BT: torch.Tensor, mask_BT: torch.Tensor, places_N: torch.Tensor, rows: Bins, fill: int
) -> torch.Tensor:
    """Padded samples as rows (R, width), with `fill` where nothing lies."""
    flat = torch.full((rows.count * rows.width,), fill, dtype=values_BT.dtype)
    flat[places_N] = values_BT[mask_BT]
    return flat.view(rows.count, rows.width)


def group_by_row(places_N: torch.Tensor, rows: Bins, grain: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Places in the flattened rows, grouped: (read_Rm, kept_N). read_Rm: places within each row, filled up with 0 to
    the same number in all, a multiple of `grain`; kept_N: where in the flattened read_Rm those of `places_N` are, in
    their order.
    """
    row_N, within_N = places_N // rows.width, places_N % rows.width
    count_R = torch.bincount(row_N, minlength=rows.count)
    width = -(-max(int(count_R.max()), 1) // grain) * grain
    order = torch.argsort(row_N, stable=True)
    first_R = torch.cumsum(count_R, 0) - count_R
    rank_N = torch.empty_like(row_N)
    rank_N[order] = torch.arange(len(row_N)) - first_R[row_N[order]]
    kept_N = row_N * width + rank_N
    read_R = torch.zeros(rows.count * width, dtype=torch.int64)
    read_R[kept_N] = within_N
    return read_R.view(rows.count, width), kept_N


def group_by_sample(
    places_N: torch.Tensor, offsets: torch.Tensor, grain: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Places in a single row, in ascending order: (read_n, kept_N, offsets of read_n by sample). read_n holds at least
    one of each sample, and is filled up with 0, which counts as the last one's, to a multiple of `grain`.
    """
    begins = offsets.long()
    all_n = torch.unique(torch.cat([places_N, begins[:-1][_counts(places_N, begins) == 0]]))
    counts = _counts(all_n, begins)
    missing = -len(all_n) % grain
    counts[-1] += missing
    read_n = torch.cat([all_n, all_n.new_zeros(missing)])
    read_offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
    return read_n, torch.searchsorted(all_n, places_N), read_offsets


def _counts(places_N: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
    """How many of the places lie in each sample."""
    return torch.bincount(torch.searchsorted(begins, places_N, right=True) - 1, minlength=len(begins) - 1)


def block_diagonal(segments_RT: torch.Tensor) -> torch.Tensor:
    """Attention within samples, (R, 1, T, T) bool, of the samples' numbers (0: padding, which sees padding alone)."""
    return (segments_RT[:, :, None] == segments_RT[:, None, :])[:, None]


def block_triangular(segments_RT: torch.Tensor) -> torch.Tensor:
    """The same where no place sees one after it."""
    return block_diagonal(segments_RT).tril()
