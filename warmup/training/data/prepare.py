"""Tokenised data: made once, kept on disk by the content of what it was made from, read as arrays.

Every rank calls `prepare`. A file lock lets one of them do the work while the others wait without any process group
waiting, so that nothing times out, on shared and on local disks alike.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pyarrow
from filelock import FileLock
from transformers import PreTrainedTokenizerBase

from warmup.config import Config
from warmup.config.data import Data
from warmup.config.tasks import CLASSIFIERS, LANGUAGE_TASKS
from warmup.errors import UserError
from warmup.training.data.default_corpus import docstring_files
from warmup.training.data.readers import read_rows
from warmup.training.data.readers.columns import BadRow, Columns
from warmup.training.data.samples import Samples, SampleSource, load_samples
from warmup.training.data.sources import Source, resolve
from warmup.training.data.splits import classes, hold_out
from warmup.training.data.tokenizers.load import load_tokenizer, load_word_tokenizer
from warmup.training.data.tokenizers.texts import encode
from warmup.training.data.tokenizers.train import train_bpe, train_wordpiece
from warmup.training.data.tokenizers.windows import window_tokenizer
from warmup.training.data.tokenizers.words import tokenize_tagged
from warmup.training.models import gpt2
from warmup.training.models.build import is_new_model, label_names

CACHE_FORMAT = 2  # raise it where the same content would be tokenised differently
PATH_FIELDS = ("data.train_files", "data.validation_files", "data.tokenizer", "data.cache_dir")
"""Fields that may differ from machine to machine: the key says whether what is there is the same."""
VALUE = "value"  # the one label of a regression: the name of what it predicts
_OWN_FILES = {  # tasks for which the docstrings are not made, and what their files are
    "regression": "files whose labels are numbers",
    "token-classification": "files of words and their tags",
}
Sources = tuple[Sequence[Source], Sequence[Source]]  # of training and of validation rows


@dataclass(frozen=True)
class Prepared:
    """All that a run needs of its data. `key` is equal where the content is.

    sources: what the training rows are read from. train: with data.streaming only the samples of the first documents;
    `stream.follow` puts all of them in their place.
    """

    key: str
    folder: Path
    sources: tuple[Source, ...]
    train: SampleSource
    validation: Samples
    labels: tuple[str, ...]
    bad_rows: tuple[str, ...]
    tokenizer: PreTrainedTokenizerBase

    @property
    def amount(self) -> str:
        """How much there is to train on, in words."""
        return f"a stream of {len(self.sources)} shards" if self.train.size is None else f"{self.train.size} samples"


def cache_folder(data: Data) -> Path:
    return Path(data.cache_dir or os.environ.get("WARMUP_CACHE") or Path.home() / ".cache" / "warmup")


def prepare_data(config: Config) -> Prepared:
    """The tokenised data of a configuration, from the cache where it is there. Raises UserError on bad data."""
    cache = cache_folder(config.data)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        labelled, tagged = config.task not in LANGUAGE_TASKS, config.task == "token-classification"
        if config.task in _OWN_FILES and not config.data.train_files:
            raise UserError(f"data.train_files: none given, and task: {config.task} needs {_OWN_FILES[config.task]}")
        train_files = config.data.train_files or docstring_files(cache, labelled)
        sources = resolve(train_files, config.data.validation_files, labelled, tagged, config.data.streaming)
        name = config.data.tokenizer or (None if is_new_model(config.model) else config.model)
        goes_on = config.task == "clm"
        load = load_word_tokenizer if tagged else partial(load_tokenizer, goes_on=goes_on)
        tokenizer = load(name, "data.tokenizer" if config.data.tokenizer else "model") if name else None
        known_labels = label_names(config.model) if config.task in CLASSIFIERS else []
        key = _key(config, sources, tokenizer, known_labels)
        folder = cache / key
        if not _complete(folder, tokenizer):
            with FileLock(cache / f"{key}.lock"):
                if not _complete(folder, tokenizer):
                    # A copy, because tokenising changes its settings.
                    _build(folder, config, sources, copy.deepcopy(tokenizer), known_labels)
    except OSError as error:
        raise UserError(f"data.cache_dir: {error.filename or cache}: {error.strerror or error}") from error
    facts = json.loads((folder / "facts.json").read_text())
    return Prepared(
        key=key,
        folder=folder,
        sources=sources[0],
        train=load_samples(folder / "train"),
        validation=load_samples(folder / "validation"),
        labels=tuple(facts["labels"]),
        bad_rows=tuple(facts["bad_rows"]),
        tokenizer=tokenizer or load_tokenizer(str(folder / "tokenizer"), "data.cache_dir", goes_on),
    )


def _complete(folder: Path, tokenizer: PreTrainedTokenizerBase | None) -> bool:
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


def _key(config: Config, sources: Sources, tokenizer: PreTrainedTokenizerBase | None, known_labels: list[str]) -> str:
    """A hash of everything that the tokenised data depends on: contents, not names or times."""
    data = {name: value for name, value in asdict(config.data).items() if name not in ("cache_dir", "tokenizer")}
    train, validation = ([source.content() for source in part] for part in sources)
    data |= {"train_files": train, "validation_files": validation}
    irrelevant = {
        "mask_rate": True,
        "vocab_size": tokenizer is not None,
        "whole_words": not config.data.whole_words,
        "streaming": not config.data.streaming,
        "shuffle_buffer": not config.data.streaming,
    }
    data = {name: value for name, value in data.items() if not irrelevant.get(name)}
    parts = [CACHE_FORMAT, config.task, known_labels, data, tokenizer.backend_tokenizer.to_str() if tokenizer else None]
    if tokenizer and config.task == "clm":
        parts.append(gpt2.boundary_tokens(tokenizer))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _build(
    folder: Path,
    config: Config,
    sources: Sources,
    tokenizer: PreTrainedTokenizerBase | None,
    known_labels: list[str],
) -> None:
    """Read, split, tokenise, and put in place as a whole."""
    stage = folder.with_name(f".{folder.name}.stage")
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    try:
        bad: list[BadRow] = []
        train, validation = _read(config, sources, stage, bad)
        labels = [VALUE] if config.task == "regression" else []
        if config.task in CLASSIFIERS:
            labels = classes(train, validation, known_labels)
        if labels:
            check_pairs(train, validation)
        if tokenizer is None:
            train_tokenizer = train_bpe if config.task == "clm" else train_wordpiece
            tokenizer = train_tokenizer(train, config.data.vocab_size)
            tokenizer.save_pretrained(stage / "tokenizer")
        for name, rows in (("train", train), ("validation", validation)):
            samples = _tokenize(rows, tokenizer, config, labels, name)
            samples.save_to_disk(stage / name)
        facts = {"labels": labels, "bad_rows": [str(row) for row in bad]}
        (stage / "facts.json").write_text(json.dumps(facts))
        shutil.rmtree(stage / "rows", ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        stage.rename(folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _read(
    config: Config, sources: Sources, stage: Path, bad: list[BadRow]
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training and held-out rows {text, pair, label}; of tagged words, lists in the place of text and label; of a
    stream of training rows the first documents.
    """
    data, columns = config.data, columns_of(config)
    labelled = config.task not in LANGUAGE_TASKS

    def rows_of(part: Sequence[Source], name: str) -> datasets.Dataset:
        def generate() -> Iterator[dict]:
            rows = read_rows(part, columns, labelled, bad, data.max_bad_rows)
            if data.streaming and name == "train":
                rows = islice(rows, data.shuffle_buffer)
            return rows if labelled else ({**row, "pair": None} for row in rows)

        return build_table(generate, stage / "rows" / name, columns.words)

    if data.pair_column and (columns.words or not labelled):
        raise UserError(f"data.pair_column: task {config.task} reads one text of a row; leave it out")
    train, validation = sources
    rows = rows_of(train, "train")
    if validation:
        return rows, rows_of(validation, "validation")
    if len(rows) < 2:
        raise UserError(f"data.train_files: {len(rows)} row is too few to train on and hold some out")
    held_out = hold_out(rows, data.validation_fraction, of_all_classes=config.task in CLASSIFIERS)
    return rows.select(np.flatnonzero(~held_out)), rows.select(np.flatnonzero(held_out))


