"""Tokenised data: made once, kept on disk by the content of what it was made from, read as arrays.

Every rank calls `prepare_data`. A file lock lets one of them do the work while the others wait without a process group
waiting, so that nothing times out, on shared and on local disks alike.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import pyarrow
from filelock import FileLock
from transformers import PreTrainedTokenizerBase

from warmup.config import Config, Data
from warmup.config.tasks import TaskFacts
from warmup.errors import UserError
from warmup.terminal import is_terminal
from warmup.training.data.class_order import in_order_of, usual_order
from warmup.training.data.default_corpus import docstring_files
from warmup.training.data.key import Sources, data_key
from warmup.training.data.notes import label_notes, source_notes, split_notes, token_notes
from warmup.training.data.readers import read_rows
from warmup.training.data.readers.arrow import declared_classes
from warmup.training.data.readers.columns import BadRow, RowFormat
from warmup.training.data.samples import Samples, SampleSource, load_samples, table_features
from warmup.training.data.sources import Source, resolve
from warmup.training.data.splits import hold_out
from warmup.training.data.streaming.chunk_cache import ChunkCache
from warmup.training.data.streaming.documents import Corpus
from warmup.training.data.streaming.stream import open_stream
from warmup.training.data.tables import build_table, tokenize_table, write_samples
from warmup.training.data.tokenizers.windows import TokenizeBatch
from warmup.training.files import staged_folder
from warmup.training.models.build import is_new_model, label_names

datasets.disable_progress_bars()  # "Generating rows" and "Saving the dataset" tell a user nothing
CACHE_FORMAT = 5  # raise it where the same samples are stored in another way


class Preprocessing(Protocol):
    """What preparation needs to know of a task. `warmup.training.tasks.task.Task` documents each of these."""

    facts: TaskFacts
    row_format: RowFormat
    features: Mapping[str, Any]
    whole_rows: bool

    def load_tokenizer(self, name: str, flag: str) -> PreTrainedTokenizerBase: ...

    def train_tokenizer(self, rows: datasets.Dataset, vocab_size: int) -> PreTrainedTokenizerBase: ...

    def tokenizer_facts(self, tokenizer: PreTrainedTokenizerBase) -> list[Any]: ...

    def find_labels(self, train: datasets.Dataset, validation: datasets.Dataset) -> list[str]: ...

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> TokenizeBatch: ...


@dataclass(frozen=True)
class Prepared:
    """All that a run needs of its data."""

    key: str
    """Equal where the content is."""
    folder: Path
    sources: tuple[Source, ...]
    """What the training rows are read from."""
    train: SampleSource
    """With data.streaming, only the samples of the first documents, until `open_training_stream` is called."""
    validation: Samples
    labels: tuple[str, ...]
    bad_rows: tuple[str, ...]
    """Rows that were skipped, and why."""
    tokenizer: PreTrainedTokenizerBase
    notes: Mapping[str, str] = field(default_factory=dict)
    """What a user should know of the data, by a word for it."""

    @property
    def amount(self) -> str:
        """How much there is to train on, in words."""
        return f"a stream of {len(self.sources)} shards" if self.train.size is None else f"{self.train.size} samples"


def cache_folder(data: Data) -> Path:
    """Where tokenised data is kept."""
    return Path(data.cache_dir or os.environ.get("WARMUP_CACHE") or Path.home() / ".cache" / "warmup")


def prepare_data(config: Config, task: Preprocessing) -> Prepared:
    """The tokenised data of a configuration, from the cache where it is there. Raises UserError on bad data."""
    cache = cache_folder(config.data)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        sources = _resolve_sources(config, task.facts, cache)
        tokenizer = _given_tokenizer(config, task)
        known_labels = label_names(config.model) if task.facts.has_classes else []
        declared = _declared_orders(sources[0], task)
        group = None if config.data.validation_files else task.row_format.group
        key = data_key(config, sources, known_labels, declared, _tokenizer_identity(tokenizer, task), group)
        folder = cache / f"{key}-{CACHE_FORMAT}"
        if not _is_complete(folder, tokenizer):
            with FileLock(cache / f"{folder.name}.lock"):
                if not _is_complete(folder, tokenizer):
                    # A copy, because tokenising changes its settings.
                    builder = _Builder(config, task, copy.deepcopy(tokenizer), [known_labels, *declared])
                    builder.build(folder, sources)
    except OSError as error:
        raise UserError(f"data.cache_dir: {error.filename or cache}: {error.strerror or error}") from error
    facts = json.loads((folder / "facts.json").read_text())
    return Prepared(
        key=key,
        folder=folder,
        sources=tuple(sources[0]),
        train=load_samples(folder / "train", task.whole_rows),
        validation=load_samples(folder / "validation", task.whole_rows),
        labels=tuple(facts["labels"]),
        bad_rows=tuple(facts["bad_rows"]),
        tokenizer=tokenizer or task.load_tokenizer(str(folder / "tokenizer"), "data.cache_dir"),
        notes=facts.get("notes", {}),
    )


def open_training_stream(
    config: Config, task: Preprocessing, prepared: Prepared, stream_state: Mapping[str, int] | None
) -> Prepared:
    """The prepared data with a stream as its training samples.

    Args:
        config: the configuration that the data was prepared for.
        task: its task.
        prepared: the prepared data.
        stream_state: the state of the stream that a checkpoint holds; None for the beginning.

    Raises:
        UserError: the first chunk of the stream cannot be read or tokenized.
    """
    data, train = config.data, prepared.train
    corpus = Corpus(prepared.sources, task.row_format, config.seed, data.shuffle_buffer, data.max_bad_rows)
    tokenize = task.tokenize(copy.deepcopy(prepared.tokenizer), prepared.labels)
    cache = ChunkCache(prepared.folder / "chunks", tokenize, table_features(task.features))
    return replace(prepared, train=open_stream(corpus, cache, train.mean_length, stream_state))


def _resolve_sources(config: Config, facts: TaskFacts, cache: Path) -> Sources:
    data = config.data
    if facts.label_means and not data.train_files:
        raise UserError(f"data.train_files: none given, and task: {facts.name} needs {facts.label_means}")
    train_files = data.train_files or docstring_files(cache, labelled=facts.label is not None)
    return resolve(train_files, data.validation_files, facts, data.streaming)


def _given_tokenizer(config: Config, task: Preprocessing) -> PreTrainedTokenizerBase | None:
    """The one that the configuration names, else the model's; None for a new model, for which one is trained."""
    if config.data.tokenizer:
        return task.load_tokenizer(config.data.tokenizer, "data.tokenizer")
    return None if is_new_model(config.model) else task.load_tokenizer(config.model, "model")


