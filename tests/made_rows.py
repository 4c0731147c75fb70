"""Rows in files, and what is read of them, for tests of the preparation of data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from conftest import WORDS

from warmup.config import Config
from warmup.config.data import Data
from warmup.training.data.prepare import Prepared, prepare_data
from warmup.training.data.readers.columns import RowFormat
from warmup.training.data.samples import Samples
from warmup.training.tasks import create_task

LIMIT = 12


def jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def texts(count: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, 30))) for _ in range(count)]


def config(*files: str, task: str = "mlm", **data: object) -> Config:
    return Config(task=task, data=Data(train_files=files, **{"vocab_size": 150, "max_length": LIMIT, **data}))


def prepared(config_: Config) -> Prepared:
    """The data of a configuration, prepared for its task."""
    return prepare_data(config_, create_task(config_))


def row_format(task: str, **columns: str) -> RowFormat:
    """What a task reads of a row; `columns` are fields of `data`, such as text_column."""
    return create_task(Config(task=task, data=Data(**columns))).row_format


def plain(folder: Path, count: int = 60) -> str:
    return jsonl(folder / "plain.jsonl", [{"text": text} for text in texts(count)])


def labelled(path: Path, labels: list, pairs: bool = False) -> str:
    second = texts(len(labels), seed=1)
    rows = [{"text": text, "label": label} for text, label in zip(texts(len(labels)), labels, strict=True)]
    return jsonl(path, [row | ({"text_pair": pair} if pairs else {}) for row, pair in zip(rows, second, strict=True)])


def copy(file: str) -> str:
    """The same content beside the file; the file itself may be read only once."""
    return shutil.copy(file, file.replace(".jsonl", "_copy.jsonl"))


def ids(samples: Samples) -> list[list[int]]:
    ids_BT, mask_BT, _ = samples.gather(np.arange(len(samples)))
    return [row[mask].tolist() for row, mask in zip(ids_BT, mask_BT, strict=True)]


def body(samples: list[list[int]]) -> list[int]:
    return [token for sample in samples for token in sample[1:-1]]
