"""A task that only tests have, whose targets are groups of positions that share one softmax: which word of a text is
meant. Its whole definition is this file, as that of every task is one file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase

from warmup.config import Config
from warmup.config.tasks import TASKS, TaskFacts
from warmup.training.data.batching.micro_batch import MicroBatch, Targets, group_targets, padded_inputs
from warmup.training.data.readers.columns import RowFormat, label_column, words_column
from warmup.training.data.readers.values import parse_number
from warmup.training.data.samples import IGNORE_INDEX, SampleSource
from warmup.training.data.tokenizers.load import load_word_tokenizer
from warmup.training.data.tokenizers.words import sentence_parts
from warmup.training.tasks import REGISTRY, Objective, Predictor, Task
from warmup.training.tasks.losses import group_cross_entropy, group_cross_entropy_sum, group_target_counts
from warmup.training.tasks.metrics import sum_by_sample

FACTS = TaskFacts(
    name="pointing",
    help="which word of a text is meant",
    metrics=("loss", "accuracy"),
    pipeline="token-classification",
    architectures=("ForTokenClassification",),
    label="number",
    label_means="files of words and the number of one of them",
)


class Pointing(Task):
    facts = FACTS
    auto_class: Any = AutoModelForTokenClassification
    head = "token"
    outputs = ("score",)
    features: Mapping[str, Any] = {"token_right": datasets.List(datasets.Value("int32"))}

    def __init__(self, config: Config):
        self._data = config.data
        self.row_format = RowFormat.of(config.data, words_column(), label_column(parse_number))

    def load_tokenizer(self, name: str, flag: str) -> PreTrainedTokenizerBase:
        return load_word_tokenizer(name, flag)

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> Any:
        def tokenize(batch: dict[str, Any]) -> dict[str, list]:
            parts = [part for part in sentence_parts(batch["text"], tokenizer, self._data.max_length) if part.is_first]
            meant = [int(float(label)) + 1 for label in batch["label"]]  # words are counted from 1
            right = [[int(word == meant[part.row]) if word else IGNORE_INDEX for word in part.words] for part in parts]
            return {
                "ids": [part.ids for part in parts],
                "length": [len(part.ids) for part in parts],
                "token_right": right,
            }

        return tokenize

    def objective(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], train: Any) -> Objective:
        def collate(samples: SampleSource, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
            ids_BT, mask_BT, columns = samples.gather(indices)
            group_BT = mask_BT & (columns["token_right"] != IGNORE_INDEX)
            return group_targets(padded_inputs(ids_BT, mask_BT, tokenizer), group_BT, columns["token_right"])

        return Objective(
            collate=collate,
            losses=group_cross_entropy,
            training_loss_sum=group_cross_entropy_sum,
            results=_results,
            width=2,
            metrics=_metrics,
            target_counts=group_target_counts,
        )

    def predictor(
        self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], settings: Mapping[str, Any]
    ) -> Predictor:
        def tokenize(batch: dict[str, Any]) -> dict[str, list]:
            parts = [part for part in sentence_parts(batch["text"], tokenizer, self._data.max_length) if part.is_first]
            return {
                "ids": [part.ids for part in parts],
                "length": [len(part.ids) for part in parts],
                "token_targets": [part.words for part in parts],
                "truncated": [part.truncated for part in parts],
            }

        def to_record(values: np.ndarray, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
            words = [word for word in samples[0]["token_targets"] if word]
            return {"word": words[int(values[:, 0].argmax())] - 1}

        return Predictor(
            row_format=self.row_format.without("label"),
            tokenize=tokenize,
            features={},
            width=1,
            postprocess=lambda logits_n1: logits_n1,
            to_record=to_record,
            csv_columns=("word",),
        )


def _results(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """(samples, 2): whether the right position has the largest score, and 1."""
    scores_N = logits.flatten(0, -2)[:, 0].double()
    counted_N = targets.values != IGNORE_INDEX
    scores_N = scores_N.masked_fill(~counted_N, -torch.inf)
    best_S = scores_N.new_full((targets.sample_count,), -torch.inf)
    best_S = best_S.scatter_reduce(0, targets.sample_ids_N, scores_N, "amax")
    right_N = (targets.values == 1) & (scores_N == best_S[targets.sample_ids_N])
    return torch.cat([sum_by_sample(right_N[:, None], targets), torch.ones(targets.sample_count, 1)], 1)


def _metrics(loss_sum: float, results_S2: torch.Tensor) -> dict[str, float]:
    right, count = results_S2.sum(0).tolist()
    return {"loss": loss_sum / count, "accuracy": right / count, "targets": count}


@contextmanager
def registered() -> Iterator[None]:
    """The task is one of those that there are, also in processes that are forked meanwhile."""
    TASKS["pointing"], REGISTRY["pointing"] = FACTS, Pointing
    yield
    del TASKS["pointing"], REGISTRY["pointing"]


def write_rows(path: Path, count: int) -> Path:
    """Texts of 3 to 14 words, of which the one that begins with "z" is meant."""
    random_ = random.Random(6)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            words = ["".join(random_.choices("abc", k=random_.randint(1, 4))) for _ in range(random_.randint(2, 13))]
            where = random_.randint(0, len(words))
            words.insert(where, "z" + random_.choice("abc"))
            file.write(json.dumps({"words": words, "label": where}) + "\n")
    return path
