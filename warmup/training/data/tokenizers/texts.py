"""Tokenizing texts and pairs of texts."""

from __future__ import annotations

from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerBase

from warmup.training.data.tokenizers.long_texts import shorten, shorten_pair


def encode_texts(
    batch: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[BatchEncoding, dict[str, list]]:
    """Tokenize texts or pairs of texts, with special tokens.

    Args:
        batch: Column `text`, and `pair` if there may be pairs; either all pairs are None or none is.
        tokenizer: The tokenizer.
        max_length: The most tokens of a sample; of a longer one the end of the longer text is cut off.

    Returns:
        The tokenizer's encoding, and the columns {ids, length, second_start}: `second_start` is the number of tokens
        before the second text.
    """
    options = {"tokens": max_length, "tokenizer": tokenizer, "from_end": tokenizer.truncation_side == "left"}
    texts, pairs = batch["text"], None
    if batch.get("pair", [None])[0] is None:
        texts = [shorten(text, **options) for text in texts]
    else:
        both = [shorten_pair(*pair, **options) for pair in zip(texts, batch["pair"], strict=True)]
        texts, pairs = map(list, zip(*both, strict=True))
    encoded = tokenizer(texts, pairs, truncation="longest_first", max_length=max_length, verbose=False)
    ids = encoded["input_ids"]
    starts = [sum(part != 1 for part in encoded.sequence_ids(row)) for row in range(len(ids))]
    if pairs:  # the [SEP] after the second text belongs to it
        starts = [start - 1 for start in starts]
    return encoded, {"ids": ids, "length": [len(row) for row in ids], "second_start": starts}


def tokenize_for_prediction(
    batch: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, list]:
    """Tokenize texts or pairs of texts that are to be predicted, one sample each.

    Args:
        batch: As `encode_texts`.
        tokenizer: The tokenizer.
        max_length: The most tokens of a sample.

    Returns:
        The columns {ids, length, truncated}, and second_start if the batch has a column `pair`.
    """
    encoded, columns = encode_texts(batch, tokenizer, max_length)
    if "pair" not in batch:
        del columns["second_start"]
    truncated = [bool(encoding.overflowing) for encoding in encoded.encodings or ()]
    return columns | {"truncated": truncated}
