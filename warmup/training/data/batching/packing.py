"""Packing: the samples of a micro-batch laid end to end in a few rows, so that almost no padding is computed.

Positions restart with each sample and attention stays within it, so the result is that of one sample per row.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace

import numpy as np
import torch

# Attention costs a token as much as everything else in a layer does in rows of this length. (Measured on a CPU at a
# width of 384; all that it decides is whether rows are short or full.)
_ATTENTION_COST = 600
_CANDIDATES = 16  # numbers of rows that are tried


@dataclass(frozen=True)
class Bins:
    """Where each sample of a packed batch lies."""

    row_B: np.ndarray
    start_B: np.ndarray
    """Position of its first token in its row."""
    count: int
    """Number of rows."""
    width: int
    """Length of every row."""


def pack_balanced(lengths_B: np.ndarray) -> Bins:
    """Pack samples into rows: the longest first, each into the row that is emptiest (Graham 1969, "Bounds on
    multiprocessing timing anomalies", LPT). Of several numbers of rows, between those that would be full at once and
    three times the length of the longest sample, the one that costs least is chosen.
    """
    longest, total = int(lengths_B.max()), int(lengths_B.sum())
    fewest, most = max(1, total // (3 * longest)), min(len(lengths_B), -(-total // longest) + 2)
    counts = np.unique(np.linspace(fewest, most, _CANDIDATES).astype(np.int64))
    every = (_fill(lengths_B, int(count)) for count in counts)
    return min(every, key=lambda bins: bins.count * bins.width * (_ATTENTION_COST + bins.width))


def one_per_row(lengths_B: np.ndarray, width: int = 0) -> Bins:
    """One sample in each row, all rows at least this wide."""
    count = len(lengths_B)
    return Bins(np.arange(count), np.zeros(count, np.int64), count, max(width, int(lengths_B.max())))


def pack_fixed_width(lengths_B: np.ndarray, width: int) -> Bins:
    """As few rows of this width as will do, in a number that `round_up` gives: so ragged samples have few shapes."""
    most = len(lengths_B)
    for count in range(-(-int(lengths_B.sum()) // width), most):
        if count == round_up(count) and (bins := _fill(lengths_B, count)).width <= width:
            return replace(bins, width=width)
    return one_per_row(lengths_B, width)


def pack_one_row(lengths_B: np.ndarray, max_length: int = 0) -> Bins:
    """All samples in one row. With `max_length`, the length of the longest sample that can come, the row is filled
    up to one of the widths that `round_up` gives.
    """
    ends_B = np.cumsum(lengths_B)
    total = width = int(ends_B[-1])
    if max_length and round_up(total) > total:
        width = round_up(total)
        while width - total < _fillers(width, max_length):
            width = round_up(width + 1)
    return Bins(np.zeros(len(lengths_B), np.int64), ends_B - lengths_B, 1, width)


def cu_seqlens(lengths_B: np.ndarray, bins: Bins, max_length: int = 0) -> torch.Tensor:
    """Where each sample of a single row begins, and where the last one ends: (S + 1,) int32.

    What fills the row up counts as samples: the same number in all rows of one width, none of them empty or longer
    than `max_length`.

    Args:
        lengths_B: lengths of the samples.
        bins: where they lie.
        max_length: as `pack_one_row`.
    """
    starts, total = bins.start_B, int(lengths_B.sum())
    ends = (
        np.linspace(total, bins.width, _fillers(bins.width, max_length) + 1)
        if bins.width > total
        else np.array([total])
    )
    return torch.from_numpy(np.concatenate([starts, ends]).astype(np.int32))


def _fillers(width: int, max_length: int) -> int:
    return -(-2 * _step(width) // max_length)


def round_up(count: int) -> int:
    """Up to a multiple of an eighth of the power of two below: 16, 18, 20, ... 32, 36, ...; at most an eighth more."""
    return -(-count // _step(count)) * _step(count)


def _step(count: int) -> int:
    return max(1, 1 << max(count.bit_length() - 4, 0))


def _fill(lengths_B: np.ndarray, count: int) -> Bins:
    row_B, start_B = np.zeros(len(lengths_B), np.int64), np.zeros(len(lengths_B), np.int64)
    rows = [(0, row) for row in range(count)]
    for sample in np.argsort(-lengths_B, kind="stable").tolist():
        used, row = rows[0]
        row_B[sample], start_B[sample] = row, used
        heapq.heapreplace(rows, (used + int(lengths_B[sample]), row))
    return Bins(row_B, start_B, count, max(used for used, _ in rows))


def token_positions(bins: Bins, mask_BT: torch.Tensor) -> torch.Tensor:
    """Where each token of padded samples goes in the flattened rows, (N,) int64, sample by sample."""
    starts_B = torch.from_numpy(bins.row_B * bins.width + bins.start_B)
    return (starts_B[:, None] + torch.arange(mask_BT.shape[1]))[mask_BT]


def scatter_tokens(values_N: torch.Tensor, positions_N: torch.Tensor, bins: Bins, fill: int) -> torch.Tensor:
    """Put values of tokens at their positions in the rows.

    Args:
        values_N: one for each token.
        positions_N: as `token_positions`.
        bins: the rows.
        fill: the value where there is no token.

    Returns:
        (R, width).
    """
    flat = torch.full((bins.count * bins.width,), fill, dtype=values_N.dtype)
    flat[positions_N] = values_N
    return flat.view(bins.count, bins.width)


def group_by_row(positions_N: torch.Tensor, bins: Bins, multiple: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Group positions in the flattened rows by row.

    Args:
        positions_N: positions in the flattened rows.
        bins: the rows.
        multiple: the number of positions per row is rounded up to a multiple of it.

    Returns:
        read_Rm: positions within each row, filled up with 0 to the same number in all rows. index_N: where each of
        `positions_N`, in its order, is in the flattened read_Rm.
    """
    row_N, within_N = positions_N // bins.width, positions_N % bins.width
    count_R = torch.bincount(row_N, minlength=bins.count)
    width = -(-max(int(count_R.max()), 1) // multiple) * multiple
    order = torch.argsort(row_N, stable=True)
    first_R = torch.cumsum(count_R, 0) - count_R
    rank_N = torch.empty_like(row_N)
    rank_N[order] = torch.arange(len(row_N)) - first_R[row_N[order]]
    index_N = row_N * width + rank_N
    read_R = torch.zeros(bins.count * width, dtype=torch.int64)
    read_R[index_N] = within_N
    return read_R.view(bins.count, width), index_N


def group_by_sample(
    positions_N: torch.Tensor, cu_seqlens: torch.Tensor, multiple: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Group positions in a single row by sample.

    Args:
        positions_N: positions in ascending order.
        cu_seqlens: where samples begin in the row.
        multiple: the number of positions is rounded up to a multiple of it.

    Returns:
        read_n: the positions, and the first one of each sample that has none; filled up with 0, which counts as the
        last sample's. index_N: where each of `positions_N` is in it. read_cu_seqlens: where samples begin in it.
    """
    starts = cu_seqlens.long()
    all_n = torch.unique(torch.cat([positions_N, starts[:-1][_counts(positions_N, starts) == 0]]))
    counts = _counts(all_n, starts)
    missing = -len(all_n) % multiple
    counts[-1] += missing
    read_n = torch.cat([all_n, all_n.new_zeros(missing)])
    read_cu_seqlens = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
    return read_n, torch.searchsorted(all_n, positions_N), read_cu_seqlens


def _counts(positions_N: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """How many of the positions lie in each sample."""
    return torch.bincount(torch.searchsorted(starts, positions_N, right=True) - 1, minlength=len(starts) - 1)


def block_diagonal(segments_RT: torch.Tensor) -> torch.Tensor:
    """Attention within samples, (R, 1, T, T) bool, from the samples' numbers (0: padding, which only sees padding)."""
    return (segments_RT[:, :, None] == segments_RT[:, None, :])[:, None]


def block_triangular(segments_RT: torch.Tensor) -> torch.Tensor:
    """The same, where no token sees one after it."""
    return block_diagonal(segments_RT).tril()
