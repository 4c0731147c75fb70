"""Tokenizing texts of any length in bounded memory: long ones in pieces that give the tokens of the whole.

A fast tokenizer holds about 150 bytes for each character that it is given. So a long text is cut where the tokenizer
parts its words whatever stands around them, which is tried out, and each piece is tokenized with the characters around
it, whose tokens are then left out. Where there is no such place in a megabyte of text (one "word" of that length), it
is cut all the same, and the tokens at the cut may be others than those of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Literal, NamedTuple

from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

PIECE = 1 << 16
"""Characters of a piece; longer texts are cut."""
LONGEST_WORD = 16  # pieces in which a place to cut is looked for
BATCH = 1 << 19  # characters that are tokenized at once, unless one piece has more
TOKENS = 1 << 17  # of the samples that are made at once
_CONTEXT = 256  # characters around a piece that are tokenized with it
_NEAR = 64  # characters around a cut whose tokens must not depend on what is farther away
_SHIFTS = (0, 1, 2, 5)  # of the context: tokens that are counted from its beginning would change
_TRIES = 12  # of each kind of place
_PLACES = (
    re.compile(r"(?<=[^\W_])[ \n](?=[^\W_])"),
    re.compile(r"(?<=\w)(?=[^\w\s])|(?<=[^\w\s])(?=\w)"),
    re.compile(r"(?<=\S)(?=\S)"),
)
"""Where words may be parted: at white space (which belongs to the word after it), at punctuation, between characters of
scripts that write no spaces."""

Boundary = Literal["word", "token"]


class Piece(NamedTuple):
    """The tokens of a text, or of a part of a long one."""

    row: int
    """Index of the text."""
    ids: list[int]
    words: list[int | None]
    """For each token the number of its word in the text; [] unless asked for."""
    is_last: bool
    """Whether the text ends here."""
    offsets: list[tuple[int, int]]
    """For each token the characters of the text, from and to, that it stands for; [] unless asked for."""


def encode_pieces(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    with_words: bool = False,
    size: int = PIECE,
    with_offsets: bool = False,
) -> Iterator[Piece]:
    """Tokenize texts without special tokens.

    Args:
        texts: The texts.
        tokenizer: A fast tokenizer.
        with_words: Whether pieces have the words of their tokens.
        size: Characters of a piece. (Another size gives the same tokens.)
        with_offsets: Whether pieces have the characters of their tokens.

    Yields:
        Each text, in order; one that is longer than `size` in several pieces.
    """
    next_word = 0
    for batch in _batches(texts, tokenizer, size):
        parts = [texts[row][max(start - _CONTEXT, 0) : end + _CONTEXT] for row, start, end in batch]
        for (row, start, end), encoding in zip(batch, _encode(parts, tokenizer), strict=True):
            kept = _kept_tokens(encoding, start, end, len(texts[row]))
            words = encoding.word_ids[kept] if with_words else []
            numbers = [word for word in words if word is not None]
            if start and numbers:
                words = [None if word is None else word - numbers[0] + next_word for word in words]
            next_word = (next_word if start else 0) + (numbers[-1] - numbers[0] + 1 if numbers else 0)
            begin = max(start - _CONTEXT, 0)
            offsets = [(first + begin, last + begin) for first, last in encoding.offsets[kept]] if with_offsets else []
            yield Piece(row, encoding.ids[kept], words, end == len(texts[row]), offsets)


def _kept_tokens(encoding: Encoding, start: int, end: int, length: int) -> slice:
    """Those of the piece from `start` to `end` of a text, without those of the characters around it."""
    if start == 0 and end == length:
        return slice(None)
    begin = max(start - _CONTEXT, 0)
    ends = [last for _, last in encoding.offsets]
    first = _first_after(ends, start - begin) if start else 0
    return slice(first, len(ends) if end == length else _first_after(ends, end - begin))


def count_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens a text has, without special tokens."""
    return sum(len(piece.ids) for piece in encode_pieces([text], tokenizer))


def shorten(text: str, tokens: int, tokenizer: PreTrainedTokenizerBase, from_end: bool = False) -> str:
    """The beginning of a long text that has at least so many tokens, or the whole text.

    Args:
        text: The text.
        tokens: How many of its tokens are needed.
        tokenizer: A fast tokenizer.
        from_end: Whether the end of the text is needed, not its beginning.
    """
    size = max(4 * _CONTEXT, 8 * tokens)
    while len(text) > 2 * size:
        if from_end:
            part = text[find_cut(text, len(text) - 2 * size, len(text) - size, _tried(tokenizer)) :]
        else:
            part = text[: find_cut(text, size, 2 * size, _tried(tokenizer))]
        if len(_encode([part], tokenizer)[0].ids) >= tokens + _NEAR:
            return part
        size *= 4
    return text


