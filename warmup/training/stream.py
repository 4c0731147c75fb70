"""Samples of a corpus that is tokenised on the way: block after block of documents, each of them shuffled.

The order is a function of the corpus, the seed and the size of a block alone, so that any number of ranks has the same.
What the ranks of a file system share is the work: one of them tokenises a block into a file that all of them map.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import datasets
import numpy as np
import pyarrow
from filelock import FileLock

from warmup.config import Config
from warmup.training import order
from warmup.training.corpus import Corpus, Place
from warmup.training.outcome import UserError
from warmup.training.samples import Drawn, Samples, padded
from warmup.training.tokens import Prepared, columns_of, cutter

BATCH = 1000  # documents that are tokenised at once
STALE = 3600.0  # seconds after which a file is one that a killed run left behind
_BLOCKS = 0xB10C5  # keeps these permutations apart from others that are keyed by the seed


@dataclass(frozen=True)
class Block:
    """The samples of consecutive documents, and the rows among them that were left out."""

    place: Place
    samples: Samples
    left_out: tuple[str, ...]
    file: Path

    @property
    def start(self) -> int:
        return self.place.drawn

    @property
    def end(self) -> int:
        return self.start + len(self.samples)


def follow(config: Config, prepared: Prepared, place: Mapping[str, int] | None) -> Prepared:
    """The prepared data with a stream for its training samples: from the place that a checkpoint noted, or the start.

    Raises UserError for what is wrong with its first block.
    """
    data, cut = config.data, cutter(copy.deepcopy(prepared.tokenizer), config, [])
    corpus = Corpus(prepared.sources, columns_of(config), config.seed, data.shuffle_buffer, data.max_bad_rows)
    files = Files(prepared.folder / "blocks", *cut)
    return replace(prepared, train=Stream(corpus, files, prepared.train.mean_length, Place(**(place or {}))))


class Stream:
    """Endless, and drawn from forwards. The id of a sample is its number in the corpus as it was read, over all epochs.

    It holds the blocks of the last draw, and makes one ahead in a thread.
    """

    size = None

    def __init__(self, corpus: Corpus, files: Files, mean_length: Fraction, place: Place):
        self.corpus, self.mean_length = corpus, mean_length
        self._blocks = _make(corpus, files, place)
        self._held = [next(self._blocks)]
        self._thread = ThreadPoolExecutor(1, "stream")
        self._ahead = self._thread.submit(next, self._blocks)

    @property
    def first(self) -> int:
        return self._held[0].start

    def draw(self, drawn: int, count: int, seed: int) -> Drawn:
        """The next `count` samples after position `drawn`.

        Raises UserError where they cannot be read; what is held stays, and asking again has the same answer.
        """
        if drawn < self.first:
            raise ValueError(f"a stream does not go back: {drawn} was asked for, and it is at {self.first}")
        while self._held[-1].end < drawn + count:
            self._held.append(self._ahead.result())
            self._ahead = self._thread.submit(next, self._blocks)
        while self._held[0].end <= drawn:
            _remove(self._held.pop(0).file)
        blocks = [block for block in self._held if block.start < drawn + count]
        parts = [_shuffled(block, drawn, drawn + count, seed) for block in blocks]
        entered = [block for block in blocks if block.start >= drawn]
        return Drawn(
            *map(np.concatenate, zip(*parts, strict=True)),
            place=blocks[-1].place.to_dict(),
            left_out=tuple(row for block in entered for row in block.left_out),
        )

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """As `Samples.take`, of samples of the last draw."""
        tables, places = [], []
        for block in self._held:
            here = np.flatnonzero((block.start <= indices) & (indices < block.end))
            if len(here):
                tables.append(block.samples.rows(indices[here] - block.start))
                places.append(here)
        rows = pyarrow.concat_tables(tables)
        return padded(rows.take(np.argsort(np.concatenate(places))) if len(tables) > 1 else rows)

    def close(self) -> None:
        """Remove the files. Whoever still needs one makes it again."""
        wait([self._ahead], timeout=5)
        ahead = [self._ahead.result()] if self._ahead.done() and not self._ahead.exception() else []
        for block in self._held + ahead:
            _remove(block.file)


def _shuffled(block: Block, first: int, end: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, epochs and lengths of what positions from `first` to `end` of the stream have of a block."""
    positions = np.arange(max(first, block.start), min(end, block.end), dtype=np.int64)
    key = order.key(seed, _BLOCKS, block.place.block)
    rows = order.permute(positions - block.start, len(block.samples), key)
    return block.start + rows, np.full_like(rows, block.place.epoch), block.samples.lengths[rows].astype(np.int64)


def _make(corpus: Corpus, files: Files, place: Place) -> Iterator[Block]:
    """The blocks from a place on, without an end; those without a token are passed over."""
    left_out: tuple[str, ...] = ()
    empty_epochs = 0
    for documents in corpus.documents(place):
        if documents.place.epoch == 0:  # later they are the same
            left_out += documents.left_out
        samples, file = files.samples(documents.texts)
        if not len(samples):
            _remove(file)
            empty_epochs += documents.ends_epoch
        else:
            block = Block(replace(documents.place, block=place.block, drawn=place.drawn), samples, left_out, file)
            yield block
            place, left_out, empty_epochs = Place(block=place.block + 1, drawn=block.end), (), 0
        if empty_epochs == 2:  # the first may have had samples before the block that ended it
            raise UserError("data: no token in the training texts")


@dataclass(frozen=True)
class Files:
    """Where the samples of blocks lie while they are needed, each under a hash of its texts.

    cut, features: as `tokens.cutter` gives them.
    """

    folder: Path
    cut: Callable[[dict], dict]
    features: datasets.Features

    def samples(self, texts: Sequence[str]) -> tuple[Samples, Path]:
        """The samples of these texts, tokenised unless another process has done it, and their file."""
        digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=10).hexdigest()
        file = self.folder / f"{digest}.arrow"
        try:
            self.folder.mkdir(exist_ok=True)
            while (found := _load(file)) is None:
                with FileLock(self.folder / "lock"):
                    if _load(file) is None:
                        self._sweep()
                        self._write(texts, file)
        except OSError as error:
            raise UserError(f"data.cache_dir: {error.filename or file}: {error.strerror or error}") from error
        return found, file

    def _sweep(self) -> None:
        """Remove what a run that was killed left behind."""
        for left in (*self.folder.glob("*.arrow"), *self.folder.glob("*.stage")):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > STALE:
                    left.unlink()

    def _write(self, texts: Sequence[str], file: Path) -> None:
        stage = file.with_suffix(".stage")
        schema = self.features.arrow_schema
        with pyarrow.OSFile(str(stage), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
            for start in range(0, len(texts), BATCH):
                writer.write_table(pyarrow.table(self.cut({"text": texts[start : start + BATCH]}), schema))
        stage.replace(file)


def _load(file: Path) -> Samples | None:
    """A block's samples, None where there is no whole file of them."""
    try:
        table = datasets.Dataset.from_file(str(file))
    except (FileNotFoundError, pyarrow.ArrowInvalid):
        return None
    return Samples(table.with_format("arrow"), table.data.column("length").to_numpy())


def _remove(file: Path) -> None:
    """Whoever has it open keeps it; one that came late makes it again."""
    with contextlib.suppress(OSError):
        file.unlink()
