"""The rows that predictions are asked for: read, tokenised, and on disk for as long as it takes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from warmup.config import Config
from warmup.training import sources, tokens
from warmup.training.answers import Answers
from warmup.training.columns import BadRow, Columns
from warmup.training.rows import all_rows
from warmup.training.samples import Samples, load_samples
from warmup.training.sources import Source


@dataclass(frozen=True)
class Asked:
    """The usable rows as samples {ids, length, first, asked, cut}, and why each other row, by its number, is none.

    asked: 1 for each token that is asked, else 0. cut: whether its text was longer. key: equal where the content is.
    """

    samples: Samples
    bad: dict[int, str]
    key: str

    def __len__(self) -> int:
        return len(self.samples) + len(self.bad)

    @cached_property
    def starts(self) -> np.ndarray:
        """Where the answers of each sample start, all samples' one after the other; and where the last one's end."""
        asked = self.samples.table.data.column("asked").combine_chunks().flatten().to_numpy()
        ends = np.cumsum(self.samples.lengths, dtype=np.int64)
        return np.concatenate([[0], np.cumsum(asked, dtype=np.int64)[ends - 1]])


def find(files: Sequence[str]) -> tuple[Source, ...]:
    """What is to be read. Raises UserError for all that can be told before."""
    return sources.resolve_part([os.path.expanduser(file) for file in files], "--predict", "test", False, {})


def read(
    files: Sequence[str], config: Config, tokenizer: PreTrainedTokenizerBase, answers: Answers, folder: Path
) -> tuple[Path, dict[int, str], str]:
    """Read and tokenise all rows into `folder`. Returns what `load` takes."""
    parts = find(files)
    bad: dict[int, str] = {}
    rows = tokens.table_of(lambda: _rows(parts, config, bad), folder / "rows")
    tokens.refuse_mixed_pairs(rows)
    _tokenise(rows, tokenizer, config.data.max_length, answers).save_to_disk(folder / "samples")
    content = [source.content() for source in parts] + [tokenizer.backend_tokenizer.to_str()]
    return folder / "samples", bad, hashlib.sha256("".join(content).encode()).hexdigest()


def load(folder: Path, bad: dict[int, str], key: str) -> Asked:
    return Asked(load_samples(folder), bad, key)


def _rows(parts: Sequence[Source], config: Config, bad: dict[int, str]) -> Iterator[dict]:
    """The usable rows {text, pair, label}; the others go to `bad`, by their numbers from 1."""
    columns = Columns(config.data.text_column, config.data.pair_column)
    for number, row in enumerate(all_rows(parts, columns, False, [], config.data.max_bad_rows), 1):
        if isinstance(row, BadRow):
            bad[number] = str(row)
        else:
            yield {**row, "pair": None} if config.task == "mlm" else row


def _tokenise(
    rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, limit: int, answers: Answers
) -> datasets.Dataset:
    def texts(batch: dict) -> dict:
        encoded, columns = tokens.encode(batch, tokenizer, limit)
        asked = [answers.asked(ids) for ids in encoded["input_ids"]]
        return columns | {"asked": asked, "cut": [bool(one.overflowing) for one in encoded.encodings]}

    number, cut = datasets.Value("int32"), datasets.Value("bool")
    columns = {"ids": datasets.List(number), "length": number, "first": number, "asked": datasets.List(number)}
    return rows.map(
        texts,
        batched=True,
        remove_columns=rows.column_names,
        features=datasets.Features(columns | {"cut": cut}),
        desc="tokenising",
        load_from_cache_file=False,
        new_fingerprint="samples",
    )
