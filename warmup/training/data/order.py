"""The global order of samples: which samples a step takes, and which rank computes them. Pure numpy.

The training set is an endless stream. Epoch e is a permutation of 0..N-1 keyed by (seed, e), and epochs follow one
another without a gap. The permutation is computed, not stored: a Feistel network over the next power of four above N,
walked until it falls inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", sections 4 and 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

_ROUNDS = 12
_SHIFTS_AND_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014): uint64 to uint64, one to one, every bit depends on every bit."""
    values = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in _SHIFTS_AND_FACTORS:
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


def key(*parts: int | np.ndarray) -> np.ndarray:
    """Hash several integers into one uint64 key; arrays give an array of keys. The order of the parts matters."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = mix(state ^ mix(np.asarray(part, np.uint64)))
    return state


def uniform(keys: np.ndarray) -> np.ndarray:
    """Map keys to floats in [0, 1), with 53 random bits."""
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(indices: np.ndarray, size: int, keys: np.ndarray | int) -> np.ndarray:
    """Apply a keyed permutation of 0..size-1 to `indices`. Vectorised, in constant memory.

    Args:
        indices: Numbers from 0 to size - 1.
        size: How many numbers are permuted.
        keys: One key for all indices, or one for each.

    Returns:
        The permuted indices, int64.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    result = np.asarray(indices, np.int64).astype(np.uint64)
    keys = np.broadcast_to(np.asarray(keys, np.uint64), result.shape)
    outside = np.ones(result.shape, bool)
    while outside.any():
        result[outside] = _encrypt(result[outside], half, keys[outside])
        outside = result >= np.uint64(size)
    return result.astype(np.int64)


def _encrypt(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    """A balanced Feistel network on 2 * half bits."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    with np.errstate(over="ignore"):
        for round_index in range(_ROUNDS):
            left, right = right, left ^ (mix(keys ^ mix(right + np.uint64(round_index << 40))) & mask)
    return (left << half) | right


def step_samples(position: int, count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples at positions `position` to `position + count - 1` of the endless stream.

    Args:
        position: How many samples of the stream were consumed before.
        count: How many samples to take.
        size: Number of samples in the training set.
        seed: Seed of the order.

    Returns:
        (indices, epochs), each (count,) int64.
    """
    positions = position + np.arange(count, dtype=np.int64)
    epochs = positions // size
    return permute(positions % size, size, key(seed, epochs)), epochs


def deal(lengths: np.ndarray, micro_batches: int) -> list[np.ndarray]:
    """Deal the samples of a step into micro-batches of about equal size and equally many tokens.

    Sizes differ by at most one. Tokens are balanced by dealing from the longest sample to the shortest, in alternating
    direction. The result depends on the arguments only, so that each rank computes it for itself.

    Args:
        lengths: Tokens of each sample.
        micro_batches: Number of micro-batches, of all ranks together. Some are empty if there are fewer samples.

    Returns:
        For each micro-batch the positions of its samples within the step, in ascending order.
    """
    longest_first = np.argsort(-np.asarray(lengths), kind="stable")
    rounds, columns = np.divmod(np.arange(len(longest_first)), micro_batches)
    indices = np.where(rounds % 2 == 0, columns, micro_batches - 1 - columns)
    return [np.sort(longest_first[indices == index]) for index in range(micro_batches)]


def deal_by_length(lengths: np.ndarray, micro_batches: int, spare: int = 0) -> list[np.ndarray]:
    """Deal the samples of a step into more micro-batches, of samples about equally long, for a model that pads them.

    From the longest sample to the shortest, a new micro-batch begins where padding would be more than a tenth of the
    last one, or where that has as many samples as the largest one of `deal`. Their tokens are balanced over ranks. The
    result depends on the arguments only.

    Args:
        lengths: Tokens of each sample.
        micro_batches: What the number of micro-batches is to be a multiple of.
        spare: Padding, in tokens, that costs less than a micro-batch more.

    Returns:
        As `deal`. The last ones may be empty.
    """
    longest_first = np.argsort(-np.asarray(lengths), kind="stable")
    most = -(-len(longest_first) // micro_batches)
    groups = [longest_first[start:end] for start, end in pairwise(_cuts(lengths[longest_first], most, spare))]
    groups.sort(key=lambda group: -len(group) * int(lengths[group[0]]))
    groups += [longest_first[:0]] * (-len(groups) % micro_batches)
    rounds = [groups[start : start + micro_batches] for start in range(0, len(groups), micro_batches)]
    turned = (group if number % 2 == 0 else group[::-1] for number, group in enumerate(rounds))
    return [np.sort(members) for group in turned for members in group]


def _cuts(lengths: np.ndarray, most: int, spare: int) -> list[int]:
    """Where to cut a list of falling lengths: as `deal_by_length`, with at most `most` samples between two cuts."""
    cuts, tokens = [0], 0
    for index, length in enumerate(lengths.tolist()):
        count = index - cuts[-1]
        padded = (count + 1) * int(lengths[cuts[-1]])
        padding = padded - tokens - length
        if count == most or (10 * padding > padded and padding > spare):
            cuts.append(index)
            tokens = 0
        tokens += length
    return [*cuts, len(lengths)]


def rank_micro_batches(micro_batches: Sequence[np.ndarray], rank: int, world_size: int) -> list[tuple[int, np.ndarray]]:
    """The micro-batches that a rank computes: every `world_size`-th one, from its own rank on.

    Args:
        micro_batches: Those of all ranks, as `deal` returns them.
        rank: The rank.
        world_size: Number of ranks.

    Returns:
        (index, micro-batch) pairs, equally many on every rank; beyond the last micro-batch they are empty.
    """
    accumulation = -(-len(micro_batches) // world_size)
    indices = range(rank, accumulation * world_size, world_size)
    empty = np.zeros(0, np.int64)
    return [(index, micro_batches[index] if index < len(micro_batches) else empty) for index in indices]
