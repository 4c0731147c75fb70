"""Samples in rows: each token once, at its position, with little padding."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from warmup.training.data.batching import packing


def spans(bins: packing.Bins, lengths: np.ndarray) -> list[tuple[int, int, int]]:
    """(row, from, to) of every sample."""
    return [
        (int(row), int(start), int(start + length))
        for row, start, length in zip(bins.row_B, bins.start_B, lengths, strict=True)
    ]


@given(st.lists(st.integers(1, 140), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_samples_lie_end_to_end_and_apart(lengths: list[int]) -> None:
    lengths_B = np.array(lengths)
    bins = packing.pack_balanced(lengths_B)
    by_row: dict[int, list[tuple[int, int]]] = {}
    for row, start, end in spans(bins, lengths_B):
        by_row.setdefault(row, []).append((start, end))
    assert sorted(by_row) == list(range(bins.count))  # no row is empty
    ends = []
    for parts in by_row.values():
        parts.sort()
        assert parts[0][0] == 0
        assert all(before[1] == after[0] for before, after in zip(parts, parts[1:], strict=False))
        ends.append(parts[-1][1])
    assert max(ends) == bins.width
    # Graham's bound: the fullest row is at most 4/3 of the best possible one, which is not below these two.
    best = max(lengths_B.max(), -(-lengths_B.sum() // bins.count))
    assert bins.width <= 4 / 3 * best + lengths_B.max() / 3


def test_padding_is_rare_on_sentences_and_windows() -> None:
    """Lengths as SST-2's (mean 13, log-normal) at 16 per micro-batch; and windows of which one in four is a tail."""
    random = np.random.default_rng(0)
    used = computed = 0
    for _ in range(200):
        lengths = np.clip(np.exp(random.normal(2.4, 0.7, 16)), 3, 66).astype(int)
        bins = packing.pack_balanced(lengths)
        used, computed = used + lengths.sum(), computed + bins.count * bins.width
    assert 1 - used / computed < 0.05
    used = computed = 0
    for _ in range(200):
        lengths = np.where(random.random(32) < 0.25, random.integers(3, 129, 32), 128)
        bins = packing.pack_balanced(lengths)
        used, computed = used + lengths.sum(), computed + bins.count * bins.width
    assert 1 - used / computed < 0.05


def test_rows_are_as_short_as_they_can_be_without_padding() -> None:
    """Attention costs by the length of rows; padding costs more."""
    for count, length in ((16, 20), (64, 128), (8, 512)):
        bins = packing.pack_balanced(np.full(count, length))
        assert (bins.count, bins.width) == (count, length)
    bins = packing.pack_balanced(np.array([40, 20, 20, 10, 10, 10, 10]))
    assert (bins.count, bins.width) == (3, 40)
    bins = packing.pack_balanced(np.array([30, 20, 20, 20]))  # rows of 30 would be a quarter padding, two of 50 a tenth
    assert (bins.count, bins.width) == (1, 90)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_tokens_and_the_read_positions_come_back(lengths: list[int], seed: int) -> None:
    lengths_B = np.array(lengths)
    bins = packing.pack_balanced(lengths_B)
    mask_BT = torch.arange(int(lengths_B.max())) < torch.from_numpy(lengths_B)[:, None]
    values_BT = torch.arange(mask_BT.numel()).view(mask_BT.shape) + 1
    positions_N = packing.token_positions(bins, mask_BT)
    packed = packing.scatter_tokens(values_BT[mask_BT], positions_N, bins, 0)
    assert (packed.flatten()[positions_N] == values_BT[mask_BT]).all()
    assert int((packed != 0).sum()) == int(lengths_B.sum())
    for sample, (row, start, end) in enumerate(spans(bins, lengths_B)):
        assert (packed[row, start:end] == values_BT[sample, : end - start]).all()

    random = torch.Generator().manual_seed(seed)
    read_N = positions_N[torch.randperm(len(positions_N), generator=random)[: 1 + len(positions_N) // 3]]
    read_Rm, index_N = packing.group_by_row(read_N, bins)
    picked_N = packed.gather(1, read_Rm).flatten()[index_N]
    assert (picked_N == packed.flatten()[read_N]).all()
    assert read_Rm.shape[1] == int(torch.bincount(read_N // bins.width).max())


def test_attention_stays_within_a_sample() -> None:
    mask = packing.block_diagonal(torch.tensor([[1, 1, 2, 0, 0]]))[0, 0].int().tolist()
    assert mask == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]


def test_one_sample_in_each_row() -> None:
    bins = packing.one_per_row(np.array([3, 7, 2]))
    assert (bins.row_B.tolist(), bins.start_B.tolist(), bins.count, bins.width) == ([0, 1, 2], [0, 0, 0], 3, 7)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_rows_of_fixed_width_have_few_shapes(lengths: list[int]) -> None:
    lengths_B = np.array(lengths)
    bins = packing.pack_fixed_width(lengths_B, 64)
    assert bins.width == 64 and (bins.count == packing.round_up(bins.count) or bins.count == len(lengths))
    used = np.zeros((bins.count, 64), int)
    for row, start, end in spans(bins, lengths_B):
        used[row, start:end] += 1
    assert used.max() == 1 and used.any(1).all() and used.sum() == sum(lengths)


def test_numbers_are_rounded_to_few() -> None:
    assert [packing.round_up(count) for count in (1, 7, 16, 17, 31, 33, 100, 128, 129)] == [
        1, 7, 16, 18, 32, 36, 104, 128, 144
    ]  # fmt: skip
    assert len({packing.round_up(count) for count in range(1000, 2001)}) == 9


@given(st.lists(st.integers(1, 64), min_size=1, max_size=60), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=200, deadline=None)
def test_a_single_row_consists_of_samples_that_are_not_empty(lengths: list[int], static: bool, seed: int) -> None:
    """Those that fill it up too; and some position of each is read."""
    lengths_B, longest = np.array(lengths), 64 if static else 0
    bins = packing.pack_one_row(lengths_B, longest)
    cu_seqlens = packing.cu_seqlens(lengths_B, bins, longest)
    assert bins.width <= (packing.round_up(packing.round_up(sum(lengths)) + 1) if static else sum(lengths))
    assert cu_seqlens.tolist()[: len(lengths) + 1] == [0, *np.cumsum(lengths)]
    assert int(cu_seqlens[-1]) == bins.width and int(cu_seqlens.diff().min()) > 0 and int(cu_seqlens.diff().max()) <= 64
    if bins.width > sum(lengths):
        assert len(cu_seqlens) == len(lengths) + 1 + packing._fillers(bins.width, 64)

    random = torch.Generator().manual_seed(seed)
    target_N = torch.randperm(sum(lengths), generator=random)[: 1 + sum(lengths) // 5].sort().values
    read_n, index_N, read_cu_seqlens = packing.group_by_sample(target_N, cu_seqlens, 8)
    assert (read_n[index_N] == target_N).all() and len(read_n) % 8 == 0 and len(read_n) == int(read_cu_seqlens[-1])
    samples_n = torch.repeat_interleave(torch.arange(len(cu_seqlens) - 1), read_cu_seqlens.diff())
    expected_n = torch.searchsorted(cu_seqlens.long(), read_n, right=True) - 1
    assert (samples_n[index_N] == expected_n[index_N]).all() and int(read_cu_seqlens.diff().min()) > 0
