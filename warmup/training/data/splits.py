"""Which rows are held out, and which classes there are."""

from __future__ import annotations

import re

import datasets
import numpy as np
import pyarrow

from warmup.errors import UserError
from warmup.training.data import order

_SPLIT_KEY = 0x5B117  # the held-out rows are the same for every seed
_ROWS = 1024  # that are in memory at once


def classes(train: datasets.Dataset, validation: datasets.Dataset, known: list[str]) -> list[str]:
    """Names of the classes in the order that the model knows them in; else numbers by value, names by the alphabet."""
    labels = sorted(_names(train))
    if all(re.fullmatch("-?[0-9]+", label) for label in labels):
        labels.sort(key=int)
    if len(labels) < 2:
        raise UserError(f"data.train_files: all rows have the label {labels[0]!r}; a classifier needs two or more")
    unseen = [label for label in sorted(_names(validation)) if label not in labels]
    if unseen:
        raise UserError(
            f"data.validation_files: the label {unseen[0]!r} is in no training row (labels there: {', '.join(labels)})"
        )
    spelled = {label.lower(): label for label in labels}
    same = sorted(name.lower() for name in known) == sorted(spelled)
    return [spelled[name.lower()] for name in known] if same else labels


def hold_out(rows: datasets.Dataset, fraction: float, of_all_classes: bool = True) -> np.ndarray:
    """Which rows are held out: a part of them, at least one and not all, but none of a class that only they have."""
    count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
    shuffled = order.permute(np.arange(len(rows)), len(rows), order.key(_SPLIT_KEY))
    held_out = np.isin(np.arange(len(rows)), shuffled[:count])
    if not of_all_classes:
        return held_out
    kept = _names(rows.select(np.flatnonzero(~held_out)))
    chosen = np.flatnonzero(held_out)
    batches = rows.select(chosen).select_columns("label").iter(_ROWS)
    held_out[chosen] = [kept.issuperset(_listed(label)) for batch in batches for label in batch["label"]]
    return held_out


def _listed(label: str | list[str]) -> list[str]:
    return [label] if isinstance(label, str) else label


def _names(rows: datasets.Dataset) -> set[str]:
    """Each label of the rows once, of words too."""
    found: set[str] = set()
    for batch in rows.select_columns("label").with_format("arrow").iter(_ROWS):
        labels = batch["label"].combine_chunks()
        found.update((labels.flatten() if pyarrow.types.is_list(labels.type) else labels).unique().to_pylist())
    return found
