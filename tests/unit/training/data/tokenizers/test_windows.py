"""Windows of documents: for clm every token follows on another once; for whole words every token knows its word."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_rows import LIMIT, config, ids, jsonl, texts
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from warmup.config import Config
from warmup.config.data import Data
from warmup.errors import UserError
from warmup.training.data.prepare import prepare_data
from warmup.training.data.tokenizers.windows import window_tokenizer

pytestmark = pytest.mark.usefixtures("own_cache")


def test_clm_predicts_every_token_and_end_of_every_document_once(tmp_path: Path) -> None:
    documents = texts(40)
    files = [jsonl(tmp_path / f"{name}.jsonl", [{"text": text} for text in part]) for name, part in (
        ("one", documents[:30]), ("other", documents[30:])
    )]  # fmt: skip
    data = prepare_data(config(files[0], task="clm", vocab_size=300, validation_files=(files[1],)))
    end = data.tokenizer.eos_token_id
    for samples, part in ((data.train, documents[:30]), (data.validation, documents[30:])):
        left = ids(samples)
        whole = [[*data.tokenizer(document)["input_ids"], end] for document in part]
        predicted = Counter(token for window in left for token in window[1:])
        assert predicted == Counter(token for document in whole for token in document)
        assert samples.lengths.tolist() == [len(window) for window in left]
        assert max(samples.lengths) == LIMIT and min(samples.lengths) < LIMIT
        for document in whole:  # and in their order, each window from the last token of the one before
            count = -(-len(document) // (LIMIT - 1))
            own, left = left[:count], left[count:]
            assert [token for window in own for token in window[1:]] == document
            assert [window[0] for window in own] == [end, *(window[-1] for window in own[:-1])]
            assert [len(window) for window in own[:-1]] == [LIMIT] * (count - 1)
        assert left == []


@pytest.mark.parametrize(("length", "sizes"), [(1, [3]), (8, [10]), (9, [10, 2]), (17, [10, 10]), (18, [10, 10, 2])])
def test_no_window_is_of_a_begin_alone(length: int, sizes: list[int]) -> None:
    """With a beginning of its own, as Llama has, and the end: 10 tokens hold 9 targets."""
    backend = whitespace(["<s>", "</s>", *(f"w{number}" for number in range(30))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    samples = window_tokenizer("clm", tokenizer, 10)(
        {"text": [" ".join(f"w{number}" for number in range(length)), " "]}
    )
    assert samples["length"] == sizes
    stream = samples["ids"][0] + [token for window in samples["ids"][1:] for token in window[1:]]
    assert stream == [0, *range(2, length + 2), 1]


def test_what_ends_a_document_is_part_of_the_key(tmp_path: Path) -> None:
    """Two tokenizers that differ in nothing else give other samples."""
    file, found = jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts(9)]), {}
    for end in ("</s>", "<end>"):
        backend = whitespace(["<s>", "</s>", "<end>"])
        PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token=end, extra_special_tokens=["<s>", "</s>", "<end>"]
        ).save_pretrained(tmp_path / end[1:-1].strip("/"))
        found[end] = prepare_data(config(file, task="clm", tokenizer=str(tmp_path / end[1:-1].strip("/"))))
    one, other = found.values()
    assert one.tokenizer.backend_tokenizer.to_str() == other.tokenizer.backend_tokenizer.to_str()
    assert one.key != other.key and (ids(one.train)[0][0], ids(other.train)[0][0]) == (1, 2)


def whitespace(words: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def pieces() -> dict[str, int]:
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "pa", "##ra", "##sol", "sun", "##set", "."]
    return {word: number for number, word in enumerate(known)}


def test_words_of_wordpieces_are_numbered_within_their_window() -> None:
    """parasol . sunset parasol: a window of 4 tokens ends within a word, whose parts are words of their own."""
    cut = window_tokenizer("mlm", BertTokenizerFast(vocab=pieces()), 7, whole_words=True)
    samples = cut({"text": ["parasol. sunset parasol", "sun"]})
    assert samples["ids"] == [[2, 5, 6, 7, 10, 8, 3], [2, 9, 5, 6, 7, 3], [2, 8, 3]]
    assert samples["word"] == [[0, 1, 1, 1, 2, 3, 4], [0, 1, 2, 2, 2, 3], [0, 1, 2]]


def test_words_are_the_tokenizers_and_not_a_matter_of_spelling() -> None:
    """As RoBERTa's, whose pieces carry no ##: bytes, of which a word has as many as it likes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", sep_token="</s>", pad_token="<pad>")
    samples = window_tokenizer("mlm", tokenizer, 30, whole_words=True)({"text": ["I, too, don't"]})
    assert samples["word"] == [[0, 1, 2, *[3] * 4, 4, *[5] * 4, *[6] * 2, 7]]  # I | , | _too | , | _don | 't


def test_a_tokenizer_that_knows_no_words_is_refused() -> None:
    backend = whitespace(["[UNK]", "one", "two"])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    with pytest.raises(UserError, match="data.whole_words: the tokenizer does not tell words apart"):
        window_tokenizer(
            "mlm", PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"), 9, whole_words=True
        )


def test_words_are_stored_only_where_they_are_asked_for(tmp_path: Path) -> None:
    """And the key of what is cached says so."""
    file = jsonl(tmp_path / "a.jsonl", [{"text": "parasol. sunset " * (number % 5 + 1)} for number in range(30)])
    BertTokenizerFast(vocab=pieces()).save_pretrained(tmp_path / "known")
    given = {"tokenizer": str(tmp_path / "known")}
    plain, words = (prepare_data(config(file, whole_words=asked, **given)) for asked in (False, True))
    assert plain.key != words.key and ids(plain.train) == ids(words.train)
    everything = np.arange(len(words.train))
    assert "word" not in plain.train.take(everything)[2]
    _, mask_BT, columns = words.train.take(everything)
    assert columns["word"].shape == mask_BT.shape and (columns["word"][~mask_BT] == 0).all()
    last_B = columns["word"].max(1)
    assert (columns["word"][np.arange(len(mask_BT)), words.train.lengths - 1] == last_B).all()
    assert (last_B < words.train.lengths - 1).all()


def test_only_masked_language_modelling_chooses_words() -> None:
    with pytest.raises(ValueError, match="data.whole_words: is for task mlm, not for clm"):
        Config(task="clm", data=Data(whole_words=True))
