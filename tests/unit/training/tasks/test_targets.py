"""Data with nothing to learn is refused; unknown tokens and truncated texts are counted and said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_rows import config, copy, jsonl, labelled, plain, prepared, texts

from warmup.errors import UserError
from warmup.training.run.setup import check_data
from warmup.training.tasks import create_task

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    """A folder with a tokenizer that knows Latin words alone."""
    prepared(config(plain(tmp_path))).tokenizer.save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def rows_of(path: Path, texts_: list[str]) -> str:
    return jsonl(path, [{"text": text} for text in texts_])


def test_a_corpus_of_unknown_tokens_is_refused(tmp_path: Path, tokenizer: str) -> None:
    given = config(rows_of(tmp_path / "a.jsonl", ["\u4e2d\u6587 \u6587"] * 300), tokenizer=tokenizer)
    data = prepared(given)
    with pytest.raises(UserError) as caught:
        check_data(create_task(given), data)
    message = str(caught.value)
    assert message.startswith(
        f"data.train_files: none of {len(data.train)} samples has anything to predict (100.0% of the"
    )
    # One known word is enough, wherever it is; and held-out rows need one too.
    file = rows_of(tmp_path / "b.jsonl", ["\u4e2d\u6587"] * 600 + texts(1))
    for validation, refused in ((copy(file), False), (given.data.train_files[0], True)):
        given_ = config(file, tokenizer=tokenizer, validation_files=(validation,))
        if refused:
            with pytest.raises(UserError, match="data: the held-out rows: none of 300 samples"):
                check_data(create_task(given_), prepared(given_))
        else:
            check_data(create_task(given_), prepared(given_))


def test_the_share_of_unknown_tokens_is_said(tmp_path: Path, tokenizer: str) -> None:
    known = prepared(config(rows_of(tmp_path / "a.jsonl", texts(40)), tokenizer=tokenizer))
    assert "unknown tokens" not in known.notes
    rows = [{"text": "a \u4e2d", "label": number % 2} for number in range(40)]
    file = jsonl(tmp_path / "b.jsonl", rows)
    data = prepared(config(file, task="classification", tokenizer=tokenizer))
    body = [token for row in data.train.table["ids"].to_pylist() for token in row[1:-1]]
    share = np.mean([token == data.tokenizer.unk_token_id for token in body])
    assert 0.4 < share < 0.6
    assert data.notes["unknown tokens"].startswith(f"{share:.1%} of the training tokens are [UNK]: ")


def test_whole_words_of_one_chinese_character_are_counted(tmp_path: Path) -> None:
    """BERT's tokenizers split between Chinese characters, so that no word has several."""
    mixed = rows_of(tmp_path / "a.jsonl", ["word \u4e2d\u6587 words"] * 40)
    data = prepared(config(mixed, whole_words=True))
    rows = data.train.table["ids"].to_pylist()
    ideographs = set(data.tokenizer.convert_tokens_to_ids(["\u4e2d", "\u6587"]))
    share = np.mean([token in ideographs for row in rows for token in row])
    assert share > 0.1
    assert data.notes["whole words"].startswith(f"{share:.1%} of the training tokens are Chinese characters, each of ")
    assert "whole words" not in prepared(config(mixed)).notes
    assert "whole words" not in prepared(config(plain(tmp_path), whole_words=True)).notes


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("pairs", [False, True])
def test_truncated_texts_are_counted(task: str, pairs: bool, tmp_path: Path) -> None:
    file = labelled(tmp_path / "a.jsonl", [0, 1] * 20, pairs)
    data = prepared(config(file, task=task, validation_files=(copy(file),), max_length=14))
    whole = prepared(
        config(file, task=task, validation_files=(copy(file).replace(".jsonl", ".jsonl"),), max_length=500)
    )
    assert "truncated" not in whole.notes
    lengths, full = data.train.lengths, [
        len(data.tokenizer(*row)["input_ids"])
        for row in zip(texts(40), *([texts(40, seed=1)] if pairs else []), strict=True)
    ]  # fmt: skip
    truncated = sum(length < other for length, other in zip(lengths, full, strict=True))
    assert truncated > 10
    assert data.notes["truncated"] == (
        f"{truncated} of 40 training rows, which loses {1 - sum(lengths) / sum(full):.1%} of all tokens; "
        f"data.max_length is 14, and the longest row has {max(full)} tokens"
    )


def test_tasks_that_lose_nothing_say_nothing(tmp_path: Path) -> None:
    data = prepared(config(plain(tmp_path), max_length=8))
    assert data.notes == {}
    check_data(create_task(config(plain(tmp_path), max_length=8)), data)
