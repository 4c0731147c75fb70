"""Tokenised samples: found by their position in the order of training, and read as arrays.

A row of data gives one or more sequences of tokens, such as the parts of a long text, or several texts to choose from.
They follow each other in a tokenised set, which says where each row begins (`is_first`). A sample, which is what steps
count and ranks are dealt, is one sequence, or all sequences of a row (`Task.whole_rows`). Metrics and predictions of
rows are made of all their sequences (`row_starts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import datasets
import numpy as np
import pyarrow

from warmup.training.data import order

IGNORE_INDEX = -100
"""The target of a token that is not to be predicted."""
NO_TAG = str(IGNORE_INDEX)
"""The tag of a word that is not to be learned, as data sets of transformers have it."""
TOKEN_PREFIX = "token_"
"""Columns of a tokenised set whose names begin so hold one number per token; all others have one value per sample."""
METRICS_PREFIX = "metrics_"
"""Columns whose names begin so are for the metrics alone: no batch is made of them."""
IS_FIRST = "is_first"
"""The column that is True at the first sequence of each row. A set without it has one sequence for each row, or its
sequences are nowhere joined again, as those of documents are not."""


class StepSamples(NamedTuple):
    """The samples of a step, of all ranks."""

    indices: np.ndarray
    """Their ids, int64."""
    epochs: np.ndarray
    """The epoch that each is taken in, int64."""
    lengths: np.ndarray
    """Tokens of each, special ones included."""
    stream_state: dict[str, int] | None = None
    """Of a stream: where to go on after this step."""
    skipped_rows: tuple[str, ...] = ()
    """Of a stream: rows met on the way that could not be used."""


class SampleSource(Protocol):
    """Where training samples come from: in memory (`Samples`) or from a stream (`streaming.stream.Stream`)."""

    @property
    def size(self) -> int | None:
        """Number of samples, None where it is not known."""
        ...

    @property
    def mean_length(self) -> Fraction:
        """Tokens per sample."""
        ...

    @property
    def first_id(self) -> int:
        """The id of a sample that can be read now."""
        ...

    def step_samples(self, position: int, count: int, seed: int) -> StepSamples:
        """The next `count` samples after a position in the endless sequence of epochs.

        Raises:
            UserError: they cannot be read. Asking again gives the same answer.
        """
        ...

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """The sequences of samples by the samples' ids, padded with 0: (ids_ST, mask_ST that is True at tokens, other
        columns by name). The column `sample` has the index among `indices` of the sample that each sequence is of.
        """
        ...

    def close(self) -> None:
        """Give back what is held; nothing is read afterwards."""
        ...


@dataclass(frozen=True)
class Samples:
    """A tokenised set on disk, mapped into memory."""

    table: datasets.Dataset
    """Sequences, with the columns `ids` and `length`, and others that the task adds; formatted as Arrow."""
    lengths: np.ndarray
    """Tokens of each sample, special ones included."""
    whole_rows: bool = False
    """Whether a sample is all sequences of a row."""
    first_id = 0

    @classmethod
    def of(cls, table: datasets.Dataset, whole_rows: bool = False) -> Samples:
        """The samples of a tokenised set."""
        lengths = table.data.column("length").to_numpy()
        if whole_rows:
            lengths = np.add.reduceat(lengths, row_starts(table)[:-1])
        return cls(table.with_format("arrow"), lengths, whole_rows)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def size(self) -> int:
        return len(self)

    @property
    def mean_length(self) -> Fraction:
        return Fraction(int(self.lengths.sum(dtype=np.int64)), len(self))

    def step_samples(self, position: int, count: int, seed: int) -> StepSamples:
        """See SampleSource."""
        indices, epochs = order.step_samples(position, count, len(self), seed)
        return StepSamples(indices, epochs, self.lengths[indices])

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """See SampleSource. Columns with one value per token are (S, T) like the ids; those of other lists are arrays
        of objects.
        """
        rows = self.sequences(indices)
        if not self.whole_rows:
            return pad(rows)
        counts = self._row_starts[indices + 1] - self._row_starts[indices]
        return pad(rows, np.repeat(np.arange(len(indices)), counts))

    def sequences(self, indices: np.ndarray) -> pyarrow.Table:
        """The sequences of samples by the samples' ids, without the columns that are for the metrics alone."""
        return self._read[(_ranges(self._row_starts, indices) if self.whole_rows else indices).tolist()]

    @property
    def row_starts(self) -> np.ndarray:
        """(rows + 1,): where the samples of each row begin, and where the last ones end."""
        return np.arange(len(self) + 1) if self.whole_rows else self._row_starts

    def select_rows(self, rows: np.ndarray) -> Samples:
        """The samples of some rows by the rows' numbers, in memory."""
        sequences = self.table[_ranges(self._row_starts, rows).tolist()]
        return Samples.of(datasets.Dataset(sequences), self.whole_rows)

    @cached_property
    def _row_starts(self) -> np.ndarray:
        return row_starts(self.table)

    @cached_property
    def _read(self) -> datasets.Dataset:
        names = [name for name in self.table.column_names if not name.startswith(METRICS_PREFIX)]
        return self.table.select_columns(names)

    def close(self) -> None:
        """Nothing is held."""


def row_starts(table: datasets.Dataset) -> np.ndarray:
    """(rows + 1,): where the sequences of each row begin in a tokenised set, and where the last ones end."""
    if IS_FIRST not in table.column_names:
        return np.arange(len(table) + 1)
    return np.append(np.flatnonzero(table.data.column(IS_FIRST).to_numpy()), len(table))


def _ranges(starts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The integers from starts[n] to starts[n + 1] for each of the numbers."""
    return np.concatenate([np.arange(*starts[number : number + 2]) for number in numbers])


def pad(
    rows: pyarrow.Table, sample_ids: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Sequences of a tokenised set as `SampleSource.gather` gives them.

    Args:
        rows: the sequences.
        sample_ids: of which sample each is; None where each is one.
    """
    lengths = rows["length"].to_numpy()
    mask_BT = np.arange(max(lengths, default=1)) < lengths[:, None]

    def per_token(column: pyarrow.ChunkedArray) -> np.ndarray:
        values_BT = np.zeros(mask_BT.shape, np.int64)
        values_BT[mask_BT] = column.combine_chunks().flatten().to_numpy()
        return values_BT

    columns = {
        name: per_token(rows[name]) if name.startswith(TOKEN_PREFIX) else rows[name].to_numpy()
        for name in rows.column_names
        if name != "ids"
    }
    columns["sample"] = np.arange(len(lengths)) if sample_ids is None else sample_ids
    return per_token(rows["ids"]), mask_BT, columns


def table_features(extra: Mapping[str, object]) -> datasets.Features:
    """Types of a tokenised set with these columns besides ids and length."""
    number = datasets.Value("int32")
    return datasets.Features({"ids": datasets.List(number), "length": number, **extra})


def load_samples(folder: Path, whole_rows: bool = False) -> Samples:
    """A set that `datasets.Dataset.save_to_disk` wrote."""
    return Samples.of(datasets.load_from_disk(str(folder)), whole_rows)
