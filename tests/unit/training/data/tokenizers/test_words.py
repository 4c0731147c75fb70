"""Tagged words as tokens: each tag at its word's first token, and no word dropped, with any tokenizer."""

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
from warmup.config.tasks import name_tasks, tasks_with
from warmup.errors import UserError
from warmup.training.data.prepare import Prepared, prepare_data
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.data.splits import hold_out
from warmup.training.data.tokenizers.load import load_tokenizer, load_word_tokenizer
from warmup.training.data.tokenizers.words import sentence_parts, tokenize_tagged
from warmup.training.tasks import create_task

LABELS = ("B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O")
LABEL_IDS = {label: index for index, label in enumerate(LABELS)}
PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "an", "##na", "##s", "lives", "in", "rio", "de")
TINY = BertTokenizerFast(vocab={piece: index for index, piece in enumerate(PIECES)})
PAD, UNK, CLS, SEP, MASK, AN, NA, S, LIVES, IN, RIO, DE = range(12)


def tokenize(words: list[str], tags: list[str], max_length: int = 20) -> list[tuple[list[int], list[int]]]:
    (samples,) = tokenize_tagged({"text": [words], "label": [tags]}, TINY, max_length, LABEL_IDS)
    assert samples["length"] == [len(ids) for ids in samples["ids"]] == [len(row) for row in samples["token_labels"]]
    return list(zip(samples["ids"], samples["token_labels"], strict=True))


def test_the_first_token_of_a_word_has_its_tag() -> None:
    ((ids, labels),) = tokenize(["Annas", "lives", "in", "Rio", "de"], ["B-PER", "O", "O", "B-LOC", "I-LOC"])
    assert ids == [CLS, AN, NA, S, LIVES, IN, RIO, DE, SEP]
    assert labels == [IGNORE_INDEX, 2, IGNORE_INDEX, IGNORE_INDEX, 6, 6, 0, 3, IGNORE_INDEX]


def test_long_sentences_are_split_between_words() -> None:
    """A sample has room for 4 tokens: annas is not split, and the third word begins another sample."""
    words, tags = ["in", "Annas", "Annas", "in", "in"], ["O", "B-PER", "B-ORG", "O", "B-LOC"]
    assert tokenize(words, tags, max_length=6) == [
        ([CLS, IN, AN, NA, S, SEP], [IGNORE_INDEX, 6, 2, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX]),
        ([CLS, AN, NA, S, IN, SEP], [IGNORE_INDEX, 1, IGNORE_INDEX, IGNORE_INDEX, 6, IGNORE_INDEX]),
        ([CLS, IN, SEP], [IGNORE_INDEX, 0, IGNORE_INDEX]),
    ]


def test_a_word_that_is_too_long_for_a_sample_is_truncated() -> None:
    assert tokenize(["in", "Annas", "in"], ["O", "B-PER", "O"], max_length=4) == [
        ([CLS, IN, SEP], [IGNORE_INDEX, 6, IGNORE_INDEX]),
        ([CLS, AN, NA, SEP], [IGNORE_INDEX, 2, IGNORE_INDEX, IGNORE_INDEX]),
        ([CLS, IN, SEP], [IGNORE_INDEX, 6, IGNORE_INDEX]),
    ]


def test_words_without_tokens_have_no_target_and_shift_no_tag() -> None:
    """BERT's normalizer removes control characters; an unknown word has a token."""
    words, tags = ["\x07", "Anna", "\u200b", "\ufeff", "de", "zzz"], ["B-ORG", "B-PER", "I-PER", "O", "B-LOC", "O"]
    assert tokenize(words, tags) == [([CLS, AN, NA, DE, UNK, SEP], [IGNORE_INDEX, 2, IGNORE_INDEX, 0, 6, IGNORE_INDEX])]
    assert tokenize(["\x07", "\u200b"], ["O", "O"]) == []


def test_parts_of_sentences_have_the_numbers_of_their_words() -> None:
    """There is at least one part per sentence, even if the tokenizer leaves nothing of it."""
    texts = [["in", "\x07", "Annas", "in"], ["\x07"], ["de"]]
    assert [tuple(part) for part in sentence_parts(texts, TINY, 4)] == [
        (0, True, [CLS, IN, SEP], [0, 1, 0], False),
        (0, False, [CLS, AN, NA, SEP], [0, 3, 0, 0], True),
        (0, False, [CLS, IN, SEP], [0, 4, 0], False),
        (1, True, [CLS, SEP], [0, 0], False),
        (2, True, [CLS, DE, SEP], [0, 1, 0], False),
    ]


