"""Documents cut into windows, the samples of a language model. No tail is dropped, and no documents are joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from warmup.errors import UserError
from warmup.training.models import gpt2

TokenizeBatch = Callable[[dict[str, Sequence]], dict[str, list]]
"""A batch of rows, columns of which `text` is one -> a batch of samples: ids, length and, for whole words, word."""


def window_tokenizer(
    task: str, tokenizer: PreTrainedTokenizerBase, limit: int, whole_words: bool = False
) -> TokenizeBatch:
    """How the documents of a language model are cut, into windows of at most `limit` tokens."""
    if task == "clm":
        return _causal_windows(tokenizer, limit)
    if whole_words:
        _check_words(tokenizer)
    return _masked_windows(tokenizer, limit, whole_words)


def _causal_windows(tokenizer: PreTrainedTokenizerBase, limit: int) -> TokenizeBatch:
    """For causal language modelling: each window after the first begins with the last token of the one before, so that
    of each document every token, and its end, is the one after another exactly once.
    """
    first, last = gpt2.boundary_tokens(tokenizer)

    def cut(batch: dict[str, Sequence]) -> dict[str, list]:
        documents = tokenizer(list(batch["text"]), add_special_tokens=False, verbose=False)["input_ids"]
        whole = [[first, *document, last] for document in documents if document]
        ids = [document[at : at + limit] for document in whole for at in range(0, len(document) - 1, limit - 1)]
        return {"ids": ids, "length": [len(window) for window in ids]}

    return cut


def _masked_windows(tokenizer: PreTrainedTokenizerBase, limit: int, whole_words: bool) -> TokenizeBatch:
    """For masked language modelling: each window between [CLS] and [SEP]. With `whole_words`, `word` is the number of
    each token's word within its window; of a word that is cut, each part is one.
    """
    first, last, body = tokenizer.cls_token_id, tokenizer.sep_token_id, limit - 2

    def cut(batch: dict[str, Sequence]) -> dict[str, list]:
        encoded = tokenizer(list(batch["text"]), add_special_tokens=False, verbose=False)
        documents = encoded["input_ids"]
        places = [(row, at) for row, document in enumerate(documents) for at in range(0, len(document), body)]
        ids = [[first, *documents[row][at : at + body], last] for row, at in places]
        samples = {"ids": ids, "length": [len(window) for window in ids]}
        if whole_words:
            words = [encoded.word_ids(row) for row in range(len(documents))]
            samples["word"] = [_numbered([None, *words[row][at : at + body], None]) for row, at in places]
        return samples

    return cut


def _numbered(words: list[int | None]) -> list[int]:
    """Words by number from 0, without gaps; what is of no word is one of its own."""
    numbers = np.array([-1 if word is None else word for word in words])
    begins = (numbers[1:] != numbers[:-1]) | (numbers[1:] < 0)
    return [0, *np.cumsum(begins).tolist()]


def _check_words(tokenizer: PreTrainedTokenizerBase) -> None:
    if len(set(tokenizer("one two", add_special_tokens=False).word_ids())) < 2:
        raise UserError("data.whole_words: the tokenizer does not tell words apart; leave it out")
