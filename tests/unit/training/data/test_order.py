"""The order of samples: a computed permutation, an endless stream of them, and how a step's samples are dealt."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmup.training.data import order

# Sebastiano Vigna's splitmix64.c, https://prng.di.unimi.it/splitmix64.c: its first five outputs with the seed
# 1234567, as published by https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64.
GOLDEN = 0x9E3779B97F4A7C15
SPLITMIX64_1234567 = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
POWERS = [2**exponent + more for exponent in range(9, 15) for more in (-1, 0, 1)]


def whole(size: int, key: int) -> np.ndarray:
    return order.permute(np.arange(size), size, key)


def permutations(size: int, count: int) -> np.ndarray:
    """The permutations of 0..size-1 of the first epochs of seed 7, one in each row."""
    keys = np.repeat(order.key(7, np.arange(count)), size)
    return order.permute(np.tile(np.arange(size), count), size, keys).reshape(count, size)


def test_mix_is_splitmix64() -> None:
    states = [(1234567 + index * GOLDEN) % 2**64 for index in range(5)]  # the generator adds GOLDEN per output
    with np.errstate(over="ignore"):
        assert order.mix(np.array(states, np.uint64)).tolist() == SPLITMIX64_1234567


def test_keys_tell_parts_and_their_order_apart() -> None:
    keys = [order.key(*parts) for parts in ((1, 2), (2, 1), (1,), (2,), (1, 2, 0), (0, 1, 2), (3,), (0, 3), (3, 0))]
    assert len({int(key) for key in keys}) == len(keys)
    several = order.key(1, np.arange(3), np.array([[5], [6]]))
    assert several.dtype == np.uint64 and several.shape == (2, 3)
    assert several[1, 2] == order.key(1, 2, 6)
    assert order.key(2**63 - 1, 2**40).dtype == np.uint64  # the largest seed


def test_uniform_is_below_one_with_53_bits() -> None:
    assert order.uniform(np.array([0, 2**11, 2**63, 2**64 - 1], np.uint64)).tolist() == [0, 2**-53, 0.5, 1 - 2**-53]
    values = order.uniform(order.key(np.arange(100_000)))
    # Kolmogorov-Smirnov distance of 100,000 uniform numbers: below 0.0062 in 99.9% of all cases; 0.0028 here.
    assert abs(np.sort(values) - np.arange(100_000) / 100_000).max() < 0.0062


@pytest.mark.parametrize("key", [0, 2**64 - 1])
def test_every_size_is_permuted(key: int) -> None:
    for size in [*range(1, 301), *POWERS]:
        result = whole(size, key)
        assert result.dtype == np.int64
        assert (np.sort(result) == np.arange(size)).all(), size


@given(st.integers(1, 5000), st.integers(0, 2**64 - 1), st.data())
@settings(max_examples=50, deadline=None)
def test_a_part_of_a_permutation_is_a_part_of_the_whole(size: int, key: int, data: st.DataObject) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=20)), np.int64)
    assert (order.permute(indices, size, key) == whole(size, key)[indices]).all()


def test_one_key_for_each_index() -> None:
    keys = np.array([3, 4, 3], np.uint64)
    permuted = order.permute(np.array([5, 5, 6]), 100, keys)
    assert permuted.tolist() == [whole(100, 3)[5], whole(100, 4)[5], whole(100, 3)[6]]


def test_keys_give_different_permutations() -> None:
    rows = permutations(100, 200)
    assert len({row.tobytes() for row in rows}) == 200
    # Two random permutations of 100 agree in one position on average, 18 is beyond 1e-15; the most here is 4.
    assert max((first == second).sum() for first, second in zip(rows, rows[1:], strict=False)) < 10


# z = (chi-square - freedom) / sqrt(2 freedom) is about normal. Measured: positions -0.6 to 2.2, neighbours -1.0 to
# 1.3. With 4 rounds instead of 12 up to 29, with 2 rounds up to 480.
@pytest.mark.parametrize("size", [2, 3, 5, 8, 16, 17, 37, 64])
def test_positions_and_neighbours_are_as_of_random_permutations(size: int) -> None:
    count = 2000
    rows = permutations(size, count)
    counts = np.zeros((size, size))
    np.add.at(counts, (np.broadcast_to(np.arange(size), rows.shape), rows), 1)
    assert abs(z_score(counts.ravel(), (size - 1) ** 2)) < 4
    pairs = np.zeros((size, size))
    np.add.at(pairs, (rows[:, :-1], rows[:, 1:]), 1)
    assert abs(z_score(pairs[~np.eye(size, dtype=bool)], size * (size - 1) - 1)) < 4


def z_score(counts: np.ndarray, freedom: int) -> float:
    return float((((counts - counts.mean()) ** 2 / counts.mean()).sum() - freedom) / (2 * freedom) ** 0.5)


def test_ten_billion_samples_in_constant_memory() -> None:
    tracemalloc.start()
    indices, epochs = order.step_samples(10**10 - 2048, 4096, 10**10, seed=1)
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()
    assert indices.min() >= 0 and indices.max() < 10**10 and indices.max() > 9e9
    assert len(set(indices[:2048])) == len(set(indices[2048:])) == 2048
    assert epochs.tolist() == [0] * 2048 + [1] * 2048


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_steps_cover_each_epoch_once_without_a_gap(size: int, batch: int, seed: int) -> None:
    steps = [order.step_samples(start, batch, size, seed) for start in range(0, 4 * size, batch)]
    indices, epochs = (np.concatenate(parts) for parts in zip(*steps, strict=True))
    assert (epochs == np.arange(len(epochs)) // size).all()
    for epoch in range(4):
        assert sorted(indices[epochs == epoch]) == list(range(size))


@given(st.integers(0, 10**12), st.integers(1, 10**6), st.lists(st.integers(0, 40), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_the_stream_is_the_same_in_steps_of_any_size(position: int, size: int, parts: list[int]) -> None:
    at_once, epochs = order.step_samples(position, sum(parts), size, seed=3)
    starts = position + np.cumsum([0, *parts[:-1]])
    steps = [order.step_samples(int(start), part, size, seed=3) for start, part in zip(starts, parts, strict=True)]
    assert np.concatenate([indices for indices, _ in steps]).tolist() == at_once.tolist()
    assert np.concatenate([part for _, part in steps]).tolist() == epochs.tolist()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, second = order.step_samples(0, 2000, 1000, seed=5)[0].reshape(2, 1000)
    other = order.step_samples(0, 1000, 1000, seed=6)[0]
    assert (first == second).sum() < 10 and (first == other).sum() < 10 and (second == other).sum() < 10
    # The stream is part of what a run can be resumed with, so it must not change between versions.
    assert order.step_samples(0, 12, 10, seed=0)[0].tolist() == [7, 6, 5, 4, 8, 1, 0, 3, 2, 9, 0, 3]


@given(st.lists(st.integers(1, 512), max_size=150), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_a_deal_is_a_fair_partition(lengths: list[int], micro_batches: int) -> None:
    dealt = order.deal(np.array(lengths, np.int64), micro_batches)
    assert len(dealt) == micro_batches
    assert sorted(np.concatenate(dealt)) == list(range(len(lengths)))
    assert all((np.diff(members) > 0).all() for members in dealt)
    sizes = [len(members) for members in dealt]
    assert max(sizes) - min(sizes) <= 1
    # In alternating direction, the differences between two micro-batches alternate in sign from the longest sample to
    # the shortest, so they add up to at most the longest minus the shortest. A last round that is not full may add one
    # sample, which is no longer than the shortest before it.
    tokens = [sum(lengths[position] for position in members) for members in dealt]
    remainder = len(lengths) % micro_batches
    assert max(tokens) - min(tokens) <= max(lengths, default=0) - (0 if remainder else min(lengths, default=0))


@pytest.mark.parametrize(("count", "micro_batches"), [(32, 4), (30, 4), (32, 6), (256, 24), (7, 2)])
def test_tokens_are_balanced_better_than_by_chance(count: int, micro_batches: int) -> None:
    random = np.random.default_rng(0)
    ours, chance = [], []
    for _ in range(200):
        lengths = random.integers(5, 129, count)
        ours.append(np.ptp([lengths[members].sum() for members in order.deal(lengths, micro_batches)]))
        chance.append(np.ptp([part.sum() for part in np.array_split(lengths, micro_batches)]))
    assert np.mean(ours) < 0.3 * np.mean(chance)  # measured: 0.04 to 0.11, for 7 samples 0.23


def test_a_deal_by_hand() -> None:
    # Longest first, in alternating direction over two micro-batches: 9 8 | 7 5 | 4.
    dealt = order.deal(np.array([5, 9, 4, 8, 7]), 2)
    assert [members.tolist() for members in dealt] == [[0, 1, 2], [3, 4]]
    # The last round is not full and runs backwards: its sample goes to the micro-batch with the fewest tokens.
    assert [members.tolist() for members in order.deal(np.array([10, 1, 1]), 2)] == [[0], [1, 2]]
    assert [members.tolist() for members in order.deal(np.array([3]), 3)] == [[0], [], []]
    # Ties keep the order of the samples.
    assert [members.tolist() for members in order.deal(np.full(6, 4), 3)] == [[0, 5], [1, 4], [2, 3]]


@given(st.lists(st.integers(1, 512), min_size=1, max_size=150), st.integers(1, 40), st.sampled_from([0, 300]))
@settings(max_examples=200, deadline=None)
def test_a_deal_by_length_is_a_partition_with_little_padding(lengths: list[int], count: int, spare: int) -> None:
    dealt = order.deal_by_length(np.array(lengths, np.int64), count, spare)
    assert len(dealt) % count == 0
    assert sorted(np.concatenate(dealt)) == list(range(len(lengths)))
    assert max(len(members) for members in dealt) <= -(-len(lengths) // count)  # what a device has memory for
    for members in dealt:
        own = [lengths[position] for position in members]
        assert sum(max(own) - length for length in own) <= max(spare, 0.1 * len(own) * max(own, default=0))


def test_a_deal_by_length_by_hand() -> None:
    # Longest first: 100 95 91 | 50 50 48 | 20; 91 leaves 14 of 300 empty. By tokens 300, 150, 20 in turned rounds.
    lengths = np.array([50, 100, 20, 95, 50, 91, 48])
    dealt = order.deal_by_length(lengths, 2)
    assert [members.tolist() for members in dealt] == [[1, 3, 5], [0, 4, 6], [], [2]]
    assert [members.tolist() for members in order.deal_by_length(lengths, 2, spare=200)] == [[0, 1, 3, 5], [2, 4, 6]]


def test_a_deal_by_length_pads_by_less_than_a_tenth_and_balances_ranks() -> None:
    """Lengths like those of SST-2's phrases: 13 tokens on average, standard deviation 10."""
    random = np.random.default_rng(0)
    padding, apart, passes = [], [], []
    for _ in range(200):
        lengths = np.minimum(3 + random.geometric(0.1, 32), 64)
        dealt = order.deal_by_length(lengths, 2)
        padded = [len(members) * lengths[members].max(initial=0) for members in dealt]
        padding.append(1 - lengths.sum() / sum(padded))
        apart.append(abs(sum(padded[::2]) - sum(padded[1::2])) / sum(padded))
        passes.append(len(dealt) / 2)
    assert max(padding) < 0.1 and np.mean(apart) < 0.1
    assert np.mean(passes) < 7  # of each rank


def test_a_deal_is_a_function_of_the_lengths_and_leaves_them_alone() -> None:
    lengths = np.random.default_rng(1).integers(1, 60, 32)
    before = lengths.copy()
    first = order.deal(lengths, 6)
    assert (lengths == before).all()
    assert [members.tolist() for members in order.deal(list(lengths), 6)] == [members.tolist() for members in first]


@given(st.integers(1, 30), st.integers(1, 12))
def test_ranks_compute_each_micro_batch_once_and_equally_many(count: int, world_size: int) -> None:
    dealt = [np.array([10 * index]) for index in range(count)]
    ranks = [order.rank_micro_batches(dealt, rank, world_size) for rank in range(world_size)]
    assert {len(own) for own in ranks} == {-(-count // world_size)}
    indices = sorted(index for own in ranks for index, _ in own)
    assert indices == list(range(len(indices)))
    for rank, own in enumerate(ranks):
        for index, members in own:
            assert index % world_size == rank
            assert members.tolist() == ([10 * index] if index < count else [])
