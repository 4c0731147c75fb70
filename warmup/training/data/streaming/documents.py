"""The documents of a corpus that is read as a stream: shard by shard and epoch by epoch, from any position on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from warmup.errors import UserError
from warmup.training.data import order
from warmup.training.data.readers import check_bad_rows, rows_of
from warmup.training.data.readers.columns import BadRow, RowFormat
from warmup.training.data.sources import Source

_SHARDS = 0x5A4D5  # sets this permutation apart from others that are keyed by the seed
_OLD_NAMES = {"block": "chunk", "drawn": "consumed_samples"}  # fields that older checkpoints name otherwise


@dataclass(frozen=True)
class StreamState:
    """The position in a corpus at which a chunk of documents begins. Checkpoints hold it as JSON."""

    epoch: int = 0
    """Full passes over the corpus before this one."""

    shard: int = 0
    """Shards of this epoch that are read completely."""

    row: int = 0
    """Rows of the next shard that are read."""

    bad_rows: int = 0
    """Unusable rows of this epoch so far."""

    chunk: int = 0
    """Chunks of the stream before this one, of all epochs."""

    consumed_samples: int = 0
    """Samples of the stream before this chunk, of all epochs."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, int]) -> StreamState:
        """The state that `to_dict` returned, or an older version of it with other names."""
        return cls(**{_OLD_NAMES.get(name, name): value for name, value in fields.items()})

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class DocumentChunk:
    """Consecutive documents of a corpus."""

    state: StreamState
    """Where it begins. (`chunk` and `consumed_samples`, which a corpus does not count, are 0 or those of its start.)"""

    texts: list[str]
    """The documents."""

    skipped_rows: tuple[str, ...]
    """Rows between them that could not be used, each with its file, row number and reason."""

    ends_epoch: bool
    """Whether it is the last chunk of its epoch."""


@dataclass(frozen=True)
class Corpus:
    """The shards of a corpus, and how they are read."""

    shards: Sequence[Source]
    """Files, or parts of a hub data set."""

    row_format: RowFormat
    """Which columns a row has; `text` must be one."""

    seed: int
    """The order of the shards in each epoch is a function of it."""

    chunk_size: int
    """Documents per chunk."""

    max_bad_rows: int
    """How many rows of an epoch may be unusable."""

    def documents(self, state: StreamState) -> Iterator[DocumentChunk]:
        """Yield the chunks from `state` on, without end. The last one of an epoch may be shorter, or empty.

        Raises:
            UserError: A shard cannot be read or holds no usable row, or an epoch has too many unusable rows.
        """
        for epoch in itertools.count(state.epoch):
            yield from self._epoch(state if epoch == state.epoch else StreamState(epoch))

    def _epoch(self, state: StreamState) -> Iterator[DocumentChunk]:
        """Yield the chunks from `state` to the end of its epoch."""
        texts: list[str] = []
        bad: list[BadRow] = []
        for shard, row_number, row in self._rows(state):
            if isinstance(row, BadRow):
                bad.append(row)
                check_bad_rows(bad, self.max_bad_rows, state.bad_rows)
            else:
                texts.append(row["text"])
            if len(texts) == self.chunk_size:
                yield DocumentChunk(state, texts, tuple(map(str, bad)), ends_epoch=False)
                state = StreamState(state.epoch, shard, row_number, state.bad_rows + len(bad))
                texts, bad = [], []
        yield DocumentChunk(state, texts, tuple(map(str, bad)), ends_epoch=True)

    def _rows(self, state: StreamState) -> Iterator[tuple[int, int, dict[str, Any] | BadRow]]:
        """Yield the rows from `state` to the end of its epoch.

        Yields:
            (position of the shard in the epoch's order, number of the row in the shard from 1, row).
        """
        count = len(self.shards)
        shuffled = order.permute(np.arange(count), count, order.key(self.seed, _SHARDS, state.epoch))
        for shard in range(state.shard, count):
            source = self.shards[shuffled[shard]]
            rows_to_skip = state.row if shard == state.shard else 0
            usable = False
            for row_number, row in enumerate(rows_of(source, self.row_format), 1):
                usable = usable or not isinstance(row, BadRow)
                if row_number > rows_to_skip:
                    yield shard, row_number, row
            if not usable:
                raise UserError(f"{source.name} holds no usable row")
