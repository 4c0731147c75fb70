"""Packing: the samples of a micro-batch laid end to end in a few rows, so that almost no padding is computed.

Positions restart with each sample and attention stays within it, so the result is that of one sample per row.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import torch

# The cost of a place, beside its share of everything else in a layer, is that of attention: as much again in rows of
# this length. (Measured on a CPU at a width of 384; all that it decides is whether rows are short or full.)
_ATTENTION = 600
_TRIED = 16  # numbers of rows


@dataclass(frozen=True)
class Rows:
    """Where each sample lies: its row and its first place there; `width` is the length of all rows."""

    row_B: np.ndarray
    start_B: np.ndarray
    count: int
    width: int


def arrange(lengths_B: np.ndarray) -> Rows:
    """Lay samples into rows: the longest first, each into the row that is emptiest (Graham 1969, "Bounds on
    multiprocessing timing anomalies", LPT); into as many rows as cost least, of some numbers between those that would
    be full at once and at three times the length of the longest sample.
    """
    longest, total = int(lengths_B.max()), int(lengths_B.sum())
    fewest, most = max(1, total // (3 * longest)), min(len(lengths_B), -(-total // longest) + 2)
    counts = np.unique(np.linspace(fewest, most, _TRIED).astype(np.int64))
    every = (_fill(lengths_B, int(count)) for count in counts)
    return min(every, key=lambda rows: rows.count * rows.width * (_ATTENTION + rows.width))


def apart(lengths_B: np.ndarray) -> Rows:
    """One sample in each row."""
    count = len(lengths_B)
    return Rows(np.arange(count), np.zeros(count, np.int64), count, int(lengths_B.max()))


def _fill(lengths_B: np.ndarray, count: int) -> Rows:
    row_B, start_B = np.zeros(len(lengths_B), np.int64), np.zeros(len(lengths_B), np.int64)
    rows = [(0, row) for row in range(count)]
    for sample in np.argsort(-lengths_B, kind="stable").tolist():
        used, row = rows[0]
        row_B[sample], start_B[sample] = row, used
        heapq.heapreplace(rows, (used + int(lengths_B[sample]), row))
    return Rows(row_B, start_B, count, max(used for used, _ in rows))


def places(rows: Rows, mask_BT: torch.Tensor) -> torch.Tensor:
    """Where each token of padded samples goes in the flattened rows, (tokens,) int64, sample by sample."""
    starts_B = torch.from_numpy(rows.row_B * rows.width + rows.start_B)
    return (starts_B[:, None] + torch.arange(mask_BT.shape[1]))[mask_BT]


def lay(values_BT: torch.Tensor, mask_BT: torch.Tensor, places_N: torch.Tensor, rows: Rows, fill: int) -> torch.Tensor:
    """Padded samples as rows (R, width), with `fill` where nothing lies."""
    flat = torch.full((rows.count * rows.width,), fill, dtype=values_BT.dtype)
    flat[places_N] = values_BT[mask_BT]
    return flat.view(rows.count, rows.width)


def by_row(places_N: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Places in the flattened rows, grouped: (read_Rm, kept_N). read_Rm: places within each row, filled up with 0 to
    the same number in all; kept_N: where in the flattened read_Rm those of `places_N` are, in their order.
    """
    row_N, within_N = places_N // rows.width, places_N % rows.width
    count_R = torch.bincount(row_N, minlength=rows.count)
    width = max(int(count_R.max()), 1)
    order = torch.argsort(row_N, stable=True)
    first_R = torch.cumsum(count_R, 0) - count_R
    rank_N = torch.empty_like(row_N)
    rank_N[order] = torch.arange(len(row_N)) - first_R[row_N[order]]
    kept_N = row_N * width + rank_N
    read_R = torch.zeros(rows.count * width, dtype=torch.int64)
    read_R[kept_N] = within_N
    return read_R.view(rows.count, width), kept_N


def block_diagonal(segments_RT: torch.Tensor) -> torch.Tensor:
    """Attention within samples, (R, 1, T, T) bool, of the samples' numbers (0: padding, which sees padding alone)."""
    return (segments_RT[:, :, None] == segments_RT[:, None, :])[:, None]


def block_triangular(segments_RT: torch.Tensor) -> torch.Tensor:
    """The same where no place sees one after it."""
    return block_diagonal(segments_RT).tril()
