"""Masked language modelling: which tokens of a sample are asked for, and what stands in their places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from warmup.training import order
from warmup.training.batches import IGNORED, MicroBatch, padded_inputs
from warmup.training.outcome import UserError
from warmup.training.tokens import Samples


def masker(tokenizer: PreTrainedTokenizerBase, rate: float) -> Callable[..., MicroBatch]:
    """BERT's masking: of a part of the tokens 80% become [MASK], 10% another token, 10% stay (Devlin et al., 3.1).

    The part is a number, as in their code, and not a coin for each token: round(rate * n) of a sample's n tokens that
    are not special, halves up, and at least one. Keyed by (seed, epoch, sample), whoever computes it.
    """
    if tokenizer.mask_token_id is None:
        raise UserError("data.tokenizer: has no mask token, which task: mlm needs")
    special = np.array(sorted(tokenizer.all_special_ids))
    regular = np.setdiff1d(np.arange(len(tokenizer)), special)

    def collate(samples: Samples, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
        ids_BT, mask_BT, _ = samples.take(indices)
        keys_BT = order.key(order.key(seed, epochs, indices)[:, None], np.arange(ids_BT.shape[1]))
        chosen_BT = _choose(keys_BT, mask_BT & ~np.isin(ids_BT, special), rate)
        fate_BT = order.uniform(order.key(keys_BT, 1))
        other_BT = regular[(order.uniform(order.key(keys_BT, 2)) * len(regular)).astype(np.int64)]
        masked_BT = np.where(fate_BT < 0.8, tokenizer.mask_token_id, np.where(fate_BT < 0.9, other_BT, ids_BT))
        targets_BT = torch.from_numpy(np.where(chosen_BT, ids_BT, IGNORED))
        inputs = padded_inputs(np.where(chosen_BT, masked_BT, ids_BT), mask_BT, tokenizer)
        return MicroBatch(inputs, targets_BT, int(chosen_BT.sum()), int(mask_BT.sum()))

    return collate


def _choose(keys_BT: np.ndarray, eligible_BT: np.ndarray, rate: float) -> np.ndarray:
    """In each row, the round(rate * n) of its n eligible places with the smallest keys, at least one if n > 0."""
    eligible_B = eligible_BT.sum(1)
    counts_B = np.minimum(np.maximum(np.floor(rate * eligible_B + 0.5), 1), eligible_B)
    draws_BT = np.where(eligible_BT, order.uniform(keys_BT), 2.0)
    ranks_BT = draws_BT.argsort(1, kind="stable").argsort(1, kind="stable")
    return ranks_BT < counts_B[:, None]
