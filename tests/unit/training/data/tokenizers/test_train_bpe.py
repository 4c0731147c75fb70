"""A trained byte-level BPE tokenizer can represent any text, and is the same in every process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from harness import ROOT
from transformers import AutoTokenizer

from warmup.errors import UserError
from warmup.training.data.tokenizers.train import END_OF_TEXT, train_bpe

TRAIN = """
import hashlib, sys
from datasets import Dataset
from warmup.training.data.tokenizers.train import train_bpe
rows = Dataset.from_dict({"text": open(sys.argv[1]).read().splitlines()})
for size in (300, 1000):
    print(hashlib.sha256(train_bpe(rows, size).backend_tokenizer.to_str().encode()).hexdigest())
"""


def test_the_same_in_every_process(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    words = ["".join(random.choice(list("abcdefghij!éß你"), 6)) for _ in range(300)]  # many ties
    file = tmp_path / "words.txt"
    file.write_text("".join(" ".join(random.choice(words, 8)) + "\n" for _ in range(400)))
    command = [sys.executable, "-c", TRAIN, str(file)]
    others = [
        subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, env=os.environ | {"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]
    rows = datasets.Dataset.from_dict({"text": file.read_text().splitlines()})
    ours = [train_bpe(rows, size).backend_tokenizer.to_str() for size in (300, 1000)]
    hashes = [process.communicate(timeout=60)[0].split() for process in others]
    assert hashes == [[hashlib.sha256(text.encode()).hexdigest() for text in ours]] * 2


def test_it_represents_any_text_and_its_end(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["the cat the cat sat", "the mat"] * 9})
    tokenizer = train_bpe(rows, 262)
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        text = "The  cat;\n\tżółw 你好 don't"
        assert each.decode(each(text)["input_ids"]) == text
        assert len(each) == 262 and each(" the the")["input_ids"] == each(" the")["input_ids"] * 2
        assert (each.bos_token_id, each.eos_token_id, each.convert_tokens_to_ids(END_OF_TEXT)) == (0, 0, 0)
    with pytest.raises(UserError, match="data.vocab_size: 256 is not 257 or above: a token for each byte"):
        train_bpe(rows, 256)
