"""Tokenized data: nothing lost, nothing joined, made once, and the same in every process."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import WORDS
from made_rows import LIMIT, body, config, copy, ids, jsonl, labelled, plain, prepared, texts

from warmup.config import Config
from warmup.errors import UserError
from warmup.training.data import prepare
from warmup.training.data.prepare import CACHE_FORMAT, Prepared, tokenize_rows
from warmup.training.data.splits import hold_out

pytestmark = pytest.mark.usefixtures("own_cache")

# Windows and texts


def test_windows_lose_no_token_and_join_no_documents(tmp_path: Path) -> None:
    documents = texts(40)
    one, other = (jsonl(tmp_path / f"{name}.jsonl", [{"text": t} for t in part]) for name, part in (
        ("one", documents[:30]), ("other", documents[30:])
    ))  # fmt: skip
    data = prepared(config(one, validation_files=(other,)))
    for samples, part in ((data.train, documents[:30]), (data.validation, documents[30:])):
        windows = ids(samples)
        expected = []
        for document in part:
            whole = data.tokenizer(document, add_special_tokens=False)["input_ids"]
            count = -(-len(whole) // (LIMIT - 2))
            own, windows = windows[:count], windows[count:]
            assert body(own) == whole
            assert [len(window) for window in own[:-1]] == [LIMIT] * (count - 1)
            assert 3 <= len(own[-1]) <= LIMIT
            assert all((w[0], w[-1]) == (data.tokenizer.cls_token_id, data.tokenizer.sep_token_id) for w in own)
            expected += [len(window) for window in own]
        assert not windows
        assert samples.lengths.tolist() == expected
    assert max(data.train.lengths) == LIMIT and min(data.train.lengths) < LIMIT


def test_gather_gives_samples_in_the_requested_order_padded_with_zeros(tmp_path: Path) -> None:
    data = prepared(config(labelled(tmp_path / "a.jsonl", [0, 1] * 30), task="classification"))
    everything = ids(data.train)
    indices = np.array([7, 3, 50, 3])
    ids_BT, mask_BT, columns = data.train.gather(indices)
    assert mask_BT.sum(1).tolist() == [len(everything[index]) for index in indices]
    assert ids_BT.shape == (4, max(len(everything[index]) for index in indices))
    assert [row[: len(everything[i])].tolist() for row, i in zip(ids_BT, indices)] == [everything[i] for i in indices]
    assert (ids_BT[~mask_BT] == 0).all()
    assert columns["label"].tolist() == [int(data.train.table[int(i)]["label"][0].as_py()) for i in indices]


@pytest.mark.parametrize("limit", [8, 64])
@pytest.mark.parametrize("pairs", [False, True])
def test_texts_and_pairs_are_the_tokenizers_own(tmp_path: Path, pairs: bool, limit: int) -> None:
    train = labelled(tmp_path / "train.jsonl", [0, 1] * 20, pairs)
    data = prepared(config(train, task="classification", max_length=limit, validation_files=(copy(train),)))
    rows = [json.loads(line) for line in Path(train).read_text().splitlines()]
    starts = data.train.gather(np.arange(40))[2]["second_start"]
    truncated = 0
    for number, (row, sample) in enumerate(zip(rows, ids(data.train), strict=True)):
        own = data.tokenizer(row["text"], row.get("text_pair"), truncation=True, max_length=limit)
        assert sample == own["input_ids"]
        assert [int(position >= starts[number]) for position in range(len(sample))] == own["token_type_ids"]
        assert sum(own["token_type_ids"]) == 0 or pairs
        truncated += len(sample) < len(data.tokenizer(row["text"], row.get("text_pair"))["input_ids"])
    assert truncated > 20 if limit == 8 else truncated == 0
    assert max(data.train.lengths) <= limit


def test_a_text_without_tokens_is_no_window_but_a_sample_to_classify(tmp_path: Path) -> None:
    rows = [{"text": text, "label": number % 2} for number, text in enumerate(["\u200b", *texts(9)])]
    file = jsonl(tmp_path / "a.jsonl", rows)
    data = prepared(config(file, validation_files=(copy(file),), max_length=64))
    assert len(data.train) == 9
    data = prepared(config(file, validation_files=(copy(file),), max_length=64, task="classification"))
    assert ids(data.train)[0] == [data.tokenizer.cls_token_id, data.tokenizer.sep_token_id]
    empty = jsonl(tmp_path / "empty.jsonl", [{"text": "\u200b"}] * 3)
    with pytest.raises(UserError, match="data: no token in the validation texts"):
        prepared(config(file, validation_files=(empty,), max_length=64))


def test_single_texts_and_pairs_do_not_mix(tmp_path: Path, own_cache: Path) -> None:
    single, pairs = labelled(tmp_path / "a.jsonl", [0, 1] * 9), labelled(tmp_path / "b.jsonl", [0, 1] * 9, pairs=True)
    for files, validation in (((single, pairs), ()), ((pairs, single), ()), ((pairs,), (single,))):
        with pytest.raises(UserError, match="some files have a second text and some have none"):
            prepared(config(*files, task="classification", validation_files=validation))
    assert not [path for path in own_cache.iterdir() if path.is_dir()]


# The cache


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sets that were tokenized."""
    names: list[str] = []

    def counted(rows, task, tokenizer, labels, name):
        names.append(name)
        return tokenize_rows(rows, task, tokenizer, labels, name)

    monkeypatch.setattr(prepare, "tokenize_rows", counted)
    return names


