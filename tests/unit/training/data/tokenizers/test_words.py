"""Tagged words as tokens: each tag at its word's first piece, no word dropped, whatever the tokenizer."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from conftest import tagged_sentence, write_conll
from tokenizers import ByteLevelBPETokenizer, pre_tokenizers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast, RobertaTokenizerFast

from warmup.config import Config
from warmup.config.data import Data
from warmup.errors import UserError
from warmup.training.data.prepare import Prepared, prepare_data
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.data.splits import hold_out
from warmup.training.data.tokenizers.load import load_tokenizer, load_word_tokenizer
from warmup.training.data.tokenizers.words import sentence_parts, tokenize_tagged

LABELS = ("B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O")
PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "an", "##na", "##s", "lives", "in", "rio", "de")
TINY = BertTokenizerFast(vocab={piece: number for number, piece in enumerate(PIECES)})
PAD, UNK, CLS, SEP, MASK, AN, NA, S, LIVES, IN, RIO, DE = range(12)


def tokenise(words: list[str], tags: list[str], limit: int = 20) -> list[tuple[list[int], list[int]]]:
    numbers = {label: number for number, label in enumerate(LABELS)}
    found = tokenize_tagged({"text": [words], "label": [tags]}, TINY, limit, numbers)
    assert found["length"] == [len(ids) for ids in found["ids"]] == [len(row) for row in found["label"]]
    return list(zip(found["ids"], found["label"], strict=True))


def test_the_first_piece_of_a_word_has_its_tag() -> None:
    ((ids, labels),) = tokenise(["Annas", "lives", "in", "Rio", "de"], ["B-PER", "O", "O", "B-LOC", "I-LOC"])
    assert ids == [CLS, AN, NA, S, LIVES, IN, RIO, DE, SEP]
    assert labels == [IGNORE_INDEX, 2, IGNORE_INDEX, IGNORE_INDEX, 6, 6, 0, 3, IGNORE_INDEX]


def test_long_sentences_are_cut_between_words() -> None:
    """A window of 4 pieces: annas is not cut, and the third one begins another window."""
    words, tags = ["in", "Annas", "Annas", "in", "in"], ["O", "B-PER", "B-ORG", "O", "B-LOC"]
    assert tokenise(words, tags, limit=6) == [
        ([CLS, IN, AN, NA, S, SEP], [IGNORE_INDEX, 6, 2, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX]),
        ([CLS, AN, NA, S, IN, SEP], [IGNORE_INDEX, 1, IGNORE_INDEX, IGNORE_INDEX, 6, IGNORE_INDEX]),
        ([CLS, IN, SEP], [IGNORE_INDEX, 0, IGNORE_INDEX]),
    ]


def test_a_word_that_is_longer_than_a_window_is_cut_off() -> None:
    assert tokenise(["in", "Annas", "in"], ["O", "B-PER", "O"], limit=4) == [
        ([CLS, IN, SEP], [IGNORE_INDEX, 6, IGNORE_INDEX]),
        ([CLS, AN, NA, SEP], [IGNORE_INDEX, 2, IGNORE_INDEX, IGNORE_INDEX]),
        ([CLS, IN, SEP], [IGNORE_INDEX, 6, IGNORE_INDEX]),
    ]


def test_words_of_no_piece_are_not_asked_for_and_move_no_tag() -> None:
    """Control characters, of which BERT's normaliser leaves nothing; a word that is unknown is a piece."""
    words, tags = ["\x07", "Anna", "\u200b", "\ufeff", "de", "zzz"], ["B-ORG", "B-PER", "I-PER", "O", "B-LOC", "O"]
    assert tokenise(words, tags) == [([CLS, AN, NA, DE, UNK, SEP], [IGNORE_INDEX, 2, IGNORE_INDEX, 0, 6, IGNORE_INDEX])]
    assert tokenise(["\x07", "\u200b"], ["O", "O"]) == []


def test_the_parts_of_sentences_know_their_words() -> None:
    """Of each sentence there is one at least, whatever the tokenizer leaves of it."""
    texts = [["in", "\x07", "Annas", "in"], ["\x07"], ["de"]]
    found = [tuple(part) for part in sentence_parts(texts, TINY, 4)]
    assert found == [
        (0, True, [CLS, IN, SEP], [0, 1, 0], False),
        (0, False, [CLS, AN, NA, SEP], [0, 3, 0, 0], True),
        (0, False, [CLS, IN, SEP], [0, 4, 0], False),
        (1, True, [CLS, SEP], [0, 0], False),
        (2, True, [CLS, DE, SEP], [0, 1, 0], False),
    ]


@pytest.mark.parametrize("limit", [5, 9, 64])
def test_no_word_is_dropped(limit: int) -> None:
    random_ = random.Random(limit)
    tokenizer = BertTokenizerFast(vocab=TINY.get_vocab() | {f"##{c}": 12 + n for n, c in enumerate("abcdefg")})
    for _ in range(50):
        words = [
            "an" + "".join(random_.choices("abcdefg", k=random_.randint(0, 8))) for _ in range(random_.randint(1, 9))
        ]
        tags = random_.choices(LABELS, k=len(words))
        numbers = {label: number for number, label in enumerate(LABELS)}
        found = tokenize_tagged({"text": [words], "label": [tags]}, tokenizer, limit, numbers)
        assert [LABELS[tag] for row in found["label"] for tag in row if tag != IGNORE_INDEX] == tags
        pieces = [tokenizer.tokenize(word)[: limit - 2] for word in words]
        ids = [token for row in found["ids"] for token in row[1:-1]]
        assert ids == tokenizer.convert_tokens_to_ids(sum(pieces, []))
        assert max(found["length"]) <= limit


