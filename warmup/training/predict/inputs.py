"""The rows that are to be predicted: read, tokenised, and kept on disk for as long as it takes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from warmup.config import Config
from warmup.config.tasks import TASKS
from warmup.training.data import sources
from warmup.training.data.readers import all_rows
from warmup.training.data.readers.columns import BadRow
from warmup.training.data.samples import TOKEN_PREFIX, Samples, load_samples, row_starts, table_features
from warmup.training.data.sources import Source
from warmup.training.data.tables import build_table, tokenize_table, write_samples
from warmup.training.tasks import Predictor

_READ = ("ids", "length", f"{TOKEN_PREFIX}targets", "second_start")  # columns that the model's inputs are made of


@dataclass(frozen=True)
class PredictionInputs:
    """The usable rows as sequences, and why each other row is none."""

    table: datasets.Dataset
    """Sequences as `Predictor.tokenize` gives them."""
    bad: dict[int, str]
    """By the number among all rows, from 1."""
    key: str
    """Equal where the content is."""

    def __len__(self) -> int:
        """The number of all rows."""
        return len(self.row_starts) - 1 + len(self.bad)

    @cached_property
    def samples(self) -> Samples:
        """What the model reads: each sequence by itself."""
        return Samples.of(self.table.select_columns([name for name in self.table.column_names if name in _READ]))

    @cached_property
    def row_starts(self) -> np.ndarray:
        """(usable rows + 1,): where the sequences of each row begin, and where the last ones end."""
        return row_starts(self.table)

    @cached_property
    def target_starts(self) -> np.ndarray:
        """(sequences + 1,) int64: where the targets of each begin among those of all, and where the last ones end."""
        is_target = self.table.data.column(f"{TOKEN_PREFIX}targets").combine_chunks().flatten().to_numpy() > 0
        ends = np.cumsum(self.samples.lengths, dtype=np.int64)
        return np.concatenate([[0], np.cumsum(is_target, dtype=np.int64)[ends - 1]])


class TokenizedRows(NamedTuple):
    """Where tokenised rows are on a machine: `load_inputs` makes PredictionInputs of them on each of its ranks."""

    folder: Path
    bad: dict[int, str]
    key: str


def find_sources(files: Sequence[str], config: Config) -> tuple[Source, ...]:
    """What is to be read. Raises UserError for all that can be told without reading a row."""
    paths = [os.path.expanduser(file) for file in files]
    return sources.resolve_part(paths, "--predict", "test", TASKS[config.task])


def read_inputs(
    files: Sequence[str], config: Config, tokenizer: PreTrainedTokenizerBase, predictor: Predictor, folder: Path
) -> TokenizedRows:
    """Read and tokenise all rows into a folder.

    Args:
        files: as --predict names them.
        config: tells the task and how many bad rows there may be.
        tokenizer: of the model.
        predictor: of the task.
        folder: where they are kept; it must exist.

    Raises:
        UserError: something cannot be read, or rows do not go together.
    """
    parts, bad = find_sources(files, config), {}

    def usable() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(all_rows(parts, predictor.row_format, [], config.data.max_bad_rows), 1):
            if isinstance(row, BadRow):
                bad[number] = str(row)
            else:
                yield row

    rows = build_table(usable(), folder / "rows", predictor.row_format.features)
    predictor.check_rows(rows)
    _tokenize(rows, predictor, folder / "samples.arrow").save_to_disk(folder / "samples")
    content = [source.content() for source in parts] + [tokenizer.backend_tokenizer.to_str()]
    return TokenizedRows(folder / "samples", bad, hashlib.sha256("".join(content).encode()).hexdigest())


def load_inputs(tokenized: TokenizedRows) -> PredictionInputs:
    """What `read_inputs` wrote."""
    return PredictionInputs(load_samples(tokenized.folder).table, tokenized.bad, tokenized.key)


def _tokenize(rows: datasets.Dataset, predictor: Predictor, file: Path) -> datasets.Dataset:
    own = {
        f"{TOKEN_PREFIX}targets": datasets.List(datasets.Value("int32")),
        "truncated": datasets.Value("bool"),
    }
    parts = tokenize_table(rows, predictor.tokenize, "rows")
    return write_samples(parts, file, table_features({**own, **predictor.features}))
