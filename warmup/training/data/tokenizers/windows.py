"""Splitting documents into windows, the samples of a language model.

No tail of a document is dropped, and documents are not joined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from warmup.errors import UserError
from warmup.training.models import gpt2

TokenizeBatch = Callable[[dict[str, Sequence]], dict[str, list]]
"""Turns a batch of rows, with a column `text`, into samples: {ids, length} and, for whole words, {token_words}."""


def causal_windows(tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenizeBatch:
    """Windows for causal language modelling.

    Each window but a document's first begins with the last token of the window before. So every token of a document,
    and the token that ends it, is a next token to predict exactly once.

    Args:
        tokenizer: A fast tokenizer with a token that ends a text.
        max_length: The most tokens of a window.
    """
    bos, eos = gpt2.boundary_tokens(tokenizer)

    def tokenize(batch: dict[str, Sequence]) -> dict[str, list]:
        documents = tokenizer(list(batch["text"]), add_special_tokens=False, verbose=False)["input_ids"]
        bounded = [[bos, *document, eos] for document in documents if document]
        stride = max_length - 1
        ids = [
            document[start : start + max_length]
            for document in bounded
            for start in range(0, len(document) - 1, stride)
        ]
        return {"ids": ids, "length": [len(window) for window in ids]}

    return tokenize


def masked_windows(tokenizer: PreTrainedTokenizerBase, max_length: int, whole_words: bool = False) -> TokenizeBatch:
    """Windows for masked language modelling, each between [CLS] and [SEP].

    Args:
        tokenizer: A fast tokenizer with [CLS] and [SEP].
        max_length: The most tokens of a window.
        whole_words: Whether samples have a column `token_words`: for each token the index of its word within the
            window. The two parts of a word that a window's end splits count as words of their own.

    Raises:
        UserError: `whole_words` is set and the tokenizer does not split texts into words.
    """
    if whole_words:
        _check_splits_words(tokenizer)
    cls, sep, body_length = tokenizer.cls_token_id, tokenizer.sep_token_id, max_length - 2

    def tokenize(batch: dict[str, Sequence]) -> dict[str, list]:
        encoded = tokenizer(list(batch["text"]), add_special_tokens=False, verbose=False)
        documents = encoded["input_ids"]
        windows = [
            (row, slice(start, start + body_length))
            for row, document in enumerate(documents)
            for start in range(0, len(document), body_length)
        ]
        ids = [[cls, *documents[row][body], sep] for row, body in windows]
        samples = {"ids": ids, "length": [len(window) for window in ids]}
        if whole_words:
            word_ids = [encoded.word_ids(row) for row in range(len(documents))]
            samples["token_words"] = [_word_indices([None, *word_ids[row][body], None]) for row, body in windows]
        return samples

    return tokenize


def _word_indices(word_ids: list[int | None]) -> list[int]:
    """Number the words from 0 without gaps; each token that belongs to no word gets a number of its own."""
    ids = np.array([-1 if word is None else word for word in word_ids])
    begins_word = (ids[1:] != ids[:-1]) | (ids[1:] < 0)
    return [0, *np.cumsum(begins_word).tolist()]


def _check_splits_words(tokenizer: PreTrainedTokenizerBase) -> None:
    if len(set(tokenizer("one two", add_special_tokens=False).word_ids())) < 2:
        raise UserError("data.whole_words: the tokenizer does not tell words apart; leave it out")
