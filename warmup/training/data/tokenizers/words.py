"""Tokenizing sentences that are given as words, and splitting them between words into samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from warmup.training.data.samples import IGNORE_INDEX


class WordTokens(NamedTuple):
    """A word and its tokens, those from `start` to `end` (exclusive) of its sentence."""

    word: int
    start: int
    end: int


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
) -> dict:
    """Turn tagged sentences into samples. Parts without a tag to learn at the first token of a word are dropped.

    Args:
        batch: Columns `text`, the words of each sentence, and `label`, their tags.
        tokenizer: A fast tokenizer with [CLS] and [SEP] that keeps single words as they are in a text.
        max_length: The most tokens of a sample.
        label_ids: The id of each tag, IGNORE_INDEX for those that are not to be learned.

    Returns:
        Columns {ids, length, token_labels}: `token_labels` has the id of a word's tag at the word's first token, and
        IGNORE_INDEX at all other tokens.
    """
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    for part in sentence_parts(batch["text"], tokenizer, max_length):
        tags = batch["label"][part.row]
        targets = [label_ids[tags[word - 1]] if word else IGNORE_INDEX for word in part.words]
        if any(target != IGNORE_INDEX for target in targets):
            ids.append(part.ids)
            labels.append(targets)
    return {"ids": ids, "length": [len(row) for row in ids], "token_labels": labels}


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
    encoded = tokenizer(texts, is_split_into_words=True, add_special_tokens=False, verbose=False)
    for row, tokens in enumerate(encoded["input_ids"]):
        word_ids = encoded.word_ids(row)
        for index, window in enumerate(list(split_words(_words(word_ids), max_length - 2)) or [[]]):
            ids, words = [tokenizer.cls_token_id], [0]
            for word, start, end in window:
                ids += tokens[start:end]
                words += [word + 1] + [0] * (end - start - 1)
            truncated = bool(window) and word_ids[window[-1].end : window[-1].end + 1] == [window[-1].word]
            yield SentencePart(row, index == 0, [*ids, tokenizer.sep_token_id], [*words, 0], truncated)


def _words(word_ids: Sequence[int]) -> Iterator[WordTokens]:
    """Yield each word that has tokens."""
    start = 0
    for end in range(1, len(word_ids) + 1):
        if end == len(word_ids) or word_ids[end] != word_ids[start]:
            yield WordTokens(word_ids[start], start, end)
            start = end


def split_words(words: Iterator[WordTokens], body_length: int) -> Iterator[list[WordTokens]]:
    """Group words into windows of at most `body_length` tokens. A single word that is longer is truncated."""
    window: list[WordTokens] = []
    used = 0
    for word, start, end in words:
        end = min(end, start + body_length)
        if used + end - start > body_length:
            yield window
            window, used = [], 0
        window.append(WordTokens(word, start, end))
        used += end - start
    if window:
        yield window
