"""A trained WordPiece tokenizer is the same in every process."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from harness import ROOT

from warmup.training.data.tokenizers import train as tokenizer_training
from warmup.training.data.tokenizers.train import SPECIAL_TOKENS, train_wordpiece


def test_the_alphabet_is_the_most_frequent_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_training, "ALPHABET", 3)
    rows = datasets.Dataset.from_dict({"text": ["aab abe", "c c d!a", "bad"], "pair": [None, "b", None]})
    # a 5 times, b 4 times, then c and d 2 times each: ties go to the smaller code point
    vocabulary = train_wordpiece(rows, 10).get_vocab()
    assert sorted(vocabulary, key=vocabulary.get)[:11] == [
        *SPECIAL_TOKENS,
        "##a",
        "##b",
        "##c",
        "a",
        "b",
        "c",
    ]


TRAIN = """
import hashlib, json, sys
from datasets import Dataset
from warmup.training.data.tokenizers.train import train_wordpiece
rows = Dataset.from_dict({"text": open(sys.argv[1]).read().splitlines(), "pair": [None] * 400})
for size in (100, 400):
    vocabulary = train_wordpiece(rows, size).get_vocab()
    print(len(vocabulary), hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest())
"""


def test_the_trained_tokenizer_is_the_same_in_every_process(tmp_path: Path) -> None:
    """The trainer by itself gives different ids in each process, and different merges in one of three."""
    random = np.random.default_rng(5)
    letters = list("abcdefghij!")
    words = ["".join(random.choice(letters, 6)) for _ in range(300)]  # many ties
    file = tmp_path / "words.txt"
    file.write_text("".join(" ".join(random.choice(words, 8)) + "\n" for _ in range(400)))
    command = [sys.executable, "-c", TRAIN, str(file)]
    other = subprocess.check_output(command, cwd=ROOT, text=True, timeout=60).splitlines()
    rows = datasets.Dataset.from_dict({"text": file.read_text().splitlines(), "pair": [None] * 400})
    for size, line in zip((100, 400), other, strict=True):
        vocabulary = sorted(train_wordpiece(rows, size).get_vocab().items())
        assert line == f"{size} {hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()}"