# Tokenizers


def byte_level() -> ByteLevelBPETokenizer:
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    texts = ["we were in Berlin, Anna was in Paris", " Anna Berlin Paris"] * 50
    tokenizer.train_from_iterator(texts, vocab_size=500, special_tokens=special, show_progress=False)
    return tokenizer


SPECIAL = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}


@pytest.mark.parametrize("kind", ["roberta", "other"])
def test_byte_level_tokenizers_see_the_blank_before_a_word(kind: str, tmp_path: Path) -> None:
    """Saved without add_prefix_space, as published ones are; without it every word would be read as a word's inside."""
    trained = byte_level()
    if kind == "roberta":
        merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
        RobertaTokenizerFast(vocab=trained.get_vocab(), merges=merges).save_pretrained(tmp_path)
    else:
        PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, **SPECIAL).save_pretrained(tmp_path)
    tokenizer = load_word_tokenizer(str(tmp_path), "model")
    again = tmp_path / "again"
    tokenizer.save_pretrained(again)  # as it is exported
    for loaded in (tokenizer, load_tokenizer(str(again), "model")):
        numbers = {"O": 0, "B": 1}
        batch = {"text": [["Anna", "was", "in", "Berlin"]], "label": [["B", "O", "O", "B"]]}
        found = tokenize_tagged(batch, loaded, 20, numbers)
        assert loaded.convert_ids_to_tokens(found["ids"][0]) == ["<s>", "ĠAnna", "Ġwas", "Ġin", "ĠBerlin", "</s>"]
        assert found["label"] == [[IGNORE_INDEX, 1, 0, 0, 1, IGNORE_INDEX]]
        in_text = loaded("Anna was in Berlin", add_special_tokens=False)["input_ids"]
        assert in_text == found["ids"][0][1:-1]  # what a pipeline sees of the text


def test_a_tokenizer_that_cannot_read_single_words(tmp_path: Path) -> None:
    trained = byte_level()
    parts = [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    trained._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, **SPECIAL).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match="^data.tokenizer: the tokenizer of .* task: token-classification cannot use it"
    ):
        load_word_tokenizer(str(tmp_path), "data.tokenizer")


# Prepared data


def prepared(folder: Path, *rows: tuple[list[str], list[str]], **data: object) -> Prepared:
    train = write_conll(folder / "train.conll", list(rows))
    return prepare_data(
        Config(task="token-classification", data=Data(train_files=(str(train),), cache_dir=str(folder), **data))
    )


def test_prepared_sentences(tmp_path: Path) -> None:
    random_ = random.Random(0)
    rows = [tagged_sentence(random_) for _ in range(60)]
    data = prepared(tmp_path, *rows, vocab_size=150, max_length=12, validation_fraction=0.2)
    assert data.labels == LABELS
    ids_BT, mask_BT, columns = data.train.take(np.arange(len(data.train)))
    tags_BT = columns["label"]
    assert set(columns) == {"length", "label"} and tags_BT.shape == ids_BT.shape
    assert mask_BT.sum() == data.train.lengths.sum()
    found = []
    for samples in (data.train, data.validation):
        _, mask_BT, columns = samples.take(np.arange(len(samples)))
        found += [LABELS[tag] for tag in columns["label"][mask_BT] if tag != IGNORE_INDEX]
    assert sorted(found) == sorted(tag for _, tags in rows for tag in tags)
    assert not (ids_BT == data.tokenizer.unk_token_id).any()  # it was trained on the words
    again = prepared(tmp_path, *rows, vocab_size=150, max_length=12, validation_fraction=0.2)
    assert again.key == data.key


def test_no_tag_is_held_out_that_is_not_trained_on() -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"label": [["O", "B"]] * 30 + [["O", "rare"], ["O"]]})
    for fraction in (0.05, 0.5, 0.97):
        held_out = hold_out(rows, fraction)
        assert not held_out[30] and 0 < held_out.sum() < 31


def test_data_that_cannot_be_trained_on(tmp_path: Path) -> None:
    def refusal(*rows: tuple[list[str], list[str]], **data: object) -> str:
        with pytest.raises(UserError) as caught:
            prepared(tmp_path, *rows, vocab_size=100, **data)
        return str(caught.value)

    fine = [(["a", "b"], ["O", "B-X"])] * 9
    assert "all rows have the label 'O'" in refusal(*[(["a", "b"], ["O", "O"])] * 9)
    other = write_conll(tmp_path / "other.conll", [(["a"], ["B-Y"])])
    assert "the label 'B-Y' is in no training row (labels there: B-X, O)" in refusal(
        *fine, validation_files=(str(other),)
    )
    assert "data.pair_column: task token-classification reads one text" in refusal(*fine, pair_column="b")
    with pytest.raises(
        UserError, match="none given, and task: token-classification needs files of words and their tags"
    ):
        prepare_data(Config(task="token-classification", data=Data(cache_dir=str(tmp_path))))
