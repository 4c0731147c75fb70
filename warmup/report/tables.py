"""The tables of a report: rows of text, made from what a run directory says."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from warmup.duration import seconds_text
from warmup.explain import explain_plan
from warmup.report.evaluation_figures import MOST_CLASSES
from warmup.report.figures import has_changed
from warmup.report.load import Run
from warmup.report.theme import shorten

MOST_ROWS = 60
"""How many rows a table of a page has at most."""
_CELL = 80  # characters of a class's name
Row = tuple[str, ...]


def headline(run: Run) -> list[tuple[str, str]]:
    """(name, value) of what one wants to know first."""
    result, record = run.result, run.record
    metrics = result.get("metrics") or record.get("metrics") or {}
    shown = [(name, number(value, 4)) for name, value in metrics.items() if name != "targets"]
    steps = last_step(run)
    total = result.get("total_steps") or (run.plan.total_steps if run.plan else None)
    early = " (early)" if result.get("stopped_early") else ""
    ranks = result.get("world_size") or (run.plan.world_size if run.plan else None)
    rows = [
        ("outcome", f"{result.get('outcome', 'going on, or ended without a result')}{early}"),
        *shown,
        ("steps", f"{steps:,}" + (f" of {total:,}" if total else "")),
        ("samples", f"{int(run.train['samples'].iloc[-1]):,}" if len(run.train) else "0"),
        ("ranks", str(ranks or "?")),
    ]
    if len(run.train) and run.train["seconds"].notna().all():
        rows.append(("training time", seconds_text(float(run.train["seconds"].iloc[-1]))))
    return rows


def last_step(run: Run) -> int:
    """The last step that the run's files know of."""
    return int(run.result.get("step") or (run.train["step"].iloc[-1] if len(run.train) else 0))


def plan_rows(run: Run) -> Sequence[Row]:
    """(name, value, how it was computed), as at the start of the run."""
    plan = list(explain_plan(run.plan)) if run.plan else []
    return [*plan, *((str(name), str(value), "") for name, value in (run.facts.get("facts") or {}).items())]


def findings(run: Run) -> list[Mapping[str, Any]]:
    """The linter's."""
    return [finding for finding in run.facts.get("findings") or [] if isinstance(finding, Mapping)]


def class_rows(run: Run) -> tuple[Sequence[Row], str]:
    """(name, precision, recall, F1, support) of each class, and a note where some are left out: then those with the
    lowest F1 are shown.
    """
    rows = list((run.record.get("per_class") or {}).items())
    note = ""
    if len(rows) > MOST_ROWS:
        note = (
            f"The {MOST_ROWS} with the lowest F1 that are labels of something, of {len(rows)}; evaluation.json has all."
        )
        rows = sorted((row for row in rows if row[1]["support"]), key=lambda row: row[1]["f1"])[:MOST_ROWS]
    names = ("precision", "recall", "f1")
    shown = [(shorten(name, _CELL), *(f"{row[key]:.3f}" for key in names), f"{row['support']:,}") for name, row in rows]
    return shown, note


def confused_rows(run: Run) -> Sequence[Row]:
    """(true class, predicted class, how often) of what is confused most often, where no matrix is drawn."""
    names = list(run.record.get("per_class") or {})
    if len(names) <= MOST_CLASSES:
        return []
    wrong = [cell for cell in run.record.get("confusion") or [] if cell[0] != cell[1]]
    worst = sorted(wrong, key=lambda cell: -cell[2])[:20]
    return [(shorten(names[label], _CELL), shorten(names[pred], _CELL), f"{count:,}") for label, pred, count in worst]


def example_rows(run: Run) -> tuple[Sequence[Row], bool]:
    """(loss, label, prediction, text) of the hardest examples, and whether they have one label each."""
    examples = run.record.get("examples") or []
    labelled = any("label" in example for example in examples)
    keys = ("label", "prediction")
    cells = [
        (number(row["loss"]), *(shorten(_text(row.get(key, "")), _CELL) for key in keys), row["text"])
        for row in examples
    ]
    return [row if labelled else (row[0], row[-1]) for row in cells], labelled


def event_rows(run: Run) -> Sequence[Row]:
    """(step, what happened), in order; of many, the first and the last ones."""
    rows = [(f"{event['step']:,}", text) for event in run.events if (text := _describe(event))]
    if len(rows) <= MOST_ROWS:
        return rows
    half = MOST_ROWS // 2
    return [*rows[:half], ("\u2026", f"{len(rows) - 2 * half:,} more"), *rows[-half:]]