def test_a_second_start_reads_the_cache(tmp_path: Path, own_cache: Path, tokenized: list[str]) -> None:
    first = prepared(config(plain(tmp_path)))
    assert tokenized == ["train", "validation"]
    second = prepared(config(plain(tmp_path)))
    assert tokenized == ["train", "validation"]
    name = f"{first.key}-{CACHE_FORMAT}"
    assert (second.key, second.folder) == (first.key, own_cache / name)
    assert ids(second.train) == ids(first.train)
    assert second.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    assert sorted(path.name for path in own_cache.iterdir()) == sorted([name, f"{name}.lock"])
    assert sorted(path.name for path in first.folder.iterdir()) == ["facts.json", "tokenizer", "train", "validation"]


def key(config_: Config) -> str:
    return prepared(config_).key


def test_what_does_not_change_the_data_does_not_change_its_key(tmp_path: Path, tokenized: list[str]) -> None:
    base = config(plain(tmp_path))
    expected = key(base)
    renamed = tmp_path / "renamed.jsonl"
    os.rename(base.data.train_files[0], renamed)
    base = dataclasses.replace(base, data=dataclasses.replace(base.data, train_files=(str(renamed),)))
    same = [
        base,
        dataclasses.replace(base, seed=7),
        dataclasses.replace(base, model="mini", dropout=0.3),
        dataclasses.replace(base, data=dataclasses.replace(base.data, mask_rate=0.4)),
        dataclasses.replace(base, data=dataclasses.replace(base.data, cache_dir=str(tmp_path / "cache"))),
    ]
    assert {key(other) for other in same} == {expected}
    assert tokenized == ["train", "validation"]


def test_what_changes_the_data_changes_its_key(tmp_path: Path) -> None:
    file = labelled(tmp_path / "a.jsonl", [0, 1] * 20)
    base = config(file)
    changed = [
        {"vocab_size": 160}, {"max_length": 13}, {"validation_fraction": 0.2}, {"text_column": "text"},
        {"max_bad_rows": 3}, {"validation_files": (copy(file),)}, {"train_files": (file, copy(file))},
    ]  # fmt: skip
    keys = [key(base), key(dataclasses.replace(base, task="classification"))]
    keys += [key(dataclasses.replace(base, data=dataclasses.replace(base.data, **change))) for change in changed]
    with open(file, "a", encoding="utf-8") as stream:
        stream.write('{"text": "one more", "label": 1}\n')
    keys.append(key(base))
    assert len(set(keys)) == len(keys) == 10