def _declared_orders(sources: Sequence[Source], task: Preprocessing) -> list[list[str]]:
    """The orders of classes that data sets declare, in the order of the sources; none if all are the usual one."""
    if not task.facts.has_classes:
        return []
    declared = [names for source in sources if (names := declared_classes(source, task.row_format))]
    return declared if any(names != usual_order(names) for names in declared) else []


def _is_complete(folder: Path, tokenizer: PreTrainedTokenizerBase | None) -> bool:
    """Whether a cached folder has all that was put there; one that was damaged since is made again."""
    if not (tokenizer or (folder / "tokenizer" / "tokenizer.json").exists()):
        return False
    try:
        json.loads((folder / "facts.json").read_text())
        for name in ("train", "validation"):
            load_samples(folder / name)
    except (OSError, ValueError, pyarrow.ArrowInvalid, datasets.exceptions.DatasetsError):
        return False
    return True


def _tokenizer_identity(tokenizer: PreTrainedTokenizerBase | None, task: Preprocessing) -> list[Any]:
    """What of a tokenizer decides how texts are tokenised; [None] for one that is trained on the data."""
    return [tokenizer.backend_tokenizer.to_str(), *task.tokenizer_facts(tokenizer)] if tokenizer else [None]


@dataclass(frozen=True)
class _Builder:
    """Makes the tokenised data of one configuration."""

    config: Config
    task: Preprocessing
    tokenizer: PreTrainedTokenizerBase | None
    orders: list[list[str]]
    """Of classes, the first of which that has all is kept: that of the model that training starts from, then those that
    the data sets declare."""

    def build(self, folder: Path, sources: Sources) -> None:
        """Read, split, tokenise, and put in place as a whole."""
        with staged_folder(folder) as stage:
            bad: list[BadRow] = []
            ignored: Counter[str] = Counter()
            train, validation = self._read(sources, stage / "rows", bad, ignored)
            labels = in_order_of(self.orders, self.task.find_labels(train, validation))
            tokenizer = self.tokenizer
            if tokenizer is None:
                tokenizer = self.task.train_tokenizer(train, self.config.data.vocab_size)
                tokenizer.save_pretrained(stage / "tokenizer")
            samples = {
                name: tokenize_rows(rows, self.task, tokenizer, labels, name)
                for name, rows in (("train", train), ("validation", validation))
            }
            for name, table in samples.items():
                table.save_to_disk(stage / name)
            notes = source_notes(sources, self.config.data)
            if (group := self.task.row_format.group) and not self.config.data.validation_files:
                notes |= split_notes(train, validation, group)
            if self.task.facts.has_classes:
                notes |= label_notes(train, labels, ignored, self.task.facts, self.config.data)
            notes |= token_notes(samples["train"], tokenizer, self.config.data)
            facts = {"labels": labels, "bad_rows": [str(row) for row in bad], "notes": notes}
            (stage / "facts.json").write_text(json.dumps(facts))
            shutil.rmtree(stage / "rows", ignore_errors=True)

    def _read(
        self, sources: Sources, folder: Path, bad: list[BadRow], ignored: Counter[str]
    ) -> tuple[datasets.Dataset, datasets.Dataset]:
        """Training and held-out rows; of a stream of training rows, the first documents.

        Args:
            sources: of both.
            folder: where tables of them are kept.
            bad: a list that unusable rows are appended to.
            ignored: counts rows that are left out for their labels.
        """
        data, row_format = self.config.data, self.task.row_format

        def is_used(row: dict[str, Any]) -> bool:
            label = row.get("label")
            ignore = isinstance(label, str) and label in data.ignore_labels
            if ignore:
                ignored[str(label)] += 1
            return not ignore

        def table(part: Sequence[Source], name: str, limit: int | None = None) -> datasets.Dataset:
            def generate() -> Iterator[dict[str, Any]]:
                rows = filter(is_used, read_rows(part, row_format, bad, data.max_bad_rows))
                first = next(rows, None)
                if first is None:
                    raise UserError(f"data.ignore_labels: all {name} rows have one of them, so that none is left")
                return islice(chain([first], rows), limit)

            return build_table(generate(), folder / name, row_format.features)

        folder.mkdir()
        train, validation = sources
        rows = table(train, "train", data.shuffle_buffer if data.streaming else None)
        if validation:
            return rows, table(validation, "validation")
        if len(rows) < 2:
            raise UserError(f"data.train_files: {len(rows)} row is too few to train on and hold some out")
        held_out = hold_out(rows, data.validation_fraction, self.task.facts.has_classes, row_format.group)
        if not held_out.any():
            raise UserError(
                "data.train_files: no row can be held out, as each has a label that no other one has; give "
                "--data.validation_files"
            )
        return rows.select(np.flatnonzero(~held_out)), rows.select(np.flatnonzero(held_out))


def tokenize_rows(
    rows: datasets.Dataset, task: Preprocessing, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], name: str
) -> datasets.Dataset:
    """The samples of rows.

    Args:
        rows: parsed rows, on disk; the samples are written beside them.
        task: what makes samples of them.
        tokenizer: its settings are changed.
        labels: what the task found.
        name: of the set, for the progress bar and for errors.

    Raises:
        UserError: there is not one token in the texts.
    """
    if not is_terminal(sys.stderr):  # where there is no bar
        print(f"tokenising {len(rows):,} {name} rows", file=sys.stderr, flush=True)
    parts = tokenize_table(rows, task.tokenize(tokenizer, labels), name)
    beside = Path(rows.cache_files[0]["filename"]).with_name(f"{name}.arrow")
    samples = write_samples(parts, beside, table_features(task.features))
    if not len(samples):
        raise UserError(f"data: no token in the {name} texts")
    return samples
