"""Which rows are held out, where there are no files of held-out rows."""

from __future__ import annotations

import hashlib
from collections import Counter

import datasets
import numpy as np
import pyarrow

from warmup.training.data import order

_SPLIT_KEY = 0x5B117  # the held-out rows are the same for every seed
_ROWS = 1024  # that are in memory at once


def hold_out(
    rows: datasets.Dataset, fraction: float, keep_classes: bool = True, group: str | None = None
) -> np.ndarray:
    """Choose the rows to hold out.

    Args:
        rows: all rows; at least two.
        fraction: the part of them to hold out. At least one row is held out, and at least one is not.
        keep_classes: a row is not held out if no row that stays has its label, or one of its labels.
        group: rows with the same value in this column are held out together, unless all have the same.

    Returns:
        True for each row that is held out.
    """
    count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
    groups_R = _group_numbers(rows, group) if group else np.arange(len(rows))
    if not groups_R.any():
        groups_R = np.arange(len(rows))
    sizes_G = np.bincount(groups_R)
    shuffled_G = order.permute(np.arange(len(sizes_G)), len(sizes_G), order.key(_SPLIT_KEY))
    reached_G = sizes_G[shuffled_G].cumsum()[:-1]  # not all of them
    held_out = np.isin(groups_R, shuffled_G[: np.abs(reached_G - count).argmin() + 1])
    if not keep_classes:
        return held_out
    staying = distinct_labels(rows.select(np.flatnonzero(~held_out)))
    chosen = np.flatnonzero(held_out)
    batches = rows.select(chosen).select_columns("label").iter(_ROWS)
    held_out[chosen] = [staying.issuperset(_as_list(label)) for batch in batches for label in batch["label"]]
    if not held_out.any():
        held_out[_first_of_common_labels(rows, shuffled_G)] = True
    return held_out


def _first_of_common_labels(rows: datasets.Dataset, order_R: np.ndarray) -> list[int]:
    """The number of the first row, in an order of all, of whose labels other rows have each; [] if there is none."""
    counts = label_counts(rows)
    for row in order_R.tolist():
        if all(counts[label] > 1 for label in _as_list(rows[row]["label"])):
            return [row]
    return []


def _group_numbers(rows: datasets.Dataset, column: str) -> np.ndarray:
    """The number of each row's group, counted in the order of their first rows."""
    numbers: dict[bytes, int] = {}
    texts = (text for batch in rows.select_columns(column).iter(_ROWS) for text in batch[column])
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts)
    return np.array([numbers.setdefault(digest, len(numbers)) for digest in digests])


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
