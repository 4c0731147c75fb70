"""Samples in rows: each token once, in its place, with little padding."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from warmup.training.data.batching import packing


def spans(rows: packing.Bins, lengths: np.ndarray) -> list[tuple[int, int, int]]:
    """(row, from, to) of every sample."""
    return [
        (int(row), int(start), int(start + length))
        for row, start, length in zip(rows.row_B, rows.start_B, lengths, strict=True)
    ]


@given(st.lists(st.integers(1, 140), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_samples_lie_end_to_end_and_apart(lengths: list[int]) -> None:
    lengths_B = np.array(lengths)
    rows = packing.pack_balanced(lengths_B)
    by_row: dict[int, list[tuple[int, int]]] = {}
    for row, start, end in spans(rows, lengths_B):
        by_row.setdefault(row, []).append((start, end))
    assert sorted(by_row) == list(range(rows.count))  # no row is empty
    ends = []
    for parts in by_row.values():
        parts.sort()
        assert parts[0][0] == 0
        assert all(before[1] == after[0] for before, after in zip(parts, parts[1:], strict=False))
        ends.append(parts[-1][1])
    assert max(ends) == rows.width
    # Graham's bound: the fullest row is at most 4/3 of the best possible one, which is not below these two.
    best = max(lengths_B.max(), -(-lengths_B.sum() // rows.count))
    assert rows.width <= 4 / 3 * best + lengths_B.max() / 3


def test_padding_is_rare_on_sentences_and_windows() -> None:
    """Lengths as SST-2's (mean 13, log-normal) at 16 per micro-batch; and windows of which one in four is a tail."""
    random = np.random.default_rng(0)
    used = computed = 0
    for _ in range(200):
        lengths = np.clip(np.exp(random.normal(2.4, 0.7, 16)), 3, 66).astype(int)
        rows = packing.pack_balanced(lengths)
        used, computed = used + lengths.sum(), computed + rows.count * rows.width
    assert 1 - used / computed < 0.05
    used = computed = 0
    for _ in range(200):
        lengths = np.where(random.random(32) < 0.25, random.integers(3, 129, 32), 128)
        rows = packing.pack_balanced(lengths)
        used, computed = used + lengths.sum(), computed + rows.count * rows.width
    assert 1 - used / computed < 0.05


def test_rows_are_as_short_as_they_can_be_without_padding() -> None:
    """Attention costs by the length of rows; padding costs more."""
    for count, length in ((16, 20), (64, 128), (8, 512)):
        rows = packing.pack_balanced(np.full(count, length))
        assert (rows.count, rows.width) == (count, length)
    rows = packing.pack_balanced(np.array([40, 20, 20, 10, 10, 10, 10]))
    assert (rows.count, rows.width) == (3, 40)
    rows = packing.pack_balanced(np.array([30, 20, 20, 20]))  # rows of 30 would be a quarter padding, two of 50 a tenth
    assert (rows.count, rows.width) == (1, 90)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_tokens_and_what_is_read_come_back(lengths: list[int], seed: int) -> None:
    lengths_B = np.array(lengths)
    rows = packing.pack_balanced(lengths_B)
    mask_BT = torch.arange(int(lengths_B.max())) < torch.from_numpy(lengths_B)[:, None]
    values_BT = torch.arange(mask_BT.numel()).view(mask_BT.shape) + 1
    places = packing.token_positions(rows, mask_BT)
    laid = packing.scatter_tokens(values_BT, mask_BT, places, rows, 0)
    assert (laid.flatten()[places] == values_BT[mask_BT]).all()
    assert int((laid != 0).sum()) == int(lengths_B.sum())
    for sample, (row, start, end) in enumerate(spans(rows, lengths_B)):
        assert (laid[row, start:end] == values_BT[sample, : end - start]).all()

    random = torch.Generator().manual_seed(seed)
    read = places[torch.randperm(len(places), generator=random)[: 1 + len(places) // 3]]
    read_Rm, kept = packing.group_by_row(read, rows)
    picked = laid.gather(1, read_Rm).flatten()[kept]
    assert (picked == laid.flatten()[read]).all()
    assert read_Rm.shape[1] == int(torch.bincount(read // rows.width).max())


def test_attention_stays_within_a_sample() -> None:
    mask = packing.block_diagonal(torch.tensor([[1, 1, 2, 0, 0]]))[0, 0].int().tolist()
    assert mask == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]


def test_one_sample_in_each_row() -> None:
    rows = packing.one_per_row(np.array([3, 7, 2]))
    assert (rows.row_B.tolist(), rows.start_B.tolist(), rows.count, rows.width) == ([0, 1, 2], [0, 0, 0], 3, 7)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_steady_rows_have_few_shapes(lengths: list[int]) -> None:
    lengths_B = np.array(lengths)
    rows = packing.pack_fixed_width(lengths_B, 64)
    assert rows.width == 64 and (rows.count == packing.round_up(rows.count) or rows.count == len(lengths))
    used = np.zeros((rows.count, 64), int)
    for row, start, end in spans(rows, lengths_B):
        used[row, start:end] += 1
    assert used.max() == 1 and used.any(1).all() and used.sum() == sum(lengths)


def test_numbers_are_rounded_to_few() -> None:
    assert [packing.round_up(count) for count in (1, 7, 16, 17, 31, 33, 100, 128, 129)] == [
        1, 7, 16, 18, 32, 36, 104, 128, 144
    ]  # fmt: skip
    assert len({packing.round_up(count) for count in range(1000, 2001)}) == 9


@given(st.lists(st.integers(1, 64), min_size=1, max_size=60), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=200, deadline=None)
def test_a_single_row_is_samples_that_are_not_empty(lengths: list[int], steady: bool, seed: int) -> None:
    """Those that fill it up too; and of each something is read."""
    lengths_B, longest = np.array(lengths), 64 if steady else 0
    rows = packing.pack_one_row(lengths_B, longest)
    offsets = packing.cu_seqlens(lengths_B, rows, longest)
    assert rows.width <= (packing.round_up(packing.round_up(sum(lengths)) + 1) if steady else sum(lengths))
    assert offsets.tolist()[: len(lengths) + 1] == [0, *np.cumsum(lengths)]
    assert int(offsets[-1]) == rows.width and int(offsets.diff().min()) > 0 and int(offsets.diff().max()) <= 64
    if rows.width > sum(lengths):
        assert len(offsets) == len(lengths) + 1 + packing._fillers(rows.width, 64)

    random = torch.Generator().manual_seed(seed)
    asked = torch.randperm(sum(lengths), generator=random)[: 1 + sum(lengths) // 5].sort().values
    read, kept, read_offsets = packing.group_by_sample(asked, offsets, 8)
    assert (read[kept] == asked).all() and len(read) % 8 == 0 and len(read) == int(read_offsets[-1])
    samples = torch.repeat_interleave(torch.arange(len(offsets) - 1), read_offsets.diff())
    owners = torch.searchsorted(offsets.long(), read, right=True) - 1
    assert (samples[kept] == owners[kept]).all() and int(read_offsets.diff().min()) > 0
