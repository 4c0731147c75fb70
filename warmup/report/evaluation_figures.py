"""The figures of a run's evaluations."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from warmup.report.load import Run
from warmup.report.series import thin_out
from warmup.report.theme import LINES, compact, legend, light, new_figure, shorten

_SHARES = (
    *("accuracy", "f1", "precision", "recall", "matthews", "pearson", "spearman", "exact_match"),
    *("micro_f1", "macro_f1", "subset_accuracy"),
)
MOST_CLASSES = 20
"""How many classes a confusion matrix is drawn for; of more, there is a table of what is confused most often."""


def metric_figures(run: Run) -> dict[str, Figure]:
    """The metrics of all evaluations: those between 0 and 1 together, and the perplexity. (The loss has its own.)"""
    if len(run.evaluations) < 2:
        return {}
    groups = {"metrics": [name for name in _SHARES if name in run.evaluations], "perplexity": ["perplexity"]}
    figures = {}
    for title, names in groups.items():
        if not names or names[0] not in run.evaluations:
            continue
        figure, axes = new_figure(f"Held-out {title}", "step", "")
        for name, colour in zip(names, LINES):
            x, y = thin_out(run.evaluations["step"].to_numpy(), run.evaluations[name].to_numpy(float))
            axes.plot(x, y, "o-", color=light(colour), markersize=4, linewidth=1.5, label=name)
        axes.margins(x=0.01)
        legend(axes)
        figures[title] = figure
    return figures


def confusion_figure(run: Run) -> Figure | None:
    """What was taken for what: a row for each true class, coloured by the share of it."""
    record = run.record
    names, cells = list(record.get("per_class") or ()), record.get("confusion")
    if not cells or not 2 <= len(names) <= MOST_CLASSES:
        return None
    counts = np.zeros((len(names), len(names)))
    for label, prediction, count in cells:
        counts[label, prediction] = count
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    height = 2.2 + 0.29 * len(names)
    figure, axes = new_figure("Confusion matrix: true in rows, predicted in columns", "", "", height)
    left = 0.06 + 0.0145 * max(len(shorten(name, 18)) for name in names)
    bottom = 0.45 + 0.075 * max(len(shorten(name, 18)) for name in names) if len(names) > 2 else 0.58
    axes.set_position((left, bottom / height, 0.97 - left, 1 - (bottom + 0.36) / height))
    axes.set_title(axes.get_title(loc="left"), loc="left", x=(0.015 - left) / (0.97 - left))
    for row, column in np.ndindex(counts.shape):
        share = shares[row, column]
        axes.add_patch(
            Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, color=light("blue"), alpha=0.04 + 0.6 * share)
        )
        if counts[row, column] and len(names) <= 12:
            axes.text(column, row, compact(counts[row, column]), color=light("ink"), ha="center", va="center")
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    shown = [shorten(name, 18) for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=90 if len(names) > 2 else 0)
    axes.set_yticks(range(len(names)), shown)
    axes.grid(visible=False)
    return figure


def scatter_figure(run: Run) -> Figure | None:
    """Predicted over true numbers."""
    pairs = np.array(run.record.get("pairs") or np.empty((0, 2)), float)
    if not len(pairs):
        return None
    figure, axes = new_figure("Predicted over true values", "true", "", 4.2)
    low, high = float(np.nanmin(pairs)), float(np.nanmax(pairs))
    axes.plot([low, high], [low, high], color=light("muted"), linewidth=1, linestyle="--", label="as it should be")
    axes.plot(pairs[:, 0], pairs[:, 1], "o", color=light("blue"), alpha=0.35, markersize=4, markeredgewidth=0)
    legend(axes)
    return figure
