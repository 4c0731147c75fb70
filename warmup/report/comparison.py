"""Several runs in one figure each for loss, rate and speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from warmup.report.load import AXES, Run
from warmup.report.series import POINTS, readable_limit, smooth, thin_out
from warmup.report.theme import LINES, legend, light, new_figure, shorten, style

_LABELS = {"steps": "step", "samples": "samples", "tokens": "tokens", "time": "seconds"}


def comparison_figures(runs: Sequence[Run], over: str = "samples") -> dict[str, Figure]:
    """Figures that overlay runs, by name.

    Args:
        runs: at least one.
        over: the horizontal axis: one of steps, samples, tokens, time.
    """
    columns = {"loss": "Training loss, running mean", "lr": "Learning rate", "samples_per_second": "Samples per second"}
    names = [shorten(name) for name in short_names(runs)]
    with style():
        figures = {column: _trained(runs, names, column, title, over) for column, title in columns.items()}
        for metric in _metrics(runs):
            figures[f"Held-out {metric}"] = _evaluated(runs, names, metric, over)
    return {name: figure for name, figure in figures.items() if figure is not None}


def short_names(runs: Sequence[Run]) -> list[str]:
    """The last parts of the runs' paths, as many as tell them apart."""
    parts = [run.folder.resolve().parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {run.name}" for number, run in enumerate(runs, 1)]  # the same run twice


def _metrics(runs: Sequence[Run]) -> list[str]:
    """Metrics that all runs were evaluated by, except how many targets there were; none if each run was evaluated once
    only, where a table says as much.
    """
    if all(len(run.evaluations) < 2 for run in runs):
        return []
    found = [set(run.evaluations.columns) - {"step", "consumed_samples", "targets"} for run in runs]
    common = set.intersection(*found)
    return [name for name in runs[0].evaluations.columns if name in common]


def _trained(runs: Sequence[Run], names: Sequence[str], column: str, title: str, over: str) -> Figure | None:
    if not any(column in run.train and run.train[column].notna().any() for run in runs):
        return None
    figure, axes = new_figure(title, _LABELS[over], "")
    tops = []
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        if column not in run.train:
            continue
        y = run.train[column].to_numpy()
        y = y if column == "lr" or len(y) <= 20 else smooth(y)
        tops.append(readable_limit(y) if column == "loss" else None)
        drawn = thin_out(run.train[AXES[over]].to_numpy(), y, POINTS // 2)
        axes.plot(*drawn, label=name, **_line(number))
    if tops and all(tops):
        axes.set_ylim(top=max(filter(None, tops)))
    legend(axes, _columns(names))
    return figure


def _evaluated(runs: Sequence[Run], names: Sequence[str], metric: str, over: str) -> Figure:
    figure, axes = new_figure(f"Held-out {metric}", _LABELS[over], "")
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        x = run.positions(run.evaluations["step"], over)
        axes.plot(x, run.evaluations[metric].to_numpy(float), marker="o", label=name, **_line(number))
    legend(axes, _columns(names))
    return figure


def _columns(names: Sequence[str]) -> int:
    """How many names fit in a row of the legend."""
    longest = max(map(len, names))
    return 5 if longest <= 8 else 3 if longest <= 14 else 2


def _line(number: int) -> dict[str, Any]:
    """Colour and dashes of a line: other dashes where the colours begin again."""
    dashes = ("-", "--", ":", "-.")
    return {
        "color": light(LINES[number % len(LINES)]),
        "linestyle": dashes[number // len(LINES) % len(dashes)],
        "linewidth": 1.6,
    }
