"""Documents cut into windows, the samples of a language model. No tail is dropped, and no documents are joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from warmup.training import causal

Cut = Callable[[dict[str, Sequence]], dict[str, list]]
"""A batch of rows, columns of which `text` is one -> a batch of samples: ids and length."""


def cutter(task: str, tokenizer: PreTrainedTokenizerBase, limit: int) -> Cut:
    """How the documents of a language model are cut, into windows of at most `limit` tokens."""
    if task == "clm":
        return _following(tokenizer, limit)
    return _enclosed(tokenizer, limit)


def _following(tokenizer: PreTrainedTokenizerBase, limit: int) -> Cut:
    """For causal language modelling: each window after the first begins with the last token of the one before, so that
    of each document every token, and its end, is the one after another exactly once.
    """
    first, last = causal.ends(tokenizer)

    def cut(batch: dict[str, Sequence]) -> dict[str, list]:
        documents = tokenizer(list(batch["text"]), add_special_tokens=False, verbose=False)["input_ids"]
        whole = [[first, *document, last] for document in documents if document]
        ids = [document[at : at + limit] for document in whole for at in range(0, len(document) - 1, limit - 1)]
        return {"ids": ids, "length": [len(window) for window in ids]}

    return cut


def _enclosed(tokenizer: PreTrainedTokenizerBase, limit: int) -> Cut:
    """For masked language modelling: each window between [CLS] and [SEP]."""
    first, last, body = tokenizer.cls_token_id, tokenizer.sep_token_id, limit - 2

    def cut(batch: dict[str, Sequence]) -> dict[str, list]:
        documents = tokenizer(list(batch["text"]), add_special_tokens=False, verbose=False)["input_ids"]
        ids = [
            [first, *document[at : at + body], last] for document in documents for at in range(0, len(document), body)
        ]
        return {"ids": ids, "length": [len(window) for window in ids]}

    return cut
