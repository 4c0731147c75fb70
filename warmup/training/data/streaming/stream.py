"""Samples of a corpus that is tokenised on the way: block after block of documents, each of them shuffled.

The order is a function of the corpus, the seed and the size of a block alone, so that any number of ranks has the same.
What the ranks of a file system share is the work: one of them tokenises a block into a file that all of them map.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow

from warmup.config import Config
from warmup.errors import UserError
from warmup.training.data import order
from warmup.training.data.prepare import Prepared, columns_of, sample_tokenizer
from warmup.training.data.samples import Samples, StepSamples, pad
from warmup.training.data.streaming.chunk_cache import ChunkCache, remove_chunk
from warmup.training.data.streaming.documents import Corpus, StreamState

_BLOCKS = 0xB10C5  # keeps these permutations apart from others that are keyed by the seed


@dataclass(frozen=True)
class Chunk:
    """The samples of consecutive documents, and the rows among them that were left out."""

    place: StreamState
    samples: Samples
    left_out: tuple[str, ...]
    file: Path

    @property
    def start(self) -> int:
        return self.place.drawn

    @property
    def end(self) -> int:
        return self.start + len(self.samples)


def open_stream(config: Config, prepared: Prepared, place: Mapping[str, int] | None) -> Prepared:
    """The prepared data with a stream for its training samples: from the place that a checkpoint noted, or the start.

    Raises UserError for what is wrong with its first block.
    """
    data, cut = config.data, sample_tokenizer(copy.deepcopy(prepared.tokenizer), config, [])
    corpus = Corpus(prepared.sources, columns_of(config), config.seed, data.shuffle_buffer, data.max_bad_rows)
    files = ChunkCache(prepared.folder / "blocks", *cut)
    return replace(prepared, train=Stream(corpus, files, prepared.train.mean_length, StreamState(**(place or {}))))


class Stream:
    """Endless, and drawn from forwards. The id of a sample is its number in the corpus as it was read, over all epochs.

    It holds the blocks of the last draw, and makes one ahead in a thread.
    """

    size = None

    def __init__(self, corpus: Corpus, files: ChunkCache, mean_length: Fraction, place: StreamState):
        self.corpus, self.mean_length = corpus, mean_length
        self._blocks = _chunks(corpus, files, place)
        self._held = [next(self._blocks)]
        self._thread = ThreadPoolExecutor(1, "stream")
        self._ahead = self._thread.submit(next, self._blocks)

    @property
    def first(self) -> int:
        return self._held[0].start

    def draw(self, drawn: int, count: int, seed: int) -> StepSamples:
        """The next `count` samples after position `drawn`.

        Raises UserError where they cannot be read; what is held stays, and asking again has the same answer.
        """
        if drawn < self.first:
            raise ValueError(f"a stream does not go back: {drawn} was asked for, and it is at {self.first}")
        while self._held[-1].end < drawn + count:
            self._held.append(self._ahead.result())
            self._ahead = self._thread.submit(next, self._blocks)
        while self._held[0].end <= drawn:
            remove_chunk(self._held.pop(0).file)
        blocks = [block for block in self._held if block.start < drawn + count]
        parts = [_shuffled(block, drawn, drawn + count, seed) for block in blocks]
        entered = [block for block in blocks if block.start >= drawn]
        return StepSamples(
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
        return pad(rows.take(np.argsort(np.concatenate(places))) if len(tables) > 1 else rows)

    def close(self) -> None:
        """Remove the files. Whoever still needs one makes it again."""
        wait([self._ahead], timeout=5)
        ahead = [self._ahead.result()] if self._ahead.done() and not self._ahead.exception() else []
        for block in self._held + ahead:
            remove_chunk(block.file)


def _shuffled(block: Chunk, first: int, end: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, epochs and lengths of what positions from `first` to `end` of the stream have of a block."""
    positions = np.arange(max(first, block.start), min(end, block.end), dtype=np.int64)
    key = order.key(seed, _BLOCKS, block.place.block)
    rows = order.permute(positions - block.start, len(block.samples), key)
    return block.start + rows, np.full_like(rows, block.place.epoch), block.samples.lengths[rows].astype(np.int64)


def _chunks(corpus: Corpus, files: ChunkCache, place: StreamState) -> Iterator[Chunk]:
    """The blocks from a place on, without an end; those without a token are passed over."""
    left_out: tuple[str, ...] = ()
    empty_epochs = 0
    for documents in corpus.documents(place):
        if documents.place.epoch == 0:  # later they are the same
            left_out += documents.left_out
        samples, file = files.samples(documents.texts)
        if not len(samples):
            remove_chunk(file)
            empty_epochs += documents.ends_epoch
        else:
            block = Chunk(replace(documents.place, block=place.block, drawn=place.drawn), samples, left_out, file)
            yield block
            place, left_out, empty_epochs = StreamState(block=place.block + 1, drawn=block.end), (), 0
        if empty_epochs == 2:  # the first may have had samples before the block that ended it
            raise UserError("data: no token in the training texts")
