"""Training tokenizers deterministically: the same texts give the same tokenizer in every process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator

import datasets
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer

# pyrefly: ignore[missing-module-attribute] - transformers resolves these names when they are first used
from transformers import BertTokenizerFast, GPT2TokenizerFast, PreTrainedTokenizerBase

from warmup.errors import UserError
from warmup.training.data.tables import rows_at_once
from warmup.training.data.tokenizers.long_texts import PIECE, spans

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ALPHABET = 1000  # the most characters that a trained tokenizer knows
END_OF_TEXT = "<|endoftext|>"
_TEXT_COLUMNS = ("text", "pair")
MIN_BPE_VOCAB = 257  # a token for each byte, and END_OF_TEXT


def train_wordpiece(rows: datasets.Dataset, vocab_size: int) -> PreTrainedTokenizerBase:
    """Train a lower-casing WordPiece tokenizer on the texts.

    The trainer numbers the characters that continue a word in the order of a hash map, which differs between processes,
    and breaks ties between merges by these numbers. So they are given to it beforehand as special tokens; and so is the
    alphabet, whose ties it would break in the same way.

    Args:
        rows: A column `text`, and `pair` if there may be pairs: texts, lists of words, or None.
        vocab_size: Size of the vocabulary. It is exceeded if the alphabet and the special tokens need more.
    """
    trainer = BertWordPieceTokenizer(lowercase=True)
    alphabet = _alphabet(trainer, _texts(rows))
    trainer.train_from_iterator(
        _texts(rows),
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=SPECIAL_TOKENS + [f"##{character}" for character in alphabet if _continues(trainer, character)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
    )
    return BertTokenizerFast(vocab=trainer.get_vocab(), do_lower_case=True)


def _texts(rows: datasets.Dataset) -> Iterator[str]:
    """Yield all texts, long ones in pieces, which are cut between words: trainers count words."""
    for column in _TEXT_COLUMNS:
        if column in rows.column_names:
            for batch in rows.select_columns(column).iter(rows_at_once(rows.data.nbytes, len(rows.data))):
                for text in filter(None, batch[column]):
                    joined = text if isinstance(text, str) else " ".join(text)
                    yield from (joined[start:end] for start, end in spans(joined, PIECE, lambda *_: "word"))


def _alphabet(trainer: BertWordPieceTokenizer, texts: Iterable[str]) -> list[str]:
    """The most frequent characters of the texts, sorted by code point."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(trainer.normalizer.normalize_str(text))
    frequent = sorted(counts.keys() - {" "}, key=lambda character: (-counts[character], character))
    return sorted(frequent[:ALPHABET])


def _continues(trainer: BertWordPieceTokenizer, character: str) -> bool:
    """Whether the character can stand inside a word; punctuation and ideographs are words of their own."""
    return len(trainer.pre_tokenizer.pre_tokenize_str(trainer.normalizer.normalize_str("a" + character))) == 1


def train_bpe(rows: datasets.Dataset, vocab_size: int) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer on the texts. It can represent any text.

    The trainer numbers bytes by their value and breaks ties between merges by these numbers, so it is deterministic.
    (Tokens that continue a word, which it would number in the order of a hash map, have no mark in byte-level BPE.)

    Args:
        rows: A column `text`.
        vocab_size: Size of the vocabulary.

    Raises:
        UserError: The vocabulary has no room for all bytes.
    """
    if vocab_size < MIN_BPE_VOCAB:
        raise UserError(
            f"data.vocab_size: {vocab_size} is not {MIN_BPE_VOCAB} or above: a token for each byte, and {END_OF_TEXT}"
        )
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(_texts(rows), vocab_size=vocab_size, show_progress=False, special_tokens=[END_OF_TEXT])
    merges = [tuple(pair) for pair in json.loads(trainer.to_str())["model"]["merges"]]
    return GPT2TokenizerFast(vocab=trainer.get_vocab(), merges=merges)  # its special tokens are all END_OF_TEXT
