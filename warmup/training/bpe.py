"""Training a byte-level BPE tokenizer, as GPT-2's is (Radford et al. 2019), the same from the same text everywhere."""

from __future__ import annotations

import json

import datasets
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2TokenizerFast, PreTrainedTokenizerBase

from warmup.training.outcome import UserError

END = "<|endoftext|>"
SMALLEST = 257  # a token for each byte, and the end


def train(rows: datasets.Dataset, vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer of the texts that can write any text; the same in every process.

    The trainer numbers bytes by their value and breaks ties between merges by these numbers. (Pieces that only
    continue a word, which it would number in the order of a hash map, are not marked in this kind.)
    """
    if vocab_size < SMALLEST:
        raise UserError(f"data.vocab_size: {vocab_size} is not {SMALLEST} or above: a token for each byte, and {END}")
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(rows["text"], vocab_size=vocab_size, show_progress=False, special_tokens=[END])
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    return GPT2TokenizerFast(vocab=trained.get_vocab(), merges=merges)  # whose every special token is END
