"""Sets to fine-tune on: how a file is split, what both sides are told, how predictions for the held-out part score.

Predictions are files as train.py writes them. They are scored here by the rules of SQuAD, by scikit-learn and by
seqeval, so that no side counts its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import squad_rules

EMOTIONS = tuple(f"emotion{number}" for number in range(28))  # GoEmotions has 28 labels, by number
HELD_OUT_ARTICLES = 8
Row = tuple[list[str], list[str]]


@dataclass(frozen=True)
class TuningSet:
    """One set, and what both sides are told about it."""

    task: str
    preset: str
    suffix: str
    """Of its files."""
    predictions: str
    """The ending of a file of predictions."""
    max_length: int
    warmup: float
    """The share of the steps."""
    split: Callable[[Sequence[Path], Path, Path], None]
    """(files, where to write the training part, where to write the held-out part)"""
    score: Callable[[Path, Path], dict[str, float]]
    """(the held-out part, predictions for it)"""
    argv: tuple[str, ...] = ()
    """What train.py needs to read it."""
    doc_stride: int = 0
    per_device: int = 32
    """Samples in one pass."""

    def train_file(self, folder: Path) -> Path:
        return folder / f"train{self.suffix}"

    def held_out_file(self, folder: Path) -> Path:
        return folder / f"held-out{self.suffix}"


def split_articles(files: Sequence[Path], train: Path, held_out: Path) -> None:
    """The last articles are held out."""
    articles = json.loads(files[0].read_text(encoding="utf-8"))["data"]
    for target, part in ((train, articles[:-HELD_OUT_ARTICLES]), (held_out, articles[-HELD_OUT_ARTICLES:])):
        target.write_text(json.dumps({"version": "1.1", "data": part}), encoding="utf-8")


def split_comments(files: Sequence[Path], train: Path, held_out: Path) -> None:
    """The last tenth of the comments is held out. Names of the labels are written beside them."""
    lines = files[0].read_text(encoding="utf-8").rstrip("\n").split("\n")
    count = len(lines) // 10
    train.write_text("\n".join(lines[:-count]) + "\n", encoding="utf-8")
    held_out.write_text("\n".join(lines[-count:]) + "\n", encoding="utf-8")
    (train.parent / "labels.txt").write_text("\n".join(EMOTIONS) + "\n", encoding="utf-8")


def copy_sentences(files: Sequence[Path], train: Path, held_out: Path) -> None:
    """Both parts are given."""
    for source, target in zip(files, (train, held_out), strict=True):
        target.write_bytes(source.read_bytes())


def comments(file: Path) -> list[tuple[str, list[int]]]:
    """Texts and the numbers of their labels."""
    lines = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    rows = [line.split("\t") for line in lines]
    return [(row[0], [int(number) for number in row[1].split(",")]) for row in rows]


def sentences(file: Path) -> list[Row]:
    """Words and tags of each sentence of a .conll file."""
    found: list[Row] = [([], [])]
    for line in file.read_text(encoding="utf-8").split("\n"):
        if line.strip():
            word, tag = line.split("\t")
            found[-1][0].append(word)
            found[-1][1].append(tag.strip())
        elif found[-1][0]:
            found.append(([], []))
    return [row for row in found if row[0]]


def score_answers(held_out: Path, predictions: Path) -> dict[str, float]:
    """Means over the questions, of which each has an answer."""
    answers = json.loads(predictions.read_text(encoding="utf-8"))
    questions = squad_rules.questions(held_out)
    scores = {"exact_match": 0.0, "f1": 0.0}
    for question in questions:
        answer, gold = answers[question["id"]], [right["text"] for right in question["answers"]]
        scores["exact_match"] += squad_rules.exact_match(answer, gold) / len(questions)
        scores["f1"] += squad_rules.f1(answer, gold) / len(questions)
    return scores


def score_labels(held_out: Path, predictions: Path) -> dict[str, float]:
    from sklearn.metrics import f1_score
    from sklearn.preprocessing import MultiLabelBinarizer

    rows = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    binarizer = MultiLabelBinarizer(classes=EMOTIONS)
    right = binarizer.fit_transform([[EMOTIONS[number] for number in numbers] for _, numbers in comments(held_out)])
    found = binarizer.transform([row["labels"] for row in rows])
    return {f"{mean}_f1": float(f1_score(right, found, average=mean, zero_division=0)) for mean in ("micro", "macro")}


def score_tags(held_out: Path, predictions: Path) -> dict[str, float]:
    from seqeval.metrics import f1_score

    rows = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    found = [[tag or "O" for tag in row["tags"]] for row in rows]
    return {"entity_f1": float(f1_score([tags for _, tags in sentences(held_out)], found))}


SETS = {
    "squad": TuningSet(
        task="question-answering",
        preset="finetune_question_answering",
        suffix=".json",
        predictions=".json",
        max_length=384,
        doc_stride=128,
        per_device=8,  # 32 windows padded to 384 tokens would take 8 GB
        warmup=0.1,
        split=split_articles,
        score=score_answers,
    ),
    "emotions": TuningSet(
        task="multi-label",
        preset="finetune_multi_label",
        suffix=".tsv",
        predictions=".jsonl",
        max_length=128,
        warmup=0.06,
        split=split_comments,
        score=score_labels,
        argv=("--data.column_names", "text", "label", "id", "--data.label_names", "{folder}/labels.txt"),
    ),
    "entities": TuningSet(
        task="token-classification",
        preset="finetune_tokens",
        suffix=".conll",
        predictions=".jsonl",
        max_length=128,
        warmup=0.06,
        split=copy_sentences,
        score=score_tags,
    ),
}