def test_a_given_tokenizer_is_used_and_left_as_it_was(tmp_path: Path) -> None:
    trained = prepared(config(plain(tmp_path))).tokenizer
    trained.save_pretrained(tmp_path / "tokenizer")
    file = labelled(tmp_path / "a.jsonl", [0, 1] * 20)
    given = config(file, task="classification", tokenizer=str(tmp_path / "tokenizer"))
    fresh, cached = prepared(given), prepared(given)
    assert not (fresh.folder / "tokenizer").exists()
    settings = [data.tokenizer.backend_tokenizer.to_str() for data in (fresh, cached)]
    assert settings[0] == settings[1]  # so that a model exported with it is the same from either run
    assert json.loads(settings[0])["truncation"] is None
    assert key(dataclasses.replace(given, data=dataclasses.replace(given.data, vocab_size=999))) == fresh.key
    trained.add_tokens(["batel"])
    trained.save_pretrained(tmp_path / "tokenizer")
    assert key(given) != fresh.key


def test_after_an_error_nothing_half_made_is_there(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, tokenized: list[str]
) -> None:
    one_class = labelled(tmp_path / "a.jsonl", [1] * 10)
    with pytest.raises(UserError):
        prepared(config(one_class, task="classification"))
    given = config(plain(tmp_path))

    def full(self: Path, text: str) -> None:
        assert self.name == "facts.json" and tokenized == ["train", "validation"]  # the last that is written
        raise OSError(28, "No space left on device", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(UserError, match=r"^data\.cache_dir: .*facts\.json: No space left on device$"):
            prepared(given)
    assert not [path for path in own_cache.iterdir() if path.is_dir()]
    assert len(prepared(given).train) > 0
    # What a process that was killed left behind is no obstacle either.
    data = prepared(config(plain(tmp_path), max_length=9))
    stage = data.folder.with_name(f".{data.folder.name}.stage")
    data.folder.rename(stage)
    again = prepared(config(plain(tmp_path), max_length=9))
    assert ids(again.train) and again.folder == data.folder and not stage.exists()


def test_a_cache_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^data\.cache_dir: .*file.*: (Not a directory|File exists)"):
        prepared(config(plain(tmp_path), cache_dir=str(tmp_path / "file" / "cache")))


# Rows: the split, labels, and those that are skipped


def split(data: Prepared) -> tuple[set, set]:
    """The first words of both sets, of rows that are told apart by them."""
    names = [data.tokenizer.batch_decode([row[1:-1] for row in ids(part)]) for part in (data.train, data.validation)]
    return set(names[0]), set(names[1])


def test_the_split_is_disjoint_of_the_right_size_and_the_same_for_every_seed(tmp_path: Path) -> None:
    rows = [{"text": f"{WORDS[a]} {WORDS[b]}"} for a in range(20) for b in range(20)]
    file = jsonl(tmp_path / "a.jsonl", rows)
    data = prepared(config(file, validation_fraction=0.1, vocab_size=200))
    train, validation = split(data)
    assert (len(train), len(validation)) == (360, 40)
    assert train | validation == {row["text"] for row in rows} and not train & validation
    other = dataclasses.replace(config(file, validation_fraction=0.1, vocab_size=200), seed=99)
    other = dataclasses.replace(other, data=dataclasses.replace(other.data, cache_dir=str(tmp_path / "elsewhere")))
    assert split(prepared(other)) == (train, validation)
    # Not the first, the last, nor every tenth; and both sets keep the order of the file.
    indices = [[row["text"] for row in rows].index(text) for text in validation]
    assert len({index % 10 for index in indices}) > 4 and max(indices) > 300 > 100 > min(indices)


@pytest.mark.parametrize(("rows", "fraction", "held_out"), [(2, 0.05, 1), (30, 0.05, 2), (100, 0.05, 5), (10, 0.5, 5)])
def test_sizes_of_the_split(tmp_path: Path, rows: int, fraction: float, held_out: int) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"text": f"{WORDS[row % 24]} {WORDS[row // 24]}"} for row in range(rows)])
    data = prepared(config(file, validation_fraction=fraction))
    assert (len(data.train), len(data.validation)) == (rows - held_out, held_out)


