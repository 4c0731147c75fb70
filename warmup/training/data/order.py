"""The one global order of samples: which samples a step takes, and which rank computes them. Pure numpy.

The training set is an endless stream. Epoch e is a permutation of 0..N-1 keyed by (seed, e), and epochs follow each
other without a gap. The permutation is computed, not stored: a Feistel network over the next power of four above N,
walked until it falls inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", sections 4 and 5).
"""

from __future__ import annotations

from collections.abc import Sequence

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
    """One uint64 key of several integers; arrays give an array of keys. The order of the parts matters."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = mix(state ^ mix(np.asarray(part, np.uint64)))
    return state


def uniform(keys: np.ndarray) -> np.ndarray:
    """Keys as numbers in 0 <= x < 1, with 53 bits."""
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(indices: np.ndarray, size: int, keys: np.ndarray | int) -> np.ndarray:
    """Where a keyed permutation of 0..size-1 takes `indices` (int64). Constant memory, vectorised.

    `keys`: one key for all indices, or one for each.
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
        for number in range(_ROUNDS):
            left, right = right, left ^ (mix(keys ^ mix(right + np.uint64(number << 40))) & mask)
    return (left << half) | right


def step_samples(drawn: int, count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The stream's next `count` samples after position `drawn`: (indices, epochs), int64, of a set of `size`."""
    positions = drawn + np.arange(count, dtype=np.int64)
    epochs = positions // size
    return permute(positions % size, size, key(seed, epochs)), epochs


def deal(lengths: np.ndarray, slots: int) -> list[np.ndarray]:
    """Deal a step's samples into micro-batches: positions within the step, for each slot, in ascending order.

    Sizes differ by at most one; tokens are balanced by dealing from the longest to the shortest, to and fro. A pure
    function of lengths and slots, so that ranks can compute it each for itself. Slots may be empty.
    """
    longest_first = np.argsort(-np.asarray(lengths), kind="stable")
    rounds, seats = np.divmod(np.arange(len(longest_first)), slots)
    slot_of = np.where(rounds % 2 == 0, seats, slots - 1 - seats)
    return [np.sort(longest_first[slot_of == slot]) for slot in range(slots)]


def rank_micro_batches(slots: Sequence[np.ndarray], rank: int, world_size: int) -> list[tuple[int, np.ndarray]]:
    """The slots that a rank computes, with their numbers; every rank gets as many, the missing ones are empty."""
    rounds = -(-len(slots) // world_size)
    numbers = range(rank, rounds * world_size, world_size)
    empty = np.zeros(0, np.int64)
    return [(number, slots[number] if number < len(slots) else empty) for number in numbers]