def _describe(event: Mapping[str, Any]) -> str:
    """An event in words; "" for a checkpoint, of which there are many."""
    if event["kind"] in ("resumed", "branched"):
        names = {"world_size": "ranks", "global_batch_size": "global batch", "lr": "learning rate"}
        changes = [
            f"{text} {number(event[f'{name}_before'])} \u2192 {number(event[name])}"
            for name, text in names.items()
            if event.get(f"{name}_before") != event.get(name)
        ]
        began = "resumed" if event["kind"] == "resumed" else f"branched off from {event.get('from')}"
        return began + (", changed: " if has_changed(event) else ", ") * bool(changes) + ", ".join(changes)
    if event["kind"] == "skipped":
        return f"a step was skipped: its gradient norm was {event.get('grad_norm')}"
    if event["kind"] == "spike":
        return f"the loss jumped to {number(event.get('loss'))}, score {number(event.get('score'))}"
    if event["kind"] == "left out":
        rows = [str(row) for row in event.get("rows") or []]
        return f"{len(rows)} unusable rows were left out: {'; '.join(rows[:3])}"
    return ""


def run_rows(run: Run) -> list[tuple[str, str]]:
    """(name, value): command, hardware, versions."""
    facts = run.facts
    command = facts.get("command")
    versions = facts.get("versions") or run.result.get("versions") or {}
    rows = [("directory", str(run.folder))]
    if command:
        rows.append(("command", shlex.join(map(str, command))))
    rows += [(str(name), str(value)) for name, value in (facts.get("hardware") or {}).items()]
    if facts.get("parameters"):
        rows.append(("parameters", f"{facts['parameters']:,}"))
    return [*rows, ("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))]


def comparison_rows(runs: Sequence[Run], names: Sequence[str]) -> tuple[Row, Sequence[Row]]:
    """Head and rows of a table with a row for each run."""
    metrics = list(dict.fromkeys(name for run in runs for name in _metrics(run) if name != "targets"))
    head = ("run", "outcome", "steps", "ranks", "global batch", "peak lr", "time", *metrics)
    rows: list[Row] = []
    for run, name in zip(runs, names, strict=True):
        plan, found = run.plan, _metrics(run)
        trained = run.train["seconds"].max() if len(run.train) else float("nan")
        rows.append(
            (
                shorten(name, 40),
                str(run.result.get("outcome", "-")),
                f"{last_step(run):,}",
                *((str(plan.world_size), str(plan.global_batch_size), number(plan.peak_lr)) if plan else ("-",) * 3),
                seconds_text(trained) if trained == trained else "-",
                *(number(found.get(metric)) for metric in metrics),
            )
        )
    if len(runs) > 1 and [row[0] for row in difference_rows(runs)] == ["seed"]:
        rows += _statistics(runs, metrics, len(head) - len(metrics))
    return head, rows


def _statistics(runs: Sequence[Run], metrics: Sequence[str], columns: int) -> Sequence[Row]:
    """Mean and sample standard deviation of each metric, in the last columns of two rows."""
    table = pandas.DataFrame([_metrics(run) for run in runs])
    cells = {"mean": table.mean(), "standard deviation": table.std()}
    return [
        (name, *[""] * (columns - 1), *(number(float(values[metric])) for metric in metrics))
        for name, values in cells.items()
    ]


def difference_rows(runs: Sequence[Run]) -> Sequence[Row]:
    """(field, value in each run) of the fields of the configuration in which runs differ."""
    flat = [dict(_leaves(run.config)) for run in runs]
    fields = list(dict.fromkeys(name for fields in flat for name in fields))
    values = [(name, [_text(fields.get(name)) for fields in flat]) for name in fields]
    return [(name, *(shorten(value, 60) for value in row)) for name, row in values if len(set(row)) > 1][:MOST_ROWS]


def _metrics(run: Run) -> Mapping[str, Any]:
    return run.result.get("metrics") or run.record.get("metrics") or {}


def _leaves(content: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(content, Mapping):
        return [(prefix, content)]
    return [
        leaf for name, value in content.items() for leaf in _leaves(value, f"{prefix}.{name}" if prefix else str(name))
    ]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def number(value: Any, digits: int = 5) -> str:
    """A number with so many digits; a dash for none."""
    return f"{value:.{digits}g}" if isinstance(value, (int, float)) else "-"
