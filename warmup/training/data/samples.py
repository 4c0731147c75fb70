"""Tokenised samples: drawn by their position in the order of training, and read as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Protocol

import datasets
import numpy as np
import pyarrow

from warmup.training.data import order

IGNORE_INDEX = -100


class StepSamples(NamedTuple):
    """The samples of a step: their ids, epochs and lengths in tokens.

    Of a stream also `place`, what it goes on from after this step, and `left_out`, rows that could not be used.
    """

    indices: np.ndarray
    epochs: np.ndarray
    lengths: np.ndarray
    place: dict[str, int] | None = None
    left_out: tuple[str, ...] = ()


class SampleSource(Protocol):
    """Where training samples come from: in memory (`Samples`) or from a stream (`streaming.stream.Stream`).

    size: number of samples, None where it is not known. mean_length: tokens per sample. first: the id of a sample that
    can be read now.
    """

    size: int | None
    mean_length: Fraction
    first: int

    def draw(self, drawn: int, count: int, seed: int) -> StepSamples:
        """The next `count` samples after position `drawn` of the endless stream of epochs."""
        ...

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Samples by their ids, padded: (ids_BT, mask_BT, other columns)."""
        ...


@dataclass(frozen=True)
class Samples:
    """A tokenised set. `lengths`: tokens of each sample, special ones included.

    What training asks of it, a `stream.Stream` has too: `size` (None there), `mean_length`, `first` (the id of a sample
    that is there), `draw` and `take`.
    """

    table: datasets.Dataset
    lengths: np.ndarray
    first = 0

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def size(self) -> int:
        return len(self)

    @property
    def mean_length(self) -> Fraction:
        return Fraction(int(self.lengths.sum(dtype=np.int64)), len(self))

    def draw(self, drawn: int, count: int, seed: int) -> StepSamples:
        """The next `count` samples after position `drawn` of the endless stream of epochs."""
        indices, epochs = order.step_samples(drawn, count, len(self), seed)
        return StepSamples(indices, epochs, self.lengths[indices])

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Samples as (ids_BT, mask_BT of what is not padding, other columns_B, or _BT where there is a list for each
        sample, of a value for each token). Padded with 0.
        """
        return pad(self.rows(indices))

    def rows(self, indices: np.ndarray) -> pyarrow.Table:
        return self.table[indices.tolist()]


def pad(rows: pyarrow.Table) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Rows of a tokenised set as `Samples.take` gives them."""
    lengths = rows["length"].to_numpy()
    mask_BT = np.arange(max(lengths, default=1)) < lengths[:, None]

    def values(column: pyarrow.ChunkedArray) -> np.ndarray:
        if not pyarrow.types.is_list(column.type):
            return column.to_numpy()
        values_BT = np.zeros(mask_BT.shape, np.int64)
        values_BT[mask_BT] = column.combine_chunks().flatten().to_numpy()
        return values_BT

    columns = {name: values(rows[name]) for name in rows.column_names}
    return columns.pop("ids"), mask_BT, columns


def load_samples(folder: Path) -> Samples:
    table = datasets.load_from_disk(str(folder))
    return Samples(table.with_format("arrow"), table.data.column("length").to_numpy())
