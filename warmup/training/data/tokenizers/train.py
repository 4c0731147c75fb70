"""Training tokenizers, so that the same text gives the same one in every process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import datasets
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from transformers import BertTokenizerFast, GPT2TokenizerFast, PreTrainedTokenizerBase

from warmup.errors import UserError

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ALPHABET = 1000  # characters that a trained tokenizer knows at most


def train_wordpiece(rows: datasets.Dataset, vocab_size: int) -> PreTrainedTokenizerBase:
    """A lower-casing WordPiece tokenizer of the texts; the same in every process.

    The trainer numbers the characters that continue a word in the order of a hash map, another one in each process,
    and breaks ties between merges by these numbers. So it is told them beforehand, as special tokens, and the
    alphabet, whose ties it would break so too.
    """
    model = BertWordPieceTokenizer(lowercase=True)
    texts = [_joined(text) for column in ("text", "pair") for text in rows[column] if text]
    alphabet = _alphabet(model, texts)
    model.train_from_iterator(
        texts,
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=SPECIAL_TOKENS + [f"##{character}" for character in alphabet if _continues(model, character)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
    )
    return BertTokenizerFast(vocab=model.get_vocab(), do_lower_case=True)


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else " ".join(text)


def _alphabet(model: BertWordPieceTokenizer, texts: Iterable[str]) -> list[str]:
    """The most frequent characters of the texts, in their own order."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(model.normalizer.normalize_str(text))
    frequent = sorted(counts.keys() - {" "}, key=lambda character: (-counts[character], character))
    return sorted(frequent[:ALPHABET])


def _continues(model: BertWordPieceTokenizer, character: str) -> bool:
    """Whether the character can stand inside a word: punctuation and ideographs are words of their own."""
    return len(model.pre_tokenizer.pre_tokenize_str(model.normalizer.normalize_str("a" + character))) == 1


END_OF_TEXT = "<|endoftext|>"
MIN_BPE_VOCAB = 257  # a token for each byte, and the end


def train_bpe(rows: datasets.Dataset, vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer of the texts that can write any text; the same in every process.

    The trainer numbers bytes by their value and breaks ties between merges by these numbers. (Pieces that only
    continue a word, which it would number in the order of a hash map, are not marked in this kind.)
    """
    if vocab_size < MIN_BPE_VOCAB:
        raise UserError(
            f"data.vocab_size: {vocab_size} is not {MIN_BPE_VOCAB} or above: a token for each byte, and {END_OF_TEXT}"
        )
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(rows["text"], vocab_size=vocab_size, show_progress=False, special_tokens=[END_OF_TEXT])
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    return GPT2TokenizerFast(vocab=trained.get_vocab(), merges=merges)  # whose every special token is END
