"""One format of GLUE's data: from its own .tsv files or from the hub, to .jsonl with text, text_pair and label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from warmup.config import tasks as config_tasks
from warmup.config.data import Data
from warmup.errors import UserError
from warmup.training.data.readers import rows_of
from warmup.training.data.readers.columns import BadRow, RowFormat, label_column, pair_column, text_column
from warmup.training.data.readers.values import parse_class, parse_number
from warmup.training.data.sources import Source, resolve_part
from warmup.training.files import staged_file
from warmup.training.glue.tasks import HUB, GlueTask

_MOST_BAD = 0.01  # of the rows of a file: QQP's has some
_UNREADABLE = {"text": "-", "pair": "-"}  # in the place of a row of a test set, which has to be answered


def convert(task: GlueTask, source: str, folder: Path) -> list[str]:
    """Write the data of a task as `folder`/PART.jsonl, unless it is there.

    Args:
        task: the task.
        source: the folder of GLUE's folders, or "hub".
        folder: where the files go; it is made.

    Returns:
        Notes on rows that were left out, and on test sets that are not there.

    Raises:
        UserError: a file that is needed is missing, or more than one in a hundred of its rows cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    notes = []
    for theirs, ours in task.parts.items():
        target, entry = folder / f"{ours}.jsonl", _entry(task, source, theirs, ours)
        if target.is_file():
            continue
        if theirs.startswith("test") and source != "hub" and not Path(entry).is_file():
            notes.append(f"{entry} is not there: no predictions for GLUE's server")
        else:
            notes += _convert_part(task, entry, target, labelled=not theirs.startswith("test"))
    return notes


def _convert_part(task: GlueTask, entry: str, target: Path, labelled: bool) -> list[str]:
    """Write one part of the data. Returns a note on its rows that cannot be used, if there are any.

    Args:
        task: the task.
        entry: the part as data.train_files would name it.
        target: the file to write.
        labelled: whether rows have labels; a test set's have none, and each of them has to be answered.
    """
    (source,) = resolve_part([entry], task.folder, target.stem, config_tasks.TASKS[task.task])
    bad, count = [], 0
    with staged_file(target) as stage, open(stage, "w", encoding="utf-8") as file:
        for row in _rows(task, source, labelled):
            count += 1
            if isinstance(row, BadRow):
                bad.append(str(row))
                if labelled:
                    continue
                row = _UNREADABLE
            file.write(json.dumps(_record(task, row, source.name, labelled), ensure_ascii=False) + "\n")
        note = f"{source.name}: {len(bad)} of {count} rows cannot be used" + (f"; the first: {bad[0]}" if bad else "")
        if len(bad) > _MOST_BAD * count:
            raise UserError(note)
    return [note] if bad else []


def _entry(task: GlueTask, source: str, theirs: str, ours: str) -> str:
    """What one part of the data is called, as data.train_files would have it."""
    if source == "hub":
        return f"hub:{HUB}:{task.name}:{ours}"
    return str(Path(source) / task.folder / f"{theirs}.tsv")


def _rows(task: GlueTask, source: Source, labelled: bool) -> Iterator[dict[str, Any] | BadRow]:
    columns, header = (task.columns, task.header) if source.table is None else ({}, ())
    row_format = RowFormat(
        (text_column(), pair_column(), label_column(parse_class if task.labels else parse_number)),
        columns,
        Data(quoting="none", column_names=header if labelled else ()),
    )
    return rows_of(source, row_format if labelled else row_format.without("label"))


def _record(task: GlueTask, row: dict[str, Any], name: str, labelled: bool) -> dict[str, Any]:
    """A line of the file. Raises UserError for a label that the task does not have."""
    record = {"text": row["text"]} | ({"text_pair": row["pair"]} if task.pairs else {})
    if not labelled:
        return record
    if not task.labels:
        return {**record, "label": float(row["label"])}
    if row["label"] not in task.labels:
        raise UserError(
            f"{name}: the label {row['label']!r} is none of {', '.join(dict.fromkeys(task.labels.values()))}"
        )
    return {**record, "label": task.labels[row["label"]]}
