"""Tokenizing sentences that are given as words, and splitting them between words into samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.data.tokenizers.long_texts import BATCH, PIECE, TOKENS

_SLICE = 1 << 12  # words of a sentence that are tokenized at once


class WordTokens(NamedTuple):
    """A word and its tokens."""

    word: int
    """Index of the word in its sentence."""

    ids: list[int]
    """Token ids, at least one."""


class SentencePart(NamedTuple):
    """A sentence, or a part of one that is too long for one sample."""

    row: int
    """Index of the sentence."""

    is_first: bool
    """Whether this is the first part of its sentence."""

    ids: list[int]
    """Token ids, between [CLS] and [SEP]."""

    words: list[int]
    """For each id: the number of a word in the sentence, from 1, at the word's first token; 0 at all other tokens."""

    truncated: bool
    """Whether the end of the last word is cut off, because the word alone is too long."""


def tokenize_tagged(
    batch: dict, tokenizer: PreTrainedTokenizerBase, max_length: int, label_ids: Mapping[str, int]
) -> Iterator[dict[str, list]]:
    """Turn tagged sentences into samples. Parts without a tag to learn at the first token of a word are dropped.

    Args:
        batch: Columns `text`, the words of each sentence, and `label`, their tags.
        tokenizer: A fast tokenizer with [CLS] and [SEP] that keeps single words as they are in a text.
        max_length: The most tokens of a sample.
        label_ids: The id of each tag, IGNORE_INDEX for those that are not to be learned.

    Yields:
        Columns {ids, length, token_labels} of some samples: `token_labels` has the id of a word's tag at the word's
        first token, and IGNORE_INDEX at all other tokens.
    """
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    tokens = 0
    for part in sentence_parts(batch["text"], tokenizer, max_length):
        tags = batch["label"][part.row]
        targets = [label_ids[tags[word - 1]] if word else IGNORE_INDEX for word in part.words]
        if any(target != IGNORE_INDEX for target in targets):
            ids.append(part.ids)
            labels.append(targets)
            tokens += len(targets)
        if tokens >= TOKENS:
            yield {"ids": ids, "length": list(map(len, ids)), "token_labels": labels}
            ids, labels, tokens = [], [], 0
    yield {"ids": ids, "length": list(map(len, ids)), "token_labels": labels}


def sentence_parts(
    texts: Sequence[list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Iterator[SentencePart]:
    """Tokenize sentences and split them between words. A word without tokens (a control character, say) is left out.

    Args:
        texts: The words of each sentence.
        tokenizer: A fast tokenizer with [CLS] and [SEP].
        max_length: The most tokens of a part.

    Yields:
        The parts of each sentence in order, at least one per sentence.
    """
    body_length = max_length - 2
    for row, encodings in groupby(_encode_slices(texts, tokenizer), key=itemgetter(0)):
        words = (word for _, start, encoding in encodings for word in _words(encoding, start))
        for index, window in enumerate(_at_least_one(split_words(words, body_length))):
            ids, numbers = [tokenizer.cls_token_id], [0]
            for word, tokens in window:
                ids += tokens[:body_length]
                numbers += [word + 1] + [0] * (len(tokens[:body_length]) - 1)
            truncated = any(len(tokens) > body_length for _, tokens in window)
            yield SentencePart(row, index == 0, [*ids, tokenizer.sep_token_id], [*numbers, 0], truncated)


def _encode_slices(
    texts: Sequence[list[str]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[int, int, Encoding]]:
    """Tokenize sentences, long ones in slices: each word is tokenized by itself anyway.

    Yields:
        (index of the sentence, index of the slice's first word, tokens), of each sentence at least once.
    """
    slices: list[tuple[int, int, list[str]]] = []
    characters = 0
    for row, start, words in _slices(texts):
        slices.append((row, start, words))
        characters += sum(map(len, words))
        if characters >= BATCH:
            yield from _encode(slices, tokenizer)
            slices, characters = [], 0
    yield from _encode(slices, tokenizer)


def _slices(texts: Sequence[list[str]]) -> Iterator[tuple[int, int, list[str]]]:
    for row, words in enumerate(texts):
        for start in range(0, max(len(words), 1), _SLICE):
            # A word is cut off at the length of a sample, so the beginning of an endless one is enough.
            yield row, start, [word[:PIECE] for word in words[start : start + _SLICE]]


def _encode(
    slices: list[tuple[int, int, list[str]]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[int, int, Encoding]]:
    words = [part for _, _, part in slices]
    encoded = tokenizer(words, is_split_into_words=True, add_special_tokens=False, verbose=False) if words else None
    encodings = (encoded.encodings or []) if encoded else []
    return ((row, start, encoding) for (row, start, _), encoding in zip(slices, encodings, strict=True))


def _words(encoding: Encoding, start: int) -> Iterator[WordTokens]:
    """Yield each word of a slice that has tokens; `start` is the index of its first word."""
    tokens = zip(encoding.word_ids, encoding.ids, strict=True)
    for word, group in groupby(tokens, key=itemgetter(0)):
        yield WordTokens(start + word, [token for _, token in group])


def _at_least_one(windows: Iterator[list[WordTokens]]) -> Iterator[list[WordTokens]]:
    yield next(windows, [])
    yield from windows


def split_words(words: Iterator[WordTokens], body_length: int) -> Iterator[list[WordTokens]]:
    """Group words into windows of at most `body_length` tokens. A single word that is longer has one to itself."""
    window: list[WordTokens] = []
    used = 0
    for word in words:
        length = min(len(word.ids), body_length)
        if used + length > body_length:
            yield window
            window, used = [], 0
        window.append(word)
        used += length
    if window:
        yield window
