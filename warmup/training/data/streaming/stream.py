"""The samples of a corpus that is tokenized while it is trained on, in chunks of documents that are each shuffled.

The order is a function of the corpus, the seed and the size of a chunk alone, so it is the same on any number of ranks.
The ranks on a machine share the work: one of them tokenizes a chunk into a file, and all of them map it into memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow

from warmup.errors import UserError
from warmup.training.data import order
from warmup.training.data.samples import Samples, StepSamples, pad
from warmup.training.data.streaming.chunk_cache import ChunkCache, remove_chunk
from warmup.training.data.streaming.documents import Corpus, StreamState

_CHUNKS = 0xB10C5  # sets these permutations apart from others that are keyed by the seed


@dataclass(frozen=True)
class Chunk:
    """The samples of consecutive documents."""

    state: StreamState
    """Where it begins in the corpus and in the stream."""

    samples: Samples
    """At least one, in the order of the documents."""

    skipped_rows: tuple[str, ...]
    """Rows since the chunk before that could not be used; of the first epoch only."""

    file: Path
    """The file in the chunk cache."""

    @property
    def start(self) -> int:
        """The id of its first sample."""
        return self.state.consumed_samples

    @property
    def end(self) -> int:
        return self.start + len(self.samples)


def open_stream(
    corpus: Corpus, cache: ChunkCache, mean_length: Fraction, stream_state: Mapping[str, int] | None
) -> Stream:
    """Open a corpus as a stream of samples.

    Args:
        corpus: What is read.
        cache: Where tokenized chunks are kept while they are needed.
        mean_length: Tokens per sample, estimated.
        stream_state: The state that a checkpoint holds; None for the beginning.

    Raises:
        UserError: The first chunk cannot be read or tokenized.
    """
    return Stream(corpus, cache, mean_length, StreamState.from_dict(stream_state or {}))


class Stream:
    """An endless source of training samples (see `SampleSource`) that moves forward only.

    The id of a sample is its number in the corpus in reading order, counted over all epochs. The chunks of the last
    step are held, and the next chunk is prepared in a thread.
    """

    size = None

    def __init__(self, corpus: Corpus, cache: ChunkCache, mean_length: Fraction, state: StreamState) -> None:
        self.corpus, self.mean_length = corpus, mean_length
        self._chunks = _tokenized_chunks(corpus, cache, state)
        self._held = [next(self._chunks)]
        self._thread = ThreadPoolExecutor(1, "stream")
        self._next_chunk = self._thread.submit(next, self._chunks)

    @property
    def first_id(self) -> int:
        """The smallest id of a sample that can be read now."""
        return self._held[0].start

    def step_samples(self, position: int, count: int, seed: int) -> StepSamples:
        """The next `count` samples after a position in the stream, which must not be before that of the last call.

        Args:
            position: How many samples of the stream were consumed before.
            count: How many samples to take.
            seed: Seed of the order within each chunk.

        Returns:
            The samples; their `stream_state` is the beginning of the last chunk that they come from.

        Raises:
            UserError: They cannot be read. The chunks that are held stay; asking again gives the same answer.
        """
        if position < self.first_id:
            raise ValueError(f"a stream does not go back to position {position}; it is at {self.first_id}")
        end = position + count
        while self._held[-1].end < end:
            self._held.append(self._next_chunk.result())
            self._next_chunk = self._thread.submit(next, self._chunks)
        while self._held[0].end <= position:
            remove_chunk(self._held.pop(0).file)
        chunks = [chunk for chunk in self._held if chunk.start < end]
        parts = [_shuffled(chunk, position, end, seed) for chunk in chunks]
        entered = [chunk for chunk in chunks if chunk.start >= position]
        return StepSamples(
            *map(np.concatenate, zip(*parts, strict=True)),
            stream_state=chunks[-1].state.to_dict(),
            skipped_rows=tuple(row for chunk in entered for row in chunk.skipped_rows),
        )

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """As `SampleSource.gather`, of samples in the chunks that are held: at least those of the last step."""
        tables, members = [], []
        for chunk in self._held:
            in_chunk = np.flatnonzero((chunk.start <= indices) & (indices < chunk.end))
            if len(in_chunk):
                tables.append(chunk.samples.sequences(indices[in_chunk] - chunk.start))
                members.append(in_chunk)
        rows = pyarrow.concat_tables(tables)
        return pad(rows.take(np.argsort(np.concatenate(members))) if len(tables) > 1 else rows)

    def close(self) -> None:
        """Remove the files. A rank that still needs one writes it again."""
        wait([self._next_chunk], timeout=5)
        prepared = self._next_chunk.done() and not self._next_chunk.exception()
        for chunk in [*self._held, *([self._next_chunk.result()] if prepared else [])]:
            remove_chunk(chunk.file)


def _shuffled(chunk: Chunk, start: int, end: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The samples of a chunk that lie at positions `start` to `end` (exclusive) of the stream.

    Args:
        chunk: Its samples take as many positions of the stream, in a shuffled order.
        start: The first position; it may be before the chunk's.
        end: The end; it may be beyond the chunk's.
        seed: Seed of the order.

    Returns:
        (ids, epochs, lengths), each int64.
    """
    positions = np.arange(max(start, chunk.start), min(end, chunk.end), dtype=np.int64)
    key = order.key(seed, _CHUNKS, chunk.state.chunk)
    rows = order.permute(positions - chunk.start, len(chunk.samples), key)
    return chunk.start + rows, np.full_like(rows, chunk.state.epoch), chunk.samples.lengths[rows].astype(np.int64)


def _tokenized_chunks(corpus: Corpus, cache: ChunkCache, state: StreamState) -> Iterator[Chunk]:
    """Yield the chunks of a corpus from `state` on, without end. Chunks without a token are passed over.

    Raises:
        UserError: A chunk cannot be read or tokenized, or a whole epoch has no token.
    """
    skipped_rows: tuple[str, ...] = ()
    empty_epochs = 0
    for documents in corpus.documents(state):
        if documents.state.epoch == 0:  # in later epochs they are the same
            skipped_rows += documents.skipped_rows
        samples, file = cache.samples(documents.texts)
        if not len(samples):
            remove_chunk(file)
            empty_epochs += documents.ends_epoch
        else:
            start = replace(documents.state, chunk=state.chunk, consumed_samples=state.consumed_samples)
            chunk = Chunk(start, samples, skipped_rows, file)
            yield chunk
            state = StreamState(chunk=state.chunk + 1, consumed_samples=chunk.end)
            skipped_rows, empty_epochs = (), 0
        if empty_epochs == 2:  # the first of them may have had samples before the chunk that ended it
            raise UserError("data: no token in the training texts")
