"""The classes that labels name."""

from __future__ import annotations

from collections.abc import Collection

import datasets

from warmup.errors import UserError
from warmup.training.data.class_order import usual_order
from warmup.training.data.splits import distinct_labels


def find_classes(
    train: datasets.Dataset,
    validation: datasets.Dataset,
    ignored: Collection[str] = (),
    least: int = 2,
) -> list[str]:
    """Names of the classes of labelled rows.

    Args:
        train: training rows with a column `label`, of one label or of a list of them.
        validation: held-out rows.
        ignored: labels that are no classes.
        least: how many classes there must be.

    Returns:
        The names in their usual order.

    Raises:
        UserError: there are too few classes, or the held-out rows have one that no training row has.
    """
    labels = usual_order(distinct_labels(train).difference(ignored))
    if not labels:
        raise UserError("data.train_files: no row has a label that is not ignored")
    if len(labels) < least:
        raise UserError(f"data.train_files: all rows have the label {labels[0]!r}; a classifier needs two or more")
    unseen = [label for label in sorted(distinct_labels(validation).difference(ignored)) if label not in labels]
    if unseen:
        raise UserError(
            f"data.validation_files: the label {unseen[0]!r} is in no training row (labels there: {', '.join(labels)})"
        )
    return labels
