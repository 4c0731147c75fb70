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
        group: rows with the same value in this column are held out together, unless each has more than twice
            as many rows as are to be held out.

    Returns:
        True for each row that is held out.
    """
    count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
    shuffled_R = order.permute(np.arange(len(rows)), len(rows), order.key(_SPLIT_KEY))
    held_out = _whole_groups(group_numbers(rows, group), count) if group else np.zeros(len(rows), bool)
    if not held_out.any():
        held_out[shuffled_R[:count]] = True
    if not keep_classes:
        return held_out
    staying = distinct_labels(rows.select(np.flatnonzero(~held_out)))
    chosen = np.flatnonzero(held_out)
    batches = rows.select(chosen).select_columns("label").iter(_ROWS)
    held_out[chosen] = [staying.issuperset(_as_list(label)) for batch in batches for label in batch["label"]]
    if not held_out.any():
        held_out[_first_of_common_labels(rows, shuffled_R)] = True
    return held_out


def _whole_groups(groups_R: np.ndarray, count: int) -> np.ndarray:
    """True for the rows of some groups, about `count` rows and less than all: each group that brings their number no
    further from it. There are none where each group has more than twice as many.

    Args:
        groups_R: the number of each row's group.
        count: how many rows to choose.
    """
    sizes_G = np.bincount(groups_R)
    shuffled_G = order.permute(np.arange(len(sizes_G)), len(sizes_G), order.key(_SPLIT_KEY))
    chosen, reached = [], 0
    for group, size in zip(shuffled_G.tolist(), sizes_G[shuffled_G].tolist(), strict=True):
        if abs(reached + size - count) <= abs(reached - count) and reached + size < len(groups_R):
            chosen.append(group)
            reached += size
    return np.isin(groups_R, chosen)


def _first_of_common_labels(rows: datasets.Dataset, order_R: np.ndarray) -> list[int]:
    """The number of the first row, in an order of all, of whose labels other rows have each; [] if there is none."""
    batches = rows.select_columns("label").iter(_ROWS)
    counts = Counter(name for batch in batches for label in batch["label"] for name in set(_as_list(label)))
    for row in order_R.tolist():
        if all(counts[label] > 1 for label in _as_list(rows[row]["label"])):
            return [row]
    return []


def group_numbers(rows: datasets.Dataset, column: str) -> np.ndarray:
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