def columns_of(config: Config) -> Columns:
    """What the configuration says of the columns."""
    data, numbers, tagged = config.data, config.task == "regression", config.task == "token-classification"
    return Columns(data.text_column, data.pair_column, data.label_column, numbers, tagged)


def build_table(generate, folder: Path, tagged: bool = False) -> datasets.Dataset:
    """The rows of a generator as a table on disk. A UserError of the generator's comes out as it is."""
    text = datasets.Value("large_string")
    main = datasets.List(text) if tagged else text
    features = datasets.Features({"text": main, "pair": text, "label": main})
    try:
        return datasets.Dataset.from_generator(
            generate, features=features, cache_dir=str(folder), fingerprint=folder.name, split="rows"
        )
    except datasets.exceptions.DatasetGenerationError as error:
        cause = error.__cause__
        raise cause if isinstance(cause, UserError | OSError) else error from None


def check_pairs(*rows: datasets.Dataset) -> None:
    """Raise UserError where some rows are pairs and others single texts."""
    tables = [part.data for part in rows]
    single = sum(table.column("pair").null_count for table in tables)
    if 0 < single < sum(table.num_rows for table in tables):
        raise UserError("data: some files have a second text and some have none; name it with --data.pair_column")


def _tokenize(
    rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, config: Config, labels: list[str], name: str
) -> datasets.Dataset:
    samples_of, features = sample_tokenizer(tokenizer, config, labels)
    samples = rows.map(
        samples_of,
        batched=True,
        remove_columns=rows.column_names,
        features=features,
        desc=f"tokenising {name}",
        load_from_cache_file=False,
        new_fingerprint=name,
    )
    if not len(samples):
        raise UserError(f"data: no token in the {name} texts")
    return samples


def sample_tokenizer(
    tokenizer: PreTrainedTokenizerBase, config: Config, labels: list[str]
) -> tuple[Callable[[dict], dict], datasets.Features]:
    """What makes samples of a batch of rows, and the columns that they have: ids, length, and more for each task."""
    limit, number = config.data.max_length, datasets.Value("int32")
    columns = {"ids": datasets.List(number), "length": number}
    if config.task == "token-classification":
        numbers = {label: place for place, label in enumerate(labels)}
        cut = partial(tokenize_tagged, tokenizer=tokenizer, limit=limit, numbers=numbers)
        return cut, datasets.Features(columns | {"label": datasets.List(number)})
    if not labels:
        cut = window_tokenizer(config.task, tokenizer, limit, config.data.whole_words)
        more = {"word": datasets.List(number)} if config.data.whole_words else {}
        return cut, datasets.Features(columns | more)
    number_of = float if config.task == "regression" else labels.index

    def texts(batch: dict) -> dict:
        _, encoded = encode(batch, tokenizer, limit)
        return encoded | {"label": [number_of(label) for label in batch["label"]]}

    kind = datasets.Value("float64") if config.task == "regression" else number
    return texts, datasets.Features(columns | {"first": number, "label": kind})
