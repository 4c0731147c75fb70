"""The classes that labels name."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import datasets

from warmup.errors import UserError
from warmup.training.data.splits import distinct_labels


def find_classes(
    train: datasets.Dataset,
    validation: datasets.Dataset,
    known: list[str],
    ignored: Collection[str] = (),
    least: int = 2,
) -> list[str]:
    """Names of the classes of labelled rows.

    Args:
        train: training rows with a column `label`, of one label or of a list of them.
        validation: held-out rows.
        known: the classes of the model that training starts from, in its order.
        ignored: labels that are no classes.
        least: how many classes there must be.

    Returns:
        The names in the order of `known` if they are the same but for case; else numbers by value, names by alphabet.

    Raises:
        UserError: there are too few classes, or the held-out rows have one that no training row has.
    """
    labels = sorted(distinct_labels(train).difference(ignored))
    if not labels:
        raise UserError("data.train_files: no row has a label that is not ignored")
    if all(re.fullmatch("-?[0-9]+", label) for label in labels):
        labels.sort(key=int)
    if len(labels) < least:
        raise UserError(f"data.train_files: all rows have the label {labels[0]!r}; a classifier needs two or more")
    unseen = [label for label in sorted(distinct_labels(validation).difference(ignored)) if label not in labels]
    if unseen:
        raise UserError(
            f"data.validation_files: the label {unseen[0]!r} is in no training row (labels there: {', '.join(labels)})"
        )
    return in_order_of(known, labels)


def in_order_of(known: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The labels in the order of the known names if they are the same but for case; else as they are."""
    spelling = {label.lower(): label for label in labels}
    same = sorted(name.lower() for name in known) == sorted(spelling)
    return [spelling[name.lower()] for name in known] if same else list(labels)
