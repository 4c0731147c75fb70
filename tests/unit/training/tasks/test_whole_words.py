"""Whole-word masking: as many tokens as without it, and each of them is replaced independently."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_samples import CLS, MASK, SEP, UNK, VOCABULARY, collate, dense_targets, mlm, samples
from transformers import BertTokenizerFast

from warmup.training.data import order
from warmup.training.data.samples import IGNORE_INDEX, Samples
from warmup.training.tasks.mlm import fitting


def samples_of_words(count: int, longest: int = 60) -> Samples:
    """Samples of words of 1 to 6 tokens, with an unknown token here and there."""
    random = np.random.default_rng(0)
    ids, words = [], []
    for _ in range(count):
        sizes = random.choice([1, 2, 3, 6], random.integers(1, longest // 2), p=[0.7, 0.15, 0.1, 0.05])
        body = random.integers(5, VOCABULARY, sizes.sum())
        body[random.random(len(body)) < 0.02] = UNK
        ids.append([CLS, *body.tolist(), SEP])
        words.append([0, *np.repeat(np.arange(1, len(sizes) + 1), sizes).tolist(), len(sizes) + 1])
    return samples_of(ids, words)


def samples_of(ids: list[list[int]], words: list[list[int]]) -> Samples:
    return samples(ids, token_words=words)


def by_the_book(sizes: list[int], room: int) -> list[bool]:
    """One word after the other (create_pretraining_data.py, Devlin et al. 2018), and at least one."""
    taken, used = [], 0
    for size in sizes:
        taken.append(0 < size <= room - used)
        used += size * taken[-1]
    return taken if any(taken) or not sizes or not sizes[0] else [True, *taken[1:]]


@given(st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=5), st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_words_are_taken_while_they_fit(rows: list[list[int]], room: int) -> None:
    width = max(map(len, rows)) + 1
    sizes_BW = np.array([row + [0] * (width - len(row)) for row in rows])
    chosen = fitting(sizes_BW, np.full(len(rows), room))
    assert chosen.tolist() == [by_the_book(row, room) for row in sizes_BW.tolist()]


def test_no_word_is_half_chosen_and_the_rate_is_the_requested_one(tokenizer: BertTokenizerFast) -> None:
    rows = samples_of_words(3000)
    ids_BT, mask_BT, columns = rows.gather(np.arange(3000))
    chosen_BT = (dense_targets(collate(mlm(tokenizer), rows, range(3000))) != IGNORE_INDEX).numpy()
    eligible_BT = mask_BT & (ids_BT >= 5)
    assert not (chosen_BT & ~eligible_BT).any()
    requested, count = 0, 0
    for chosen, eligible, words in zip(chosen_BT, eligible_BT, columns["token_words"]):
        of_words = [(chosen[(words == word) & eligible]) for word in range(words.max() + 1)]
        assert all(part.all() or not part.any() for part in of_words)
        room = max(1, math.floor(0.15 * eligible.sum() + 0.5))
        smallest = min((len(part) for part in of_words if len(part)), default=0)
        assert chosen.sum() <= room or sum(part.any() for part in of_words) == 1
        assert chosen.any() or not eligible.any()
        if smallest == 1 and sum(len(part) == 1 for part in of_words) >= room:
            assert chosen.sum() == room  # there is always one that fits
        requested, count = requested + room, count + chosen.sum()
    assert count == pytest.approx(requested, rel=0.01)


def test_the_first_word_is_taken_where_none_fits(tokenizer: BertTokenizerFast) -> None:
    """5 tokens, of which 15 % is 1: in a word of 2 and one of 3."""
    rows = samples_of([[CLS, 10, 11, 12, 13, 14, SEP]] * 400, [[0, 1, 1, 2, 2, 2, 3]] * 400)
    chosen = (dense_targets(collate(mlm(tokenizer), rows, range(400))) != IGNORE_INDEX).numpy()
    first = chosen[:, 1]
    assert (chosen[:, 1:3] == first[:, None]).all() and (chosen[:, 3:6] == ~first[:, None]).all()
    assert abs(first.sum() - 200) < 5 * 10


def test_every_word_of_a_size_is_chosen_as_often(tokenizer: BertTokenizerFast) -> None:
    word = [0, *range(1, 11), *[11] * 2, *[12] * 2, 13]
    rows = samples_of([[CLS, *range(10, 24), SEP]] * 4000, [word] * 4000)
    counts = (dense_targets(collate(mlm(tokenizer), rows, range(4000))) != IGNORE_INDEX).sum(0).numpy()  # 2 of 14 each
    assert counts.sum() == 8000 and counts[11] == counts[12] and counts[13] == counts[14]
    ones, twos = counts[1:11], counts[[11, 13]]
    assert ((ones - ones.mean()) ** 2 / ones.mean()).sum() < 28  # chi-square of 9 freedom, beyond in 0.1 % of all cases
    # A pair is taken where it comes first of all twelve words, 1 in 12: after a single one there is no room for it.
    assert np.abs(twos - 4000 / 12).max() < 5 * math.sqrt(4000 / 12)


def test_each_token_of_a_word_is_replaced_independently(tokenizer: BertTokenizerFast) -> None:
    """80/10/10 for each token (Devlin et al. 2018), for the second of a word whatever the first's was."""
    rows = samples_of([[CLS, *range(10, 30), SEP]] * 6000, [[0, *np.repeat(np.arange(1, 11), 2).tolist(), 11]] * 6000)
    batch = collate(mlm(tokenizer), rows, range(6000))
    original, inputs = rows.gather(np.arange(6000))[0], batch.inputs["input_ids"].numpy()
    chosen = (dense_targets(batch) != IGNORE_INDEX).numpy()
    assert chosen.sum() == 6000 * 2  # of 3 that would be chosen: one word
    masked = (inputs == MASK)[chosen].reshape(-1, 2)
    kept = (inputs == original)[chosen].reshape(-1, 2)
    for fraction, expected in ((masked, 0.8), (kept, 0.1 + 0.1 / (VOCABULARY - 5))):
        assert abs(fraction.mean() - expected) < 5 * math.sqrt(expected * (1 - expected) / fraction.size)
    for first in (True, False):
        after = masked[masked[:, 0] == first][:, 1]
        assert abs(after.mean() - 0.8) < 5 * math.sqrt(0.16 / len(after))


def test_words_do_not_depend_on_the_rest_of_the_batch(tokenizer: BertTokenizerFast) -> None:
    objective, rows = mlm(tokenizer), samples_of_words(30)
    indices = np.array([7, 3, 29, 3, 11])
    batch = collate(objective, rows, indices, epoch=2)
    targets = dense_targets(batch)
    for row, index in enumerate(indices):
        alone, length = collate(objective, rows, [index], epoch=2), int(rows.lengths[index])
        assert (batch.inputs["input_ids"][row, :length] == alone.inputs["input_ids"][0]).all()
        assert (targets[row, :length] == dense_targets(alone)[0]).all()
        assert (targets[row, length:] == IGNORE_INDEX).all()
    assert (targets != dense_targets(collate(objective, rows, indices, epoch=3))).any()
    assert order.key(1, 2) != order.key(2, 1)
