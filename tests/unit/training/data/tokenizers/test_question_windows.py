"""Windows of contexts: those of the tokenizer itself, and the tokens of an answer in them."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import BertTokenizerFast, PreTrainedTokenizerBase, RobertaTokenizerFast

from warmup.training.data.tokenizers.question_windows import find_tokens, question_windows

CONTEXTS = [
    "The quick brown fox, naïve as ever, jumped over 東京タワー and the lazy dog's tail. " * 4,
    "short",
    "The quick brown fox, naïve as ever, jumped over 東京タワー and the lazy dog's tail. " * 4,
    "\u200b",  # of which BERT's tokenizer leaves nothing
]
QUESTIONS = ["who?", "what is it?", "where did the fox jump over the tower of Tokyo?", "why?"]


def bert() -> PreTrainedTokenizerBase:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz?,.'東京タワー"]
    pieces += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyzタワー"] + ["the", "quick", "##own"]
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)})


def roberta() -> PreTrainedTokenizerBase:
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(CONTEXTS, vocab_size=320, special_tokens=special, show_progress=False)
    import json

    model = json.loads(trained.to_str())["model"]
    return RobertaTokenizerFast(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


@pytest.mark.parametrize("make", [bert, roberta])
@pytest.mark.parametrize(("max_length", "stride"), [(64, 20), (80, 0), (512, 100)])
def test_they_are_those_of_the_tokenizer(make, max_length: int, stride: int) -> None:
    tokenizer = make()
    windows = list(question_windows(QUESTIONS, CONTEXTS, tokenizer, max_length, stride))
    encoded = tokenizer(
        QUESTIONS,
        CONTEXTS,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert [window.ids for window in windows] == encoded["input_ids"]
    assert [window.row for window in windows] == encoded["overflow_to_sample_mapping"]
    for number, window in enumerate(windows):
        inside = [position for position, text in enumerate(encoded.sequence_ids(number)) if text == 1]
        assert len(window.offsets) == len(inside)
        if inside:
            assert window.context_start == inside[0]
            assert [tuple(place) for place in window.offsets] == [encoded["offset_mapping"][number][p] for p in inside]


def test_a_question_that_leaves_no_room_has_a_window_without_context() -> None:
    (window,) = question_windows(["why " * 30], ["the quick fox"], bert(), 32, 10)
    assert len(window.ids) == 32 and len(window.offsets) == 0 and window.is_first


def test_the_tokens_of_an_answer() -> None:
    offsets = np.array([[3, 5], [5, 6], [7, 10], [10, 10], [12, 14]])
    assert find_tokens(offsets, 3, 6) == (0, 1)
    assert find_tokens(offsets, 4, 8) == (0, 2)  # parts of tokens
    assert find_tokens(offsets, 7, 14) == (2, 4)
    assert find_tokens(offsets, 2, 5) is None and find_tokens(offsets, 12, 15) is None  # not all of them
    assert find_tokens(np.zeros((0, 2), int), 0, 1) is None
