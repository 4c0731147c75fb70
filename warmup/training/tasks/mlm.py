"""Masked language modelling: BERT's pretraining (Devlin et al. 2018, arXiv:1810.04805, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerBase

from warmup.config import Config
from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data import order
from warmup.training.data.batching.micro_batch import MicroBatch, padded_inputs, token_targets
from warmup.training.data.batching.prefetcher import Collate
from warmup.training.data.readers.columns import RowFormat, text_column
from warmup.training.data.samples import SampleSource
from warmup.training.data.tokenizers.texts import tokenize_for_prediction
from warmup.training.data.tokenizers.windows import TokenizeBatch, masked_windows
from warmup.training.models.input_layout import Head
from warmup.training.tasks.losses import cross_entropy, cross_entropy_sum
from warmup.training.tasks.metrics import correct_and_total, language_metrics
from warmup.training.tasks.task import Objective, Predictor, Task, best_index


class MaskedLM(Task):
    """Predicts masked tokens, or with `data.whole_words` the tokens of masked words, of windows of documents."""

    facts = TASKS["mlm"]
    auto_class: Any = AutoModelForMaskedLM
    head: Head = "token"

    def __init__(self, config: Config):
        self._data = config.data
        self.row_format = RowFormat.of(config.data, text_column())
        numbers = datasets.List(datasets.Value("int32"))
        self.features: Mapping[str, Any] = {"token_words": numbers} if config.data.whole_words else {}

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> TokenizeBatch:
        return masked_windows(tokenizer, self._data.max_length, self._data.whole_words)

    def objective(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], train: Any) -> Objective:
        return Objective(
            collate=masking(tokenizer, self._data.mask_rate),
            losses=cross_entropy,
            training_loss_sum=cross_entropy_sum,
            results=correct_and_total,
            width=2,
            metrics=language_metrics,
        )

    def predictor(
        self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], settings: Mapping[str, Any]
    ) -> Predictor:
        """The likeliest token for each mask by itself, and the text with them as the tokenizer writes it."""
        mask_id = tokenizer.mask_token_id
        if mask_id is None:
            raise UserError("--model: its tokenizer has no mask token, which task: mlm needs")

        def tokenize(batch: dict[str, Any]) -> dict[str, list]:
            columns = tokenize_for_prediction(batch, tokenizer, self._data.max_length)
            return columns | {"token_targets": [[int(token == mask_id) for token in ids] for ids in columns["ids"]]}

        def to_record(values: np.ndarray, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
            (sample,) = samples
            filled, ids = values[:, 0].astype(np.int64), np.array(sample["ids"])
            ids[np.array(sample["token_targets"]) == 1] = filled
            tokens = [tokenizer.decode([token]) for token in filled.tolist()]
            return {"tokens": tokens, "text": tokenizer.decode(ids.tolist(), skip_special_tokens=True)}

        return Predictor(
            row_format=self.row_format,
            tokenize=tokenize,
            features={},
            width=1,
            postprocess=best_index,
            to_record=to_record,
            no_target_message=f"holds no {tokenizer.mask_token} to fill in",
        )


def masking(tokenizer: PreTrainedTokenizerBase, rate: float) -> Collate:
    """BERT's masking: of the chosen tokens 80% become [MASK], 10% another token, and 10% stay as they are.

    As in the authors' code, a fixed number of tokens is chosen and no coin is tossed for each one: round(rate * n) of
    the n tokens of a sample that are not special, halves up, and at least one. If samples have words, whole words are
    chosen, with at most so many tokens in all; each token is replaced independently.
    """
    if tokenizer.mask_token_id is None:
        raise UserError("data.tokenizer: has no mask token, which task: mlm needs")
    special = np.array(sorted(tokenizer.all_special_ids))
    regular = np.setdiff1d(np.arange(len(tokenizer)), special)

    def collate(samples: SampleSource, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
        ids_BT, mask_BT, columns = samples.gather(indices)
        keys_BT = order.key(order.key(seed, epochs, indices)[:, None], np.arange(ids_BT.shape[1]))
        eligible_BT = mask_BT & ~np.isin(ids_BT, special)
        if "token_words" in columns:
            chosen_BT = choose_words(keys_BT, eligible_BT, columns["token_words"], rate)
        else:
            chosen_BT = choose_tokens(keys_BT, eligible_BT, rate)
        draw_BT = order.uniform(order.key(keys_BT, 1))
        other_BT = regular[(order.uniform(order.key(keys_BT, 2)) * len(regular)).astype(np.int64)]
        masked_BT = np.where(draw_BT < 0.8, tokenizer.mask_token_id, np.where(draw_BT < 0.9, other_BT, ids_BT))
        inputs = padded_inputs(np.where(chosen_BT, masked_BT, ids_BT), mask_BT, tokenizer)
        return token_targets(inputs, chosen_BT, ids_BT)

    return collate


def choose_tokens(keys_BT: np.ndarray, eligible_BT: np.ndarray, rate: float) -> np.ndarray:
    """In each row, the round(rate * n) of its n eligible tokens with the smallest keys, at least one if n > 0."""
    counts_B = _target_counts(eligible_BT, rate)
    draws_BT = np.where(eligible_BT, order.uniform(keys_BT), 2.0)
    ranks_BT = draws_BT.argsort(1, kind="stable").argsort(1, kind="stable")
    return ranks_BT < counts_B[:, None]


def choose_words(keys_BT: np.ndarray, eligible_BT: np.ndarray, words_BT: np.ndarray, rate: float) -> np.ndarray:
    """In each row, the eligible tokens of words, in the order of the words' keys, that fit into round(rate * n) tokens;
    a word that does not fit is passed over. (Devlin et al. 2018, create_pretraining_data.py, do_whole_word_mask. There
    the rate is of all tokens, and none is chosen if none fits; here at least one word if there are any.)
    """
    rows, words = len(words_BT), words_BT.max() + 1
    flat_N = (words_BT + words * np.arange(rows)[:, None])[eligible_BT]
    sizes_BW = np.bincount(flat_N, minlength=rows * words).reshape(rows, words)
    draws_BW = np.where(sizes_BW > 0, order.uniform(keys_BT[:, :words]), 2.0)
    order_BW = draws_BW.argsort(1, kind="stable")
    chosen_BW = np.empty(sizes_BW.shape, bool)
    fitting_BW = fitting(np.take_along_axis(sizes_BW, order_BW, 1), _target_counts(eligible_BT, rate))
    np.put_along_axis(chosen_BW, order_BW, fitting_BW, 1)
    return np.take_along_axis(chosen_BW, words_BT, 1) & eligible_BT


def fitting(sizes_BW: np.ndarray, room_B: np.ndarray) -> np.ndarray:
    """In each row, which sizes are taken one after the other, each that still fits; the first one if none does.

    Each round takes sizes up to the first that does not fit, and drops every size that fits no more. So there are no
    more rounds than different sizes.
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


def _target_counts(eligible_BT: np.ndarray, rate: float) -> np.ndarray:
    eligible_B = eligible_BT.sum(1)
    return np.minimum(np.maximum(np.floor(rate * eligible_B + 0.5), 1), eligible_B)
