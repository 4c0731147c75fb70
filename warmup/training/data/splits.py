"""Which rows are held out, where there are no files of held-out rows."""

from __future__ import annotations

from collections import Counter

import datasets
import numpy as np
import pyarrow

from warmup.training.data import order

_SPLIT_KEY = 0x5B117  # the held-out rows are the same for every seed
_ROWS = 1024  # that are in memory at once


def hold_out(rows: datasets.Dataset, fraction: float, keep_classes: bool = True) -> np.ndarray:
    """Choose the rows to hold out.

    Args:
        rows: all rows; at least two.
        fraction: the part of them to hold out. At least one row is held out, and at least one is not.
        keep_classes: a row is not held out if no row that stays has its label, or one of its labels.

    Returns:
        True for each row that is held out.
    """
    count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
    shuffled = order.permute(np.arange(len(rows)), len(rows), order.key(_SPLIT_KEY))
    held_out = np.isin(np.arange(len(rows)), shuffled[:count])
    if not keep_classes:
        return held_out
    staying = distinct_labels(rows.select(np.flatnonzero(~held_out)))
    chosen = np.flatnonzero(held_out)
    batches = rows.select(chosen).select_columns("label").iter(_ROWS)
    held_out[chosen] = [staying.issuperset(_as_list(label)) for batch in batches for label in batch["label"]]
    return held_out


def _as_list(label: str | list[str]) -> list[str]:
    return [label] if isinstance(label, str) else label


def distinct_labels(rows: datasets.Dataset) -> set[str]:
    """Each label of the rows once; of rows with a list of labels, each that is in a list."""
    return set(label_counts(rows))


def label_counts(rows: datasets.Dataset) -> Counter[str]:
    """How often each label occurs; of rows with a list of labels, each that is in a list."""
    found: Counter[str] = Counter()
    for batch in rows.select_columns("label").with_format("arrow").iter(_ROWS):
        labels = batch["label"].combine_chunks()
        labels = labels.flatten() if pyarrow.types.is_list(labels.type) else labels
        found.update({entry["values"]: entry["counts"] for entry in labels.value_counts().to_pylist()})
    return found
