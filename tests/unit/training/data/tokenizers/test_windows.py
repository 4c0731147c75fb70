"""Windows of documents: for clm each token is a next token once; whole words give tokens the index of their word."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_rows import LIMIT, config, ids, jsonl, prepared, texts
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from warmup.config import Config
from warmup.config.data import Data
from warmup.errors import UserError
from warmup.training.data.tokenizers.windows import causal_windows, masked_windows

pytestmark = pytest.mark.usefixtures("own_cache")


def test_clm_predicts_every_token_and_end_of_every_document_once(tmp_path: Path) -> None:
    documents = texts(40)
    files = [jsonl(tmp_path / f"{name}.jsonl", [{"text": text} for text in part]) for name, part in (
        ("one", documents[:30]), ("other", documents[30:])
    )]  # fmt: skip
    data = prepared(config(files[0], task="clm", vocab_size=300, validation_files=(files[1],)))
    eos = data.tokenizer.eos_token_id
    for samples, part in ((data.train, documents[:30]), (data.validation, documents[30:])):
        windows = ids(samples)
        tokenized = [[*data.tokenizer(document)["input_ids"], eos] for document in part]
        predicted = Counter(token for window in windows for token in window[1:])
        assert predicted == Counter(token for document in tokenized for token in document)
        assert samples.lengths.tolist() == [len(window) for window in windows]
        assert max(samples.lengths) == LIMIT and min(samples.lengths) < LIMIT
        for document in tokenized:  # in order, each window from the last token of the one before
            count = -(-len(document) // (LIMIT - 1))
            own, windows = windows[:count], windows[count:]
            assert [token for window in own for token in window[1:]] == document
            assert [window[0] for window in own] == [eos, *(window[-1] for window in own[:-1])]
            assert [len(window) for window in own[:-1]] == [LIMIT] * (count - 1)
        assert windows == []


@pytest.mark.parametrize(("length", "sizes"), [(1, [3]), (8, [10]), (9, [10, 2]), (17, [10, 10]), (18, [10, 10, 2])])
def test_every_window_has_a_target(length: int, sizes: list[int]) -> None:
    """With separate tokens for the beginning and the end, as Llama has: a window of 10 tokens has 9 targets."""
    backend = whitespace(["<s>", "</s>", *(f"w{index}" for index in range(30))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    (samples,) = causal_windows(tokenizer, 10)({"text": [" ".join(f"w{index}" for index in range(length)), " "]})
    assert samples["length"] == sizes
    tokens = samples["ids"][0] + [token for window in samples["ids"][1:] for token in window[1:]]
    assert tokens == [0, *range(2, length + 2), 1]


def test_the_token_that_ends_a_document_is_part_of_the_key(tmp_path: Path) -> None:
    """Two tokenizers that differ only in it give different samples."""
    file, of_tokenizer = jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts(9)]), {}
    for end in ("</s>", "<end>"):
        backend = whitespace(["<s>", "</s>", "<end>"])
        PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token=end, extra_special_tokens=["<s>", "</s>", "<end>"]
        ).save_pretrained(tmp_path / end[1:-1].strip("/"))
        of_tokenizer[end] = prepared(config(file, task="clm", tokenizer=str(tmp_path / end[1:-1].strip("/"))))
    one, other = of_tokenizer.values()
    assert one.tokenizer.backend_tokenizer.to_str() == other.tokenizer.backend_tokenizer.to_str()
    assert one.key != other.key and (ids(one.train)[0][0], ids(other.train)[0][0]) == (1, 2)


def whitespace(words: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def pieces() -> dict[str, int]:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "pa", "##ra", "##sol", "sun", "##set", "."]
    return {token: index for index, token in enumerate(tokens)}


def test_words_are_numbered_within_their_window() -> None:
    """parasol . sunset parasol: the first window of 5 tokens ends within a word; both parts count as words."""
    tokenize = masked_windows(BertTokenizerFast(vocab=pieces()), 7, whole_words=True)
    (samples,) = tokenize({"text": ["parasol. sunset parasol", "sun"]})
    assert samples["ids"] == [[2, 5, 6, 7, 10, 8, 3], [2, 9, 5, 6, 7, 3], [2, 8, 3]]
    assert samples["token_words"] == [[0, 1, 1, 1, 2, 3, 4], [0, 1, 2, 2, 2, 3], [0, 1, 2]]


def test_words_are_those_of_the_tokenizer_and_do_not_depend_on_spelling() -> None:
    """A byte-level tokenizer like RoBERTa's, whose tokens have no ## mark: each byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", sep_token="</s>", pad_token="<pad>")
    (samples,) = masked_windows(tokenizer, 30, whole_words=True)({"text": ["I, too, don't"]})
    assert samples["token_words"] == [[0, 1, 2, *[3] * 4, 4, *[5] * 4, *[6] * 2, 7]]  # I | , | _too | , | _don | 't


def test_a_tokenizer_that_does_not_split_words_is_refused() -> None:
    backend = whitespace(["[UNK]", "one", "two"])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    with pytest.raises(UserError, match="data.whole_words: the tokenizer does not tell words apart"):
        masked_windows(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"), 9, whole_words=True)


def test_words_are_stored_only_for_whole_words(tmp_path: Path) -> None:
    """And the cache's key depends on it."""
    file = jsonl(tmp_path / "a.jsonl", [{"text": "parasol. sunset " * (index % 5 + 1)} for index in range(30)])
    BertTokenizerFast(vocab=pieces()).save_pretrained(tmp_path / "tokenizer")
    fields = {"tokenizer": str(tmp_path / "tokenizer")}
    plain, words = (prepared(config(file, whole_words=whole_words, **fields)) for whole_words in (False, True))
    assert plain.key != words.key and ids(plain.train) == ids(words.train)
    everything = np.arange(len(words.train))
    assert "token_words" not in plain.train.gather(everything)[2]
    _, mask_BT, columns = words.train.gather(everything)
    assert columns["token_words"].shape == mask_BT.shape and (columns["token_words"][~mask_BT] == 0).all()
    last_B = columns["token_words"].max(1)
    assert (columns["token_words"][np.arange(len(mask_BT)), words.train.lengths - 1] == last_B).all()
    assert (last_B < words.train.lengths - 1).all()


def test_whole_words_are_for_masked_language_modelling_only() -> None:
    with pytest.raises(ValueError, match="data.whole_words: is for the task mlm, not for clm"):
        Config(task="clm", data=Data(whole_words=True))