def shorten_pair(
    first: str, second: str, tokens: int, tokenizer: PreTrainedTokenizerBase, from_end: bool = False
) -> tuple[str, str]:
    """As `shorten` of both, where the longer one stays the longer one: it gets one token more if both are truncated.

    Args:
        first: The first text.
        second: The second text.
        tokens: How many tokens of each are needed.
        tokenizer: A fast tokenizer.
        from_end: Whether their ends are needed, not their beginnings.
    """
    if max(len(first), len(second)) <= 8 * _CONTEXT:
        return first, second
    swapped = count_tokens(first, tokenizer) > count_tokens(second, tokenizer)
    shorter, longer = (second, first) if swapped else (first, second)
    shorter = shorten(shorter, tokens, tokenizer, from_end)
    longer = shorten(longer, count_tokens(shorter, tokenizer) + 1, tokenizer, from_end)
    return (longer, shorter) if swapped else (shorter, longer)


def spans(text: str, size: int, boundary: Callable[[str, int], Boundary | None]) -> Iterator[tuple[int, int]]:
    """Divide a text into pieces.

    Args:
        text: The text.
        size: Characters of a piece, at most; more where there is no place to cut.
        boundary: What may be parted at a place of the text.

    Yields:
        (start, end) of each piece.
    """
    start = 0
    while len(text) - start > size:
        end = find_cut(text, start + size // 2, start + size, boundary)
        yield start, end
        start = end
    if start < len(text) or not text:
        yield start, len(text)


def find_cut(text: str, low: int, high: int, boundary: Callable[[str, int], Boundary | None]) -> int:
    """A place to cut a text between `low` and `high`, else the first one in the pieces of that size after it.

    The places between two words come first, then those between two tokens of one; if there is neither, any will do.
    """
    size = high - low
    for _ in range(2 * LONGEST_WORD):
        between_tokens = None
        for cut in _candidates(text, low, high):
            found = boundary(text, cut)
            if found == "word":
                return cut
            between_tokens = between_tokens or (cut if found else None)
        if between_tokens:
            return between_tokens
        if high >= len(text):
            break
        low, high = high, min(high + size, len(text))
    return min(high, len(text))


def _candidates(text: str, low: int, high: int) -> Iterator[int]:
    """Some places where words may be parted, the likely ones first."""
    for place in _PLACES:
        yield from islice((match.start() for match in place.finditer(text, max(low, 1), high)), _TRIES)


def _tried(tokenizer: PreTrainedTokenizerBase) -> Callable[[str, int], Boundary | None]:
    """What tells whether words or tokens end at a place, by tokenizing what stands around it."""

    def boundary(text: str, cut: int) -> Boundary | None:
        begins = [max(cut - _CONTEXT - shift, 0) for shift in _SHIFTS]
        contexts = [text[begin : cut + _CONTEXT + shift] for begin, shift in zip(begins, _SHIFTS, strict=True)]
        found = {
            _around(encoding, cut - begin) for encoding, begin in zip(_encode(contexts, tokenizer), begins, strict=True)
        }
        if len(found) > 1 or None in found:
            return None
        ((_, parts_words),) = [around for around in found if around]
        return "word" if parts_words else "token"

    return boundary


def _around(encoding: Encoding, cut: int) -> tuple[tuple, bool] | None:
    """The tokens near a place, each with its position from there, and whether words are parted; None within a token."""
    offsets = encoding.offsets
    after = _first_after([end for _, end in offsets], cut)
    if after in (0, len(offsets)) or offsets[after][0] < cut:
        return None
    near = tuple(
        (token, start - cut, end - cut)
        for token, (start, end) in zip(encoding.ids, offsets, strict=True)
        if start >= cut - _NEAR and end <= cut + _NEAR
    )
    return near, encoding.word_ids[after - 1] != encoding.word_ids[after]


def _first_after(ends: Sequence[int], place: int) -> int:
    """The index of the first token that ends after a place."""
    return next((index for index, end in enumerate(ends) if end > place), len(ends))


def _batches(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, size: int
) -> Iterator[list[tuple[int, int, int]]]:
    """Yield what is tokenized at once: (row, start, end) of texts and pieces."""
    batch: list[tuple[int, int, int]] = []
    characters = 0
    for row, text in enumerate(texts):
        for start, end in spans(text, size, _tried(tokenizer)):
            if batch and characters + end - start > BATCH:
                yield batch
                batch, characters = [], 0
            batch.append((row, start, end))
            characters += end - start
    if batch:
        yield batch


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[Encoding]:
    options = {"add_special_tokens": False, "return_token_type_ids": False, "return_attention_mask": False}
    return tokenizer(texts, verbose=False, **options).encodings or []
