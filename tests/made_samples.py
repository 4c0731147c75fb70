"""Tokenised samples without files, for tests."""

from __future__ import annotations

from types import SimpleNamespace

import datasets
import numpy as np
from transformers import BertTokenizerFast

from warmup.config import Config
from warmup.config.data import Data
from warmup.training import tasks
from warmup.training.data.batching.micro_batch import MicroBatch
from warmup.training.data.samples import Samples

PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = 200


def samples(rows: list[list[int]], **columns: list[int]) -> Samples:
    """Samples of these ids, without a file."""
    table = datasets.Dataset.from_dict({"ids": rows, "length": [len(row) for row in rows], **columns})
    table = table.cast_column("ids", datasets.List(datasets.Value("int32")))
    return Samples(table.with_format("arrow"), np.array([len(row) for row in rows], np.int32))


def random_samples(count: int, longest: int = 60) -> Samples:
    random = np.random.default_rng(0)
    bodies = [random.integers(5, VOCABULARY, random.integers(1, longest)) for _ in range(count)]
    return samples([[CLS, *body.tolist(), SEP] for body in bodies])


def mlm(tokenizer: BertTokenizerFast, rate: float = 0.15) -> tasks.Task:
    return tasks.build_task(Config(data=Data(mask_rate=rate)), SimpleNamespace(tokenizer=tokenizer, labels=()))


def collate(task: tasks.Task, rows: Samples, indices: object, epoch: int = 0, seed: int = 1) -> MicroBatch:
    indices = np.asarray(indices, np.int64)
    return task.collate(rows, indices, np.full_like(indices, epoch), seed)
