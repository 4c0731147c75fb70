"""Tokenised samples: found by their position in the order of training, and read as arrays."""

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
ROW_PREFIX = "row_"
"""Columns whose names begin so are for the metrics alone: no batch is made of them."""


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
        """Samples by their ids, padded with 0: (ids_BT, mask_BT that is True at tokens, other columns by name)."""
        ...

    def close(self) -> None:
        """Give back what is held; nothing is read afterwards."""
        ...


@dataclass(frozen=True)
class Samples:
    """A tokenised set on disk, mapped into memory."""

    table: datasets.Dataset
    """Columns `ids` and `length`, and others that the task adds; formatted as Arrow."""
    lengths: np.ndarray
    """Tokens of each sample, special ones included."""
    first_id = 0

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
        """See SampleSource. Columns with one value per token are (B, T) like the ids; those of other lists are arrays
        of objects.
        """
        return pad(self.rows(indices))

    def rows(self, indices: np.ndarray) -> pyarrow.Table:
        """Samples by their ids, without the columns that are for the metrics alone."""
        return self._read[indices.tolist()]

    @cached_property
    def _read(self) -> datasets.Dataset:
        return self.table.select_columns([name for name in self.table.column_names if not name.startswith(ROW_PREFIX)])

    def close(self) -> None:
        """Nothing is held."""


def pad(rows: pyarrow.Table) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Rows of a tokenised set as `SampleSource.gather` gives them."""
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
    return per_token(rows["ids"]), mask_BT, columns


def table_features(extra: Mapping[str, object]) -> datasets.Features:
    """Types of a tokenised set with these columns besides ids and length."""
    number = datasets.Value("int32")
    return datasets.Features({"ids": datasets.List(number), "length": number, **extra})


def load_samples(folder: Path) -> Samples:
    """A set that `datasets.Dataset.save_to_disk` wrote."""
    table = datasets.load_from_disk(str(folder))
    return Samples(table.with_format("arrow"), table.data.column("length").to_numpy())
