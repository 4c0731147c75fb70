"""Masked language modelling: which tokens or words of a sample are asked for, and what stands in their places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from warmup.errors import UserError
from warmup.training.data import order
from warmup.training.data.batching.micro_batch import MicroBatch, padded_inputs
from warmup.training.data.samples import IGNORE_INDEX, Samples


def masker(tokenizer: PreTrainedTokenizerBase, rate: float) -> Callable[..., MicroBatch]:
    """BERT's masking: of a part of the tokens 80% become [MASK], 10% another token, 10% stay (Devlin et al., 3.1).

    The part is a number, as in their code, and not a coin for each token: round(rate * n) of a sample's n tokens that
    are not special, halves up, and at least one. Keyed by (seed, epoch, sample), whoever computes it. Where samples
    have words, whole ones are chosen, of so many tokens at most; each token has a fate of its own.
    """
    if tokenizer.mask_token_id is None:
        raise UserError("data.tokenizer: has no mask token, which task: mlm needs")
    special = np.array(sorted(tokenizer.all_special_ids))
    regular = np.setdiff1d(np.arange(len(tokenizer)), special)

    def collate(samples: Samples, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
        ids_BT, mask_BT, columns = samples.take(indices)
        keys_BT = order.key(order.key(seed, epochs, indices)[:, None], np.arange(ids_BT.shape[1]))
        eligible_BT = mask_BT & ~np.isin(ids_BT, special)
        if "word" in columns:
            chosen_BT = _choose_words(keys_BT, eligible_BT, columns["word"], rate)
        else:
            chosen_BT = _choose(keys_BT, eligible_BT, rate)
        fate_BT = order.uniform(order.key(keys_BT, 1))
        other_BT = regular[(order.uniform(order.key(keys_BT, 2)) * len(regular)).astype(np.int64)]
        masked_BT = np.where(fate_BT < 0.8, tokenizer.mask_token_id, np.where(fate_BT < 0.9, other_BT, ids_BT))
        targets_BT = torch.from_numpy(np.where(chosen_BT, ids_BT, IGNORE_INDEX))
        inputs = padded_inputs(np.where(chosen_BT, masked_BT, ids_BT), mask_BT, tokenizer)
        return MicroBatch(inputs, targets_BT, int(chosen_BT.sum()), int(mask_BT.sum()))

    return collate


def _choose(keys_BT: np.ndarray, eligible_BT: np.ndarray, rate: float) -> np.ndarray:
    """In each row, the round(rate * n) of its n eligible places with the smallest keys, at least one if n > 0."""
    counts_B = _counts(eligible_BT, rate)
    draws_BT = np.where(eligible_BT, order.uniform(keys_BT), 2.0)
    ranks_BT = draws_BT.argsort(1, kind="stable").argsort(1, kind="stable")
    return ranks_BT < counts_B[:, None]


def _choose_words(keys_BT: np.ndarray, eligible_BT: np.ndarray, word_BT: np.ndarray, rate: float) -> np.ndarray:
    """In each row, the eligible places of words: in the order of the words' keys those that fit into round(rate * n)
    places, where one that does not is passed over (create_pretraining_data.py of Devlin et al. 2018, its
    do_whole_word_mask; there of all tokens, and none where none fits, here at least one word if there are any).
    """
    rows, words = len(word_BT), word_BT.max() + 1
    flat_N = (word_BT + words * np.arange(rows)[:, None])[eligible_BT]
    sizes_BW = np.bincount(flat_N, minlength=rows * words).reshape(rows, words)
    draws_BW = np.where(sizes_BW > 0, order.uniform(keys_BT[:, :words]), 2.0)
    order_BW = draws_BW.argsort(1, kind="stable")
    taken_BW = np.empty(sizes_BW.shape, bool)
    fitting_BW = _fitting(np.take_along_axis(sizes_BW, order_BW, 1), _counts(eligible_BT, rate))
    np.put_along_axis(taken_BW, order_BW, fitting_BW, 1)
    return np.take_along_axis(taken_BW, word_BT, 1) & eligible_BT


def _fitting(sizes_BW: np.ndarray, room_B: np.ndarray) -> np.ndarray:
    """In each row, which sizes are taken one after the other, each that still has room; the first if none has.

    A turn takes those up to the first that has none, and after it every size that has none any more is out: there are
    no more turns than different sizes.
    """
    room_B1, left_BW = room_B[:, None], sizes_BW > 0
    taken_BW = np.zeros(sizes_BW.shape, bool)
    while left_BW.any():
        now_BW = left_BW & (np.where(left_BW, sizes_BW, 0).cumsum(1) <= room_B1)
        taken_BW |= now_BW
        room_B1 = room_B1 - (sizes_BW * now_BW).sum(1, keepdims=True)
        left_BW &= ~now_BW & (sizes_BW <= room_B1)
    taken_BW[:, 0] |= ~taken_BW.any(1) & (sizes_BW[:, 0] > 0)
    return taken_BW


def _counts(eligible_BT: np.ndarray, rate: float) -> np.ndarray:
    eligible_B = eligible_BT.sum(1)
    return np.minimum(np.maximum(np.floor(rate * eligible_B + 0.5), 1), eligible_B)
