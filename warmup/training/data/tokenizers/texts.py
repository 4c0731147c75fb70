"""Tokenizing texts and pairs of texts."""

from __future__ import annotations

from transformers import BatchEncoding, PreTrainedTokenizerBase


def encode(batch: dict, tokenizer: PreTrainedTokenizerBase, limit: int) -> tuple[BatchEncoding, dict]:
    """Texts, or pairs of them, with special tokens and cut off at `limit`; and of that {ids, length, first}."""
    pairs = batch["pair"] if batch["pair"][0] is not None else None
    encoded = tokenizer(batch["text"], pairs, truncation="longest_first", max_length=limit, verbose=False)
    ids = encoded["input_ids"]
    first = [sum(part != 1 for part in encoded.sequence_ids(row)) for row in range(len(ids))]
    if pairs:  # the second text and the [SEP] after it
        first = [length - 1 for length in first]
    return encoded, {"ids": ids, "length": [len(row) for row in ids], "first": first}