def test_one_row_is_too_few_to_split(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"text": "alone"}])
    with pytest.raises(UserError, match="data.train_files: 1 row is too few"):
        prepared(config(file))
    assert len(prepared(config(file, validation_files=(copy(file),))).train) == 1


@pytest.mark.parametrize(("given", "order"), [
    ([10, 9, 1, 0, -1], ("-1", "0", "1", "9", "10")),
    (["pos", "neg", "Neutral"], ("Neutral", "neg", "pos")),
    (["10", "9", "b"], ("10", "9", "b")),
])  # fmt: skip
def test_labels_are_numbers_by_value_or_names_by_the_alphabet(tmp_path: Path, given: list, order: tuple) -> None:
    train = labelled(tmp_path / "a.jsonl", given * 4)
    data = prepared(config(train, task="classification", validation_files=(copy(train),)))
    assert data.labels == order
    label_ids = data.train.gather(np.arange(len(given) * 4))[2]["label"]
    assert [order[label_id] for label_id in label_ids] == [str(label) for label in given * 4]


def test_labels_that_cannot_be_learned(tmp_path: Path) -> None:
    one, two, three = (labelled(tmp_path / f"{n}.jsonl", list(range(n)) * 6) for n in (1, 2, 3))
    with pytest.raises(UserError, match="all rows have the label '0'; a classifier needs two or more"):
        prepared(config(one, task="classification"))
    with pytest.raises(UserError, match=r"validation_files: the label '2' is in no training row \(.*: 0, 1\)"):
        prepared(config(two, task="classification", validation_files=(three,)))
    assert prepared(config(three, task="classification", validation_files=(one,))).labels == ("0", "1", "2")


def test_skipped_rows_are_listed_also_from_the_cache(tmp_path: Path) -> None:
    file = Path(plain(tmp_path))
    file.write_bytes(b'{"text": "a"}\n{"text": ""}\n{"other": 1}\n\xff\n' + file.read_bytes())
    for _ in range(2):
        data = prepared(config(str(file)))
        assert [row.split(":")[-2].strip() for row in data.bad_rows] == ["2", "3", "4"]
        assert all(row.startswith(f"{file}:") for row in data.bad_rows)
    with pytest.raises(UserError):
        prepared(config(str(file), max_bad_rows=2))


# The trained tokenizer


def test_the_trained_tokenizer(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    documents = ["".join(random.choice(list("abcdelmru "), 30)) for _ in range(80)] + ["Crème BRÛLÉE!"]
    file = jsonl(tmp_path / "a.jsonl", [{"text": text} for text in documents])
    data = prepared(config(file, vocab_size=120, validation_files=(copy(file),)))
    vocabulary = data.tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(120)) and len(data.tokenizer) == 120
    special = [data.tokenizer.pad_token_id, data.tokenizer.unk_token_id, data.tokenizer.cls_token_id]
    assert [*special, data.tokenizer.sep_token_id, data.tokenizer.mask_token_id] == [0, 1, 2, 3, 4]
    assert data.tokenizer.tokenize("CRÈME brulee!") == data.tokenizer.tokenize("creme brûlée !")
    assert not [word for document in documents for word in data.tokenizer.tokenize(document) if word == "[UNK]"]
    assert data.tokenizer.tokenize("[MASK]") == ["[MASK]"] and data.tokenizer.tokenize("中") == ["[UNK]"]


