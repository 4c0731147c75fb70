"""Questions with the windows of their contexts: where a context is too long for one sample, windows that overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from warmup.errors import UserError
from warmup.training.data.tokenizers.long_texts import encode_pieces, shorten


class QuestionWindow(NamedTuple):
    """A question and a part of its context."""

    row: int
    """Index of the question."""
    is_first: bool
    """Whether this is the first window of its question; the others follow it."""
    ids: list[int]
    """Token ids: special tokens, the question, special tokens, the part of the context, special tokens."""
    context_start: int
    """Position of the context's first token."""
    offsets: np.ndarray
    """(tokens of the context, 2) int32: the characters of the whole context, from and to, that each stands for."""


class _Template(NamedTuple):
    """The special tokens around two texts."""

    before: list[int]
    between: list[int]
    after: list[int]

    @property
    def length(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


def check_begins_with_cls(tokenizer: PreTrainedTokenizerBase, name: str, flag: str) -> None:
    """Raise UserError, naming `flag`, if the tokenizer of `name` does not put [CLS] before two texts."""
    if _template(tokenizer).before != [tokenizer.cls_token_id]:
        raise UserError(
            f"{flag}: the tokenizer of {name} does not put [CLS] before a question, which stands for no answer"
        )


def question_windows(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    doc_stride: int,
) -> Iterator[QuestionWindow]:
    """Tokenize questions with their contexts, each context once however many questions are asked of it.

    Args:
        questions: The questions.
        contexts: The context of each.
        tokenizer: A fast tokenizer.
        max_length: The most tokens of a window.
        doc_stride: Tokens of the context that two windows share which follow each other.

    Yields:
        The windows of each question in order, at least one per question. It has nothing of the context, and of the
        question no more than fits, where the question leaves no room for more than `doc_stride` tokens.
    """
    template = _template(tokenizer)
    encoded = _encode(list(dict.fromkeys(contexts)), tokenizer)
    beginnings = [shorten(question, max_length, tokenizer) for question in questions]
    for row, (question, context) in enumerate(zip(_token_ids(beginnings, tokenizer), contexts, strict=True)):
        room = max_length - template.length - len(question)
        ids, offsets = encoded[context]
        if room <= doc_stride:
            question, ids, offsets = question[: max_length - template.length], ids[:0], offsets[:0]
        before = [*template.before, *question, *template.between]
        starts = range(0, max(len(ids) - doc_stride, 1), max(room - doc_stride, 1))
        for start in starts:
            part = slice(start, start + room)
            window = [*before, *ids[part].tolist(), *template.after]
            yield QuestionWindow(row, start == 0, window, len(before), offsets[part])


def room_for_context(question: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """How many tokens of a context fit into a window beside a question; 0 or less if it has none to spare."""
    return max_length - _template(tokenizer).length - len(_token_ids([question], tokenizer)[0])


def find_tokens(offsets_C2: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """The tokens that stand for some characters.

    Args:
        offsets_C2: Characters of each token of a window, from and to.
        start: The first character.
        end: The one after the last.

    Returns:
        Indices of the first and of the last token; None if the window does not have all of them.
    """
    if not len(offsets_C2) or start < offsets_C2[0, 0] or end > offsets_C2[-1, 1]:
        return None
    first = int(np.searchsorted(offsets_C2[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets_C2[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else None


def _template(tokenizer: PreTrainedTokenizerBase) -> _Template:
    encoded = tokenizer("a", "a", verbose=False)
    ids, texts = encoded["input_ids"], encoded.sequence_ids(0)
    first, second = ([index for index, text in enumerate(texts) if text == number] for number in (0, 1))
    return _Template(ids[: first[0]], ids[first[-1] + 1 : second[0]], ids[second[-1] + 1 :])


def _token_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]


def _encode(contexts: list[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Token ids (n,) and characters (n, 2) of each context."""
    encoded = {}
    pieces = encode_pieces(contexts, tokenizer, with_offsets=True)
    for row, parts in groupby(pieces, key=attrgetter("row")):
        ids, offsets = zip(*((part.ids, part.offsets) for part in parts), strict=True)
        encoded[contexts[row]] = (
            np.concatenate([np.array(part, np.int32) for part in ids]),
            np.concatenate([np.array(part, np.int32).reshape(-1, 2) for part in offsets]),
        )
    return encoded
