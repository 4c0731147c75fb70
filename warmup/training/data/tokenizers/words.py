"""Sentences of words: tokenised word by word, and cut into windows between words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from warmup.training.data.samples import IGNORE_INDEX


class SentencePart(NamedTuple):
    """What of a sentence is read at once. row: which sentence. first: whether it is its first part. words: for each of
    the ids the number of a word, from 1, at its first piece, and 0 at all else. cut: whether its last word goes on.
    """

    row: int
    first: bool
    ids: list[int]
    words: list[int]
    cut: bool


def tokenize_tagged(batch: dict, tokenizer: PreTrainedTokenizerBase, limit: int, numbers: Mapping[str, int]) -> dict:
    """Tagged sentences -> samples {ids, length, label}: `label` holds the number of a word's tag at the word's first
    piece, and IGNORED at all else. What has no place to be asked at is left out.
    """
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    for part in sentence_parts(batch["text"], tokenizer, limit):
        if any(part.words):
            tags = batch["label"][part.row]
            ids.append(part.ids)
            labels.append([numbers[tags[word - 1]] if word else IGNORE_INDEX for word in part.words])
    return {"ids": ids, "length": [len(row) for row in ids], "label": labels}


def sentence_parts(
    texts: Sequence[list[str]], tokenizer: PreTrainedTokenizerBase, limit: int
) -> Iterator[SentencePart]:
    """Sentences, given as their words, in parts of at most `limit` tokens; at least one of each sentence.

    A word of no piece (a control character, say) has no place to be asked at.
    """
    encoded = tokenizer(texts, is_split_into_words=True, add_special_tokens=False, verbose=False)
    for row, pieces in enumerate(encoded["input_ids"]):
        word_ids = encoded.word_ids(row)
        for number, window in enumerate(list(split_words(_words(word_ids), limit - 2)) or [[]]):
            ids, words = [tokenizer.cls_token_id], [0]
            for word, start, end in window:
                ids += pieces[start:end]
                words += [word + 1] + [0] * (end - start - 1)
            cut = bool(window) and word_ids[end : end + 1] == [word]
            yield SentencePart(row, number == 0, [*ids, tokenizer.sep_token_id], [*words, 0], cut)


def _words(word_ids: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(word, its first piece, the piece behind its last) of each word that has pieces."""
    start = 0
    for end in range(1, len(word_ids) + 1):
        if end == len(word_ids) or word_ids[end] != word_ids[start]:
            yield word_ids[start], start, end
            start = end


def split_words(words: Iterator[tuple[int, int, int]], body: int) -> Iterator[list[tuple[int, int, int]]]:
    """Words, in parts of at most `body` pieces; of a word that is longer by itself the rest is cut off."""
    window: list[tuple[int, int, int]] = []
    used = 0
    for word, start, end in words:
        end = min(end, start + body)
        if used + end - start > body:
            yield window
            window, used = [], 0
        window.append((word, start, end))
        used += end - start
    if window:
        yield window