def test_a_class_that_would_only_be_held_out_stays_in_training() -> None:
    rows = datasets.Dataset.from_dict({"label": ["a", "b"] * 20 + ["rare"]})
    for fraction in (0.05, 0.5, 0.9):
        held_out = hold_out(rows, fraction)
        labels = np.array(rows["label"])
        assert set(labels[held_out]) <= set(labels[~held_out])
        assert 0 < held_out.sum() < len(rows)
    assert hold_out(rows.select(range(3)), 0.99).sum() <= 2


def test_something_is_held_out_wherever_a_class_has_two_rows() -> None:
    """Also if all that were chosen at first are the only ones of their classes."""
    for common in range(9):
        labels = [f"rare {number}" for number in range(9)]
        labels[common] = labels[(common + 4) % 9] = "common"
        held_out = hold_out(datasets.Dataset.from_dict({"label": labels}), 0.05)
        assert held_out.sum() == 1 and labels[int(held_out.argmax())] == "common"


def test_rows_of_which_none_can_be_held_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no row can be held out, as each has a label that no other one has; give"):
        prepared(config(labelled(tmp_path / "a.jsonl", ["a", "b", "c"]), task="classification"))


def test_rows_of_a_group_are_held_out_together() -> None:
    """40 groups of 1 to 4 rows, here and there in the table: about as many rows as are asked for."""
    random_ = random.Random(4)
    texts = [f"text {group}" for group in range(40) for _ in range(group % 4 + 1)]
    random_.shuffle(texts)
    rows = datasets.Dataset.from_dict({"text": texts})
    for fraction in (0.05, 0.3, 0.9):
        held_out = hold_out(rows, fraction, False, "text")
        assert not set(np.array(texts)[held_out]) & set(np.array(texts)[~held_out])
        assert abs(held_out.sum() - fraction * 100) <= 2
    assert hold_out(rows.select(range(2)), 0.99, False, "text").sum() == 1
    several = [index for index, text in enumerate(texts) if text == "text 3"]
    assert hold_out(rows.select(several), 0.25, False, "text").sum() == 1  # all of one group: row by row
    distinct = datasets.Dataset.from_dict({"text": [f"text {number}" for number in range(100)]})
    assert (hold_out(distinct, 0.2, False, "text") == hold_out(distinct, 0.2, False)).all()


def test_a_group_of_many_rows_is_not_held_out() -> None:
    """Or nearly all rows would be. Single rows are held out where each group has more than twice as many as needed."""
    texts = ["common"] * 990 + [f"text {number}" for number in range(8)]
    random.Random(4).shuffle(texts)
    rows = datasets.Dataset.from_dict({"text": texts})
    held_out = hold_out(rows, 0.05, False, "text")
    assert {text for text, out in zip(texts, held_out, strict=True) if out} == {f"text {number}" for number in range(8)}
    few = datasets.Dataset.from_dict({"text": [f"text {row % 10}" for row in range(1000)]})
    for fraction, count in ((0.05, 100), (0.049, 49), (0.1, 100), (0.96, 900)):  # a group of 100, or single rows
        assert hold_out(few, fraction, False, "text").sum() == count
    assert (hold_out(few, 0.049, False, "text") == hold_out(few, 0.049, False)).all()


@pytest.mark.usefixtures("own_cache")
def test_a_split_within_a_text_is_said(tmp_path: Path) -> None:
    answers = {"text": ["one"], "answer_start": [0]}
    rows = [{"context": "one two", "question": f"what {number}?", "answers": answers} for number in range(40)]
    file = jsonl(tmp_path / "a.jsonl", rows)
    assert prepared(config(file, task="question-answering")).notes["held out"] == (
        "2 of 2 held-out rows have a text that training rows have too, as each text has too many rows to hold out all "
        "of them; give --data.validation_files"
    )
    other = jsonl(tmp_path / "b.jsonl", [*rows, {**rows[0], "context": "one"}])
    for given in (config(other), config(file, validation_files=(copy(file),))):
        assert "held out" not in prepared(dataclasses.replace(given, task="question-answering")).notes


