"""Splitting documents into windows, the samples of a language model.

No tail of a document is dropped, and documents are not joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from warmup.errors import UserError
from warmup.training.data.tokenizers.long_texts import TOKENS, Piece, encode_pieces
from warmup.training.models import gpt2

TokenizeBatch = Callable[[dict[str, Sequence]], dict[str, list] | Iterator[dict[str, list]]]
"""Turns a batch of rows, with a column `text`, into samples: {ids, length} and, for whole words, {token_words}. Where
rows may be long documents, it yields their samples in parts, so that they are not all in memory."""


def causal_windows(tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenizeBatch:
    """Windows for causal language modelling.

    Each window but a document's first begins with the last token of the window before. So every token of a document,
    and the token that ends it, is a next token to predict exactly once.

    Args:
        tokenizer: A fast tokenizer with a token that ends a text.
        max_length: The most tokens of a window.
    """
    bos, eos = gpt2.boundary_tokens(tokenizer)

    def tokenize(batch: dict[str, Sequence]) -> Iterator[dict[str, list]]:
        rest: list[int] = []
        for pieces in _groups(encode_pieces(batch["text"], tokenizer)):
            ids: list[list[int]] = []
            for piece in pieces:
                rest += piece.ids if rest else [bos, *piece.ids] if piece.ids else []
                if piece.is_last and rest:
                    rest.append(eos)
                windows, rest = _split(rest, max_length, 1, piece.is_last)
                ids += windows
            yield {"ids": ids, "length": [len(window) for window in ids]}

    return tokenize


def masked_windows(tokenizer: PreTrainedTokenizerBase, max_length: int, whole_words: bool = False) -> TokenizeBatch:
    """Windows for masked language modelling, each between [CLS] and [SEP].

    Args:
        tokenizer: A fast tokenizer with [CLS] and [SEP].
        max_length: The most tokens of a window.
        whole_words: Whether samples have a column `token_words`: for each token the index of its word within the
            window. The two parts of a word that a window's end splits count as words of their own.

    Raises:
        UserError: `whole_words` is set and the tokenizer does not split texts into words.
    """
    if whole_words:
        _check_splits_words(tokenizer)
    cls, sep, body_length = tokenizer.cls_token_id, tokenizer.sep_token_id, max_length - 2

    def tokenize(batch: dict[str, Sequence]) -> Iterator[dict[str, list]]:
        rest: list[int] = []
        rest_words: list[int | None] = []
        for pieces in _groups(encode_pieces(batch["text"], tokenizer, whole_words)):
            bodies: list[list[int]] = []
            words: list[list[int | None]] = []
            for piece in pieces:
                windows, rest = _split(rest + piece.ids, body_length, 0, piece.is_last)
                bodies += windows
                windows, rest_words = _split(rest_words + piece.words, body_length, 0, piece.is_last)
                words += windows
            samples = {"ids": [[cls, *body, sep] for body in bodies], "length": [len(body) + 2 for body in bodies]}
            if whole_words:
                samples["token_words"] = [_word_indices([None, *window, None]) for window in words]
            yield samples

    return tokenize


def _groups(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Pieces with about as many tokens as are worth a table of their own."""
    group: list[Piece] = []
    tokens = 0
    for piece in pieces:
        group.append(piece)
        tokens += len(piece.ids)
        if tokens >= TOKENS:
            yield group
            group, tokens = [], 0
    if group:
        yield group


def _split(tokens: list, length: int, overlap: int, is_last: bool) -> tuple[list[list], list]:
    """Divide tokens into windows.

    Args:
        tokens: Of a document or of a part of it, with what was left of the part before.
        length: The most tokens of a window.
        overlap: Tokens at the end of a window with which the next one begins.
        is_last: Whether the document ends with them; the last window may then be shorter.

    Returns:
        The windows, and what is left for the next part.
    """
    stride = length - overlap
    count = max(len(tokens) - overlap, 0) // stride
    windows = [tokens[start : start + length] for start in range(0, count * stride, stride)]
    rest = tokens[count * stride :]
    if not is_last:
        return windows, rest
    return windows + ([rest] if len(rest) > overlap else []), []


def _word_indices(word_ids: list[int | None]) -> list[int]:
    """Number the words from 0 without gaps; each token that belongs to no word gets a number of its own."""
    ids = np.array([-1 if word is None else word for word in word_ids])
    begins_word = (ids[1:] != ids[:-1]) | (ids[1:] < 0)
    return [0, *np.cumsum(begins_word).tolist()]


def _check_splits_words(tokenizer: PreTrainedTokenizerBase) -> None:
    if len(set(tokenizer("one two", add_special_tokens=False).word_ids())) < 2:
        raise UserError("data.whole_words: the tokenizer does not tell words apart; leave it out")
