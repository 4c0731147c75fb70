"""Sentences of tagged words: tokenised word by word, and cut into windows between words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from warmup.training.batches import IGNORED
from warmup.training.model import load_tokenizer
from warmup.training.outcome import UserError


def load_tokenizer_of_words(name: str, flag: str) -> PreTrainedTokenizerBase:
    """A tokenizer to which a word by itself is what it is in a text. Byte-level ones (RoBERTa's, ModernBERT's) know the
    beginning of a word by the blank before it, which they are made to think of.
    """
    tokenizer = load_tokenizer(name, flag)
    if not _knows_words(tokenizer):
        tokenizer = load_tokenizer(name, flag, add_prefix_space=True)
        parts = tokenizer.backend_tokenizer.pre_tokenizer
        if getattr(parts, "add_prefix_space", True) is False:  # the library passes it on for some kinds alone
            parts.add_prefix_space = True
    if not _knows_words(tokenizer):
        raise UserError(
            f"{flag}: the tokenizer of {name} reads a word by itself as another than in a text, even with "
            "add_prefix_space, so that task: token-classification cannot use it; give another one"
        )
    return tokenizer


def _knows_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    options = {"add_special_tokens": False, "verbose": False}
    alone = tokenizer(["in", "in"], is_split_into_words=True, **options)
    return alone["input_ids"] == tokenizer("in in", **options)["input_ids"]


def tokenise(batch: dict, tokenizer: PreTrainedTokenizerBase, limit: int, numbers: Mapping[str, int]) -> dict:
    """Sentences -> samples {ids, length, label}: `label` holds the number of a word's tag at the word's first piece,
    and IGNORED at all else. A word of no piece (a control character, say) has no place to be asked at.
    """
    encoded = tokenizer(batch["text"], is_split_into_words=True, add_special_tokens=False, verbose=False)
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    for row, tags in enumerate(batch["label"]):
        pieces = encoded["input_ids"][row]
        for window in windows(_words(encoded.word_ids(row)), limit - 2):
            ids.append([tokenizer.cls_token_id])
            labels.append([IGNORED])
            for word, start, end in window:
                ids[-1] += pieces[start:end]
                labels[-1] += [numbers[tags[word]]] + [IGNORED] * (end - start - 1)
            ids[-1].append(tokenizer.sep_token_id)
            labels[-1].append(IGNORED)
    return {"ids": ids, "length": [len(row) for row in ids], "label": labels}


def _words(word_ids: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(word, its first piece, the piece behind its last) of each word that has pieces."""
    start = 0
    for end in range(1, len(word_ids) + 1):
        if end == len(word_ids) or word_ids[end] != word_ids[start]:
            yield word_ids[start], start, end
            start = end


def windows(words: Iterator[tuple[int, int, int]], body: int) -> Iterator[list[tuple[int, int, int]]]:
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