def test_a_label_twice_in_a_row_is_of_one_row(tmp_path: Path) -> None:
    """And that row, the only one with the label, is not held out."""
    for repeated in range(3):
        labels = [[str(row)] * 2 for row in range(3)] + [["common"], ["common", "common"]]
        labels[0], labels[repeated] = labels[repeated], labels[0]
        held_out = hold_out(datasets.Dataset.from_dict({"label": labels}), 0.05)
        assert held_out.sum() == 1 and "common" in labels[int(held_out.argmax())]
    rows = [{"tokens": ["a", "b"], "tags": [tag, tag]} for tag in ("A", "B", "C")]
    with pytest.raises(UserError, match="no row can be held out, as each has a label that no other one has; give"):
        prepared(config(jsonl(tmp_path / "a.jsonl", rows), task="token-classification"))


@pytest.mark.usefixtures("own_cache")
def test_questions_of_a_context_are_on_one_side(tmp_path: Path) -> None:
    words = [(WORDS[number], f"{WORDS[number]} and more") for number in range(12)]
    rows = [{"context": context, "question": f"what {number}?", "answers": {"text": [word], "answer_start": [0]}}
            for number in range(3) for word, context in words]  # fmt: skip
    given = config(jsonl(tmp_path / "a.jsonl", rows), task="question-answering", validation_fraction=0.25)
    data = prepared(given)
    sides = [set(part.table.data.column("metrics_context").to_pylist()) for part in (data.train, data.validation)]
    assert list(map(len, sides)) == [9, 3] and not sides[0] & sides[1] and len(data.validation) == 9


@pytest.mark.parametrize("damage", ["facts.json", "train", "validation/state.json", "tokenizer"])
def test_a_damaged_cache_is_made_again(damage: str, tmp_path: Path) -> None:
    config_ = config(plain(tmp_path))
    first = prepared(config_)
    path = first.folder / damage
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = prepared(config_)
    assert again.key == first.key and ids(again.train) == ids(first.train)
    assert again.tokenizer.get_vocab() == first.tokenizer.get_vocab()


def test_numbers_as_labels(tmp_path: Path) -> None:
    """Kept as they are, beside the same tokens as a classifier's; no class keeps a row from being held out."""
    numbers = [number / 7 - 3 for number in range(60)]
    file = labelled(tmp_path / "a.jsonl", numbers, pairs=True)
    data = prepared(config(file, task="regression", max_length=80, validation_fraction=0.25))
    assert (data.labels, len(data.train), len(data.validation)) == (("value",), 45, 15)
    labels = [samples.gather(np.arange(len(samples)))[2]["label"].tolist() for samples in (data.train, data.validation)]
    assert sorted(sum(labels, [])) == numbers
    words = dict(zip(texts(60), numbers, strict=True))
    second = dict(zip(texts(60), texts(60, seed=1), strict=True))
    for number, row in zip(labels[0], ids(data.train), strict=True):
        (text,) = [text for text, label in words.items() if label == number]
        assert row == data.tokenizer(text, second[text])["input_ids"]


def test_a_label_that_is_no_number(tmp_path: Path) -> None:
    file = labelled(tmp_path / "a.jsonl", [0.5] * 20 + ["high"] + [1.5] * 20)
    reason = f"{file}:21: 'label' is not a finite number: 'high'"
    assert prepared(config(file, task="regression")).bad_rows == (reason,)
    with pytest.raises(UserError) as caught:
        prepared(config(file, task="regression", max_bad_rows=0))
    assert str(caught.value).endswith(reason) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="data.train_files: none given, and task: regression needs"):
        prepared(config(task="regression"))