@pytest.mark.parametrize("max_length", [5, 9, 64])
def test_no_word_is_dropped(max_length: int) -> None:
    random_ = random.Random(max_length)
    tokenizer = BertTokenizerFast(vocab=TINY.get_vocab() | {f"##{c}": 12 + n for n, c in enumerate("abcdefg")})
    for _ in range(50):
        words = [
            "an" + "".join(random_.choices("abcdefg", k=random_.randint(0, 8))) for _ in range(random_.randint(1, 9))
        ]
        tags = random_.choices(LABELS, k=len(words))
        (samples,) = tokenize_tagged({"text": [words], "label": [tags]}, tokenizer, max_length, LABEL_IDS)
        assert [LABELS[tag] for row in samples["token_labels"] for tag in row if tag != IGNORE_INDEX] == tags
        tokens = [tokenizer.tokenize(word)[: max_length - 2] for word in words]
        ids = [token for row in samples["ids"] for token in row[1:-1]]
        assert ids == tokenizer.convert_tokens_to_ids(sum(tokens, []))
        assert max(samples["length"]) <= max_length


# Tokenizers


def byte_level() -> ByteLevelBPETokenizer:
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    texts = ["we were in Berlin, Anna was in Paris", " Anna Berlin Paris"] * 50
    tokenizer.train_from_iterator(texts, vocab_size=500, special_tokens=special, show_progress=False)
    return tokenizer


SPECIAL = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}


@pytest.mark.parametrize("kind", ["roberta", "other"])
def test_byte_level_tokenizers_see_a_space_before_a_word(kind: str, tmp_path: Path) -> None:
    """Saved without add_prefix_space, as published ones are; without it each word would look like the inside of one."""
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
        batch = {"text": [["Anna", "was", "in", "Berlin"]], "label": [["B", "O", "O", "B"]]}
        (samples,) = tokenize_tagged(batch, loaded, 20, {"O": 0, "B": 1})
        assert loaded.convert_ids_to_tokens(samples["ids"][0]) == ["<s>", "ĠAnna", "Ġwas", "Ġin", "ĠBerlin", "</s>"]
        assert samples["token_labels"] == [[IGNORE_INDEX, 1, 0, 0, 1, IGNORE_INDEX]]
        in_text = loaded("Anna was in Berlin", add_special_tokens=False)["input_ids"]
        assert in_text == samples["ids"][0][1:-1]  # what a pipeline sees of the text


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
    config = Config(task="token-classification", data=Data(train_files=(str(train),), cache_dir=str(folder), **data))
    return prepare_data(config, create_task(config))


def test_prepared_sentences(tmp_path: Path) -> None:
    random_ = random.Random(0)
    rows = [tagged_sentence(random_) for _ in range(60)]
    data = prepared(tmp_path, *rows, vocab_size=150, max_length=12, validation_fraction=0.2)
    assert data.labels == LABELS
    ids_BT, mask_BT, columns = data.train.gather(np.arange(len(data.train)))
    tags_BT = columns["token_labels"]
    assert set(columns) == {"length", "sample", "token_labels"} and tags_BT.shape == ids_BT.shape
    assert mask_BT.sum() == data.train.lengths.sum()
    tags_found = []
    for samples in (data.train, data.validation):
        _, mask_BT, columns = samples.gather(np.arange(len(samples)))
        tags_found += [LABELS[tag] for tag in columns["token_labels"][mask_BT] if tag != IGNORE_INDEX]
    assert sorted(tags_found) == sorted(tag for _, tags in rows for tag in tags)
    assert not (ids_BT == data.tokenizer.unk_token_id).any()  # it was trained on the words
    again = prepared(tmp_path, *rows, vocab_size=150, max_length=12, validation_fraction=0.2)
    assert again.key == data.key


def test_rows_with_the_only_example_of_a_tag_are_not_held_out() -> None:
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
    assert refusal(*fine, pair_column="b") == (
        f"data.pair_column: is for {name_tasks(tasks_with('data.pair_column'))}, not for token-classification; "
        "leave it out"
    )
    with pytest.raises(
        UserError, match="none given, and task: token-classification needs files of words and their tags"
    ):
        config = Config(task="token-classification", data=Data(cache_dir=str(tmp_path)))
        prepare_data(config, create_task(config))
