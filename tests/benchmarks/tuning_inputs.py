"""What transformers' Trainer is given for each set, as its example scripts prepare it: whole texts cut at the maximum
length and padded to the longest of a batch; for question answering windows padded to the maximum length.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import squad_rules
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    default_data_collator,
)
from tuners import Job
from tuning_sets import EMOTIONS, comments, sentences

N_BEST, LONGEST = 20, 30  # of run_qa


@dataclass(frozen=True)
class Inputs:
    model: PreTrainedModel
    train: datasets.Dataset
    held_out: datasets.Dataset
    collate: Callable[[list], dict]
    write: Callable[[Any], None]
    """Writes the predictions for the held-out part from the logits."""


def _parts(job: Job, read: Callable, tokenize: Callable) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Both parts of a set, each as rows, tokenised."""
    files = (job.set.train_file(job.data), job.set.held_out_file(job.data))
    train, held_out = (datasets.Dataset.from_dict(read(file)) for file in files)
    train, held_out = (part.map(tokenize, batched=True, remove_columns=part.column_names) for part in (train, held_out))
    return train, held_out


def emotions(job: Job, tokenizer: PreTrainedTokenizerBase) -> Inputs:
    def read(file: Any) -> dict[str, list]:
        rows = comments(file)
        hot = [[float(label in numbers) for label in range(len(EMOTIONS))] for _, numbers in rows]
        return {"text": [text for text, _ in rows], "hot": hot}

    def tokenize(batch: dict) -> dict:
        return {**tokenizer(batch["text"], truncation=True, max_length=job.set.max_length), "labels": batch["hot"]}

    def write(logits: np.ndarray) -> None:
        lines = [json.dumps({"labels": [EMOTIONS[label] for label in np.flatnonzero(row >= 0)]}) for row in logits]
        job.predictions.write_text("\n".join(lines) + "\n", encoding="utf-8")

    train, held_out = _parts(job, read, tokenize)
    model = AutoModelForSequenceClassification.from_pretrained(
        job.model, num_labels=len(EMOTIONS), problem_type="multi_label_classification"
    )
    return Inputs(model, train, held_out, DataCollatorWithPadding(tokenizer), write)


def entities(job: Job, tokenizer: PreTrainedTokenizerBase) -> Inputs:
    names = sorted({tag for _, tags in sentences(job.set.train_file(job.data)) for tag in tags})

    def read(file: Any) -> dict[str, list]:
        rows = sentences(file)
        return {"words": [words for words, _ in rows], "tags": [tags for _, tags in rows]}

    def tokenize(batch: dict) -> dict:
        encoded = tokenizer(batch["words"], is_split_into_words=True, truncation=True, max_length=job.set.max_length)
        words = [_first_tokens(encoded.word_ids(row)) for row in range(len(batch["tags"]))]
        labels = [
            [-100 if word is None else names.index(tags[word]) for word in of]
            for of, tags in zip(words, batch["tags"], strict=True)
        ]
        return {**encoded, "labels": labels, "words": words}

    train, held_out = _parts(job, read, tokenize)

    def write(logits_BTC: np.ndarray) -> None:
        lines = []
        rows = sentences(job.set.held_out_file(job.data))
        for (words, _), of_tokens, logits_TC in zip(rows, held_out["words"], logits_BTC, strict=True):
            found = {word: names[logits_TC[token].argmax()] for token, word in enumerate(of_tokens) if word is not None}
            lines.append(json.dumps({"tags": [found.get(word, "O") for word in range(len(words))]}))  # O: cut off
        job.predictions.write_text("\n".join(lines) + "\n", encoding="utf-8")

    model = AutoModelForTokenClassification.from_pretrained(job.model, num_labels=len(names))
    return Inputs(model, train, held_out, DataCollatorForTokenClassification(tokenizer), write)


def _first_tokens(words: list[int | None]) -> list[int | None]:
    """For each token the number of the word that begins with it, None if none does."""
    return [None if word == before else word for word, before in zip(words, [None, *words[:-1]], strict=True)]


def squad(job: Job, tokenizer: PreTrainedTokenizerBase) -> Inputs:
    def read(file: Any) -> dict[str, list]:
        rows = squad_rules.questions(file)
        first = [row["answers"][0] for row in rows]
        columns = {name: [row[name] for row in rows] for name in ("id", "question", "context")}
        starts = [answer["answer_start"] for answer in first]
        ends = [answer["answer_start"] + len(answer["text"]) for answer in first]
        return {**columns, "starts": starts, "ends": ends}

    def tokenize(batch: dict) -> dict:
        encoded = tokenizer(
            batch["question"],
            batch["context"],
            truncation="only_second",
            max_length=job.set.max_length,
            stride=job.set.doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding="max_length",
        )
        rows = encoded.pop("overflow_to_sample_mapping")
        offsets = _context_offsets(encoded)
        places = [_place(o, batch["starts"][row], batch["ends"][row]) for o, row in zip(offsets, rows, strict=True)]
        return {
            **{name: encoded[name] for name in tokenizer.model_input_names},
            "start_positions": [start for start, _ in places],
            "end_positions": [end for _, end in places],
            "offsets": offsets,
            "id": [batch["id"][row] for row in rows],
        }

    train, held_out = _parts(job, read, tokenize)

    def write(logits: tuple[np.ndarray, ...]) -> None:
        best: dict[str, tuple[float, str]] = {}
        contexts = {row["id"]: row["context"] for row in squad_rules.questions(job.set.held_out_file(job.data))}
        for row, starts, ends in zip(held_out, *logits[:2], strict=True):
            found = _answer(starts, ends, row["offsets"], contexts[row["id"]])
            best[row["id"]] = max(best.get(row["id"], (-np.inf, "")), found, key=lambda answer: answer[0])
        job.predictions.write_text(json.dumps({key: text for key, (_, text) in best.items()}), encoding="utf-8")

    model = AutoModelForQuestionAnswering.from_pretrained(job.model)
    return Inputs(model, train, held_out, default_data_collator, write)


def _context_offsets(encoded: Any) -> list[list]:
    """Characters of the tokens of each window, None for those that are none of the context."""
    offsets = encoded.pop("offset_mapping")
    texts = [encoded.sequence_ids(row) for row in range(len(offsets))]
    return [
        [list(place) if text == 1 else None for place, text in zip(row, of, strict=True)]
        for row, of in zip(offsets, texts, strict=True)
    ]


def _place(offsets: list, start: int, end: int) -> tuple[int, int]:
    """First and last token of an answer, [CLS] twice where the window does not have all of it."""
    context = [token for token, place in enumerate(offsets) if place]
    if offsets[context[0]][0] > start or offsets[context[-1]][1] < end:
        return 0, 0
    covering = [token for token in context if offsets[token][1] > start and offsets[token][0] < end]
    return covering[0], covering[-1]


def _answer(starts: np.ndarray, ends: np.ndarray, offsets: list, context: str) -> tuple[float, str]:
    """The best answer of a window among the best starts and ends, and its score."""
    best = (-np.inf, "")
    for first in np.argsort(starts)[-N_BEST:]:
        for last in np.argsort(ends)[-N_BEST:]:
            if first <= last < first + LONGEST and offsets[first] and offsets[last]:
                text = context[offsets[first][0] : offsets[last][1]]
                best = max(best, (float(starts[first] + ends[last]), text), key=lambda answer: answer[0])
    return best


INPUTS = {"squad": squad, "emotions": emotions, "entities": entities}
