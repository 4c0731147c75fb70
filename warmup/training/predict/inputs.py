"""The rows that predictions are asked for: read, tokenised, and on disk for as long as it takes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from warmup.config import Config
from warmup.training.data import sources
from warmup.training.data.prepare import build_table, check_pairs, columns_of
from warmup.training.data.readers import all_rows
from warmup.training.data.readers.columns import BadRow, Columns
from warmup.training.data.samples import Samples, load_samples
from warmup.training.data.sources import Source
from warmup.training.data.tokenizers.texts import encode
from warmup.training.data.tokenizers.words import sentence_parts
from warmup.training.tasks.answers import Predictor

Cut = Callable[[dict, list[int]], dict]


@dataclass(frozen=True)
class PredictionInputs:
    """The usable rows as samples {row, ids, length, asked, cut}, and why each other row, by its number, is none.

    row: the number among usable rows, from 0, the same for all parts of a sentence. asked: 0 for a token that is not
    asked; else 1, or of a sentence the number of its word, from 1. cut: whether its text was longer. Those of texts
    have `first` too, and those of sentences `words`, in the first part all of them. key: equal where the content is.
    """

    table: datasets.Dataset
    bad: dict[int, str]
    key: str

    def __len__(self) -> int:
        return self.table.data.column("row")[-1].as_py() + 1 + len(self.bad)

    @cached_property
    def samples(self) -> Samples:
        """What the model is asked."""
        names = [name for name in ("ids", "length", "first", "asked") if name in self.table.column_names]
        return Samples(self.table.select_columns(names), self.table.data.column("length").to_numpy())

    @cached_property
    def starts(self) -> np.ndarray:
        """Where the answers of each sample start, all samples' one after the other; and where the last one's end."""
        asked = self.table.data.column("asked").combine_chunks().flatten().to_numpy() > 0
        ends = np.cumsum(self.samples.lengths, dtype=np.int64)
        return np.concatenate([[0], np.cumsum(asked, dtype=np.int64)[ends - 1]])


def find_sources(files: Sequence[str], config: Config) -> tuple[Source, ...]:
    """What is to be read. Raises UserError for all that can be told before."""
    paths, words = [os.path.expanduser(file) for file in files], columns_of(config).words
    return sources.resolve_part(paths, "--predict", "test", False, {}, tagged=words)


def read_inputs(
    files: Sequence[str], config: Config, tokenizer: PreTrainedTokenizerBase, answers: Predictor, folder: Path
) -> tuple[Path, dict[int, str], str]:
    """Read and tokenise all rows into `folder`. Returns what `load` takes."""
    parts, columns = find_sources(files, config), columns_of(config)
    bad: dict[int, str] = {}
    rows = build_table(lambda: _rows(parts, columns, config, bad), folder / "rows", columns.words)
    check_pairs(rows)
    cutter = _sentences(tokenizer, config) if columns.words else _texts(tokenizer, config, answers)
    _tokenise(rows, *cutter).save_to_disk(folder / "samples")
    content = [source.content() for source in parts] + [tokenizer.backend_tokenizer.to_str()]
    return folder / "samples", bad, hashlib.sha256("".join(content).encode()).hexdigest()


def load_inputs(folder: Path, bad: dict[int, str], key: str) -> PredictionInputs:
    return PredictionInputs(load_samples(folder).table, bad, key)


def _rows(parts: Sequence[Source], columns: Columns, config: Config, bad: dict[int, str]) -> Iterator[dict]:
    """The usable rows {text, pair, label}; the others go to `bad`, by their numbers from 1."""
    for number, row in enumerate(all_rows(parts, columns, False, [], config.data.max_bad_rows), 1):
        if isinstance(row, BadRow):
            bad[number] = str(row)
        else:
            yield {**row, "pair": None} if config.task == "mlm" else row


def _texts(tokenizer: PreTrainedTokenizerBase, config: Config, answers: Predictor) -> tuple[Cut, dict]:
    """What makes samples of a batch of rows and of their numbers, and the columns that only these samples have."""

    def cut(batch: dict, numbers: list[int]) -> dict:
        encoded, columns = encode(batch, tokenizer, config.data.max_length)
        asked = [answers.asked(ids) for ids in encoded["input_ids"]]
        return columns | {"row": numbers, "asked": asked, "cut": [bool(one.overflowing) for one in encoded.encodings]}

    return cut, {"first": datasets.Value("int32")}


def _sentences(tokenizer: PreTrainedTokenizerBase, config: Config) -> tuple[Cut, dict]:
    """As `_texts`."""

    def cut(batch: dict, numbers: list[int]) -> dict:
        parts = list(sentence_parts(batch["text"], tokenizer, config.data.max_length))
        return {
            "row": [numbers[part.row] for part in parts],
            "ids": [part.ids for part in parts],
            "length": [len(part.ids) for part in parts],
            "asked": [part.words for part in parts],
            "cut": [part.cut for part in parts],
            "words": [batch["text"][part.row] if part.first else [] for part in parts],
        }

    return cut, {"words": datasets.List(datasets.Value("large_string"))}


def _tokenise(rows: datasets.Dataset, cut: Cut, more: dict) -> datasets.Dataset:
    number, numbers = datasets.Value("int32"), datasets.List(datasets.Value("int32"))
    columns = {"row": number, "ids": numbers, "length": number, "asked": numbers, "cut": datasets.Value("bool")}
    return rows.map(
        cut,
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        features=datasets.Features(columns | more),
        desc="tokenising",
        load_from_cache_file=False,
        new_fingerprint="samples",
    )
