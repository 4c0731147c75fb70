"""The documents of a corpus that is read as a stream: shard after shard, epoch after epoch, from any place on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from warmup.errors import UserError
from warmup.training.data import order
from warmup.training.data.readers import check_bad_rows, rows_of
from warmup.training.data.readers.columns import BadRow, Columns
from warmup.training.data.sources import Source

_SHARDS = 0x5A4D5  # keeps this permutation apart from others that are keyed by the seed


@dataclass(frozen=True)
class StreamState:
    """Where in a corpus a block of documents begins.

    epoch: passes over the corpus before this one. shard: shards of it that are over. row: rows of the next one that are
    passed. bad_rows: those of the epoch so far. block, drawn: blocks and samples of the stream before this one.
    """

    epoch: int = 0
    shard: int = 0
    row: int = 0
    bad_rows: int = 0
    block: int = 0
    drawn: int = 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class DocumentChunk:
    """A block of them. left_out: rows among them that could not be used. ends_epoch: whether nothing follows in it."""

    place: StreamState
    texts: list[str]
    left_out: tuple[str, ...]
    ends_epoch: bool


@dataclass(frozen=True)
class Corpus:
    """Shards, and how they are read: `block` documents at a time."""

    shards: Sequence[Source]
    columns: Columns
    seed: int
    block: int
    max_bad_rows: int

    def documents(self, place: StreamState) -> Iterator[DocumentChunk]:
        """Blocks from this place on, without an end. The last one of an epoch may be shorter, or empty.

        Raises UserError where a shard cannot be read or holds no usable row, and where an epoch has too many bad rows.
        """
        for epoch in itertools.count(place.epoch):
            yield from self._epoch(place if epoch == place.epoch else StreamState(epoch))

    def _epoch(self, place: StreamState) -> Iterator[DocumentChunk]:
        texts: list[str] = []
        bad: list[BadRow] = []
        for shard, row_number, row in self._rows(place):
            if isinstance(row, BadRow):
                bad.append(row)
                check_bad_rows(bad, self.max_bad_rows, place.bad_rows)
            else:
                texts.append(row["text"])
            if len(texts) == self.block:
                yield DocumentChunk(place, texts, tuple(map(str, bad)), ends_epoch=False)
                place = StreamState(place.epoch, shard, row_number, place.bad_rows + len(bad))
                texts, bad = [], []
        yield DocumentChunk(place, texts, tuple(map(str, bad)), ends_epoch=True)

    def _rows(self, place: StreamState) -> Iterator[tuple[int, int, dict | BadRow]]:
        """(Number of the shard in the epoch's order, number of the row in it, row) of an epoch from a place on."""
        count = len(self.shards)
        shuffled = order.permute(np.arange(count), count, order.key(self.seed, _SHARDS, place.epoch))
        for number in range(place.shard, count):
            source = self.shards[shuffled[number]]
            passed = place.row if number == place.shard else 0
            usable = False
            for row_number, row in enumerate(rows_of(source, self.columns, labelled=False), 1):
                usable = usable or not isinstance(row, BadRow)
                if row_number > passed:
                    yield number, row_number, row
            if not usable:
                raise UserError(f"{source.name} holds no usable row")
