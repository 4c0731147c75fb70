"""A pair task end to end on two ranks: does the second text say the same as the first?"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from conftest import TINY, WORDS
from harness import train


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """premise, hypothesis, label: the hypothesis is made of the premise's words, or of none of them."""
    random_ = random.Random(3)
    path = tmp_path / "pairs.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for number in range(640):
            premise = random_.sample(WORDS[:12] if number % 4 < 2 else WORDS[12:], 6)
            others = WORDS[12:] if number % 4 < 2 else WORDS[:12]
            hypothesis = random_.sample(premise if number % 2 else others, 4)
            row = {
                "premise": " ".join(premise),
                "hypothesis": " ".join(hypothesis),
                "label": ["differs", "same"][number % 2],
            }
            file.write(json.dumps(row) + "\n")
    return path


def test_a_pair_task_learns_and_exports(pairs: Path, tmp_path: Path) -> None:
    job = ("--task", "classification", "--data.train_files", pairs, *TINY, "--recipe.lr", "1e-3", "--seed", 1)
    schedule = ("--recipe.duration", "16 epochs", "--recipe.warmup", "10%", "--batch.global_size", 32)
    ended = train(2, tmp_path / "run", *job, *schedule, "--batch.per_device", 16, "--dropout", 0)
    assert ended.codes == [0, 0], ended.status
    assert ended.of_kind("eval")[-1]["targets"] == 32  # 5% of 640
    assert ended.of_kind("eval")[-1]["accuracy"] > 0.9

    from transformers import pipeline

    classify = pipeline("text-classification", model=str(tmp_path / "run" / "model"))
    alike = classify({"text": " ".join(WORDS[:6]), "text_pair": " ".join(WORDS[:4])})
    unlike = classify({"text": " ".join(WORDS[:6]), "text_pair": " ".join(WORDS[12:16])})
    assert (alike["label"], unlike["label"]) == ("same", "differs")
