"""The figures of one run: what it learned, at which rates, how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from warmup.report.evaluation_figures import confusion_figure, metric_figures, scatter_figure
from warmup.report.load import Run
from warmup.report.series import POINTS, readable_limit, smooth, thin_out
from warmup.report.theme import legend, light, new_figure, style


def run_figures(run: Run) -> dict[str, Figure]:
    """All figures that there is something to show in, by name: those of matplotlib, in light colours."""
    makers = {
        "loss": _loss_figure,
        "learning rate": lr_figure,
        "batch": batch_figure,
        "gradient norm": norm_figure,
        "throughput": throughput_figure,
        "time": time_figure,
        "noise scale": noise_figure,
    }
    with style():
        figures = {name: make(run) for name, make in makers.items()}
        figures |= metric_figures(run)
        figures |= {"confusion": confusion_figure(run), "scatter": scatter_figure(run)}
    return {name: figure for name, figure in figures.items() if figure is not None}


def loss_figure(run: Run) -> Figure | None:
    """The training loss, its running mean, evaluations and spikes; None where nothing is known of it."""
    with style():
        return _loss_figure(run)


def _loss_figure(run: Run) -> Figure | None:
    if not run.train["loss"].notna().any() and "loss" not in run.evaluations:
        return None
    figure, axes = new_figure("Loss", "step", "")
    steps, losses = run.train["step"].to_numpy(), run.train["loss"].to_numpy()
    limit = readable_limit(losses)
    curve(axes, steps, losses, "blue", "training")
    if "loss" in run.evaluations:
        axes.plot(
            *thin_out(run.evaluations["step"].to_numpy(), run.evaluations["loss"].to_numpy(float)),
            "o-", color=light("orange"), markersize=5, linewidth=1.5, label="held out",
        )  # fmt: skip
    if spikes := run.of_kind("spike"):
        heights = np.minimum([float(spike["loss"]) for spike in spikes], limit or np.inf)
        points(axes, [spike["step"] for spike in spikes], heights, "v", "red", "spike")
    if limit is not None:
        axes.set_ylim(top=limit)
    return finished(axes, run, figure)


def lr_figure(run: Run) -> Figure | None:
    """The rate that each logged step used, on the plan's."""
    steps, rates = run.train["step"].to_numpy(), run.train["lr"].to_numpy()
    if not len(steps) and run.plan is None:
        return None
    figure, axes = new_figure("Learning rate", "step", "")
    if planned := planned_lr(run):
        axes.plot(*planned, color=light("orange"), alpha=0.45, linewidth=5, label="planned")
    axes.plot(*thin_out(steps, rates), color=light("blue"), linewidth=1.5, label="applied")
    if run.plan is not None and run.plan.warmup_steps:
        axes.axvspan(0, run.plan.warmup_steps, color=light("muted"), alpha=0.12, linewidth=0, label="warmup")
    axes.set_ylim(bottom=0)
    return finished(axes, run, figure)


def planned_lr(run: Run) -> tuple[list[int], list[float]] | None:
    """(steps, counted from 1, rates) of the plan; None where there is none, or its own function is not here."""
    plan = run.plan
    if plan is None:
        return None
    corners = {plan.warmup_steps - 1, plan.warmup_steps, plan.total_steps - 1}
    chosen = {*range(0, plan.total_steps, max(1, plan.total_steps // 400)), *corners}
    steps = sorted(step for step in chosen if 0 <= step < plan.total_steps)
    try:
        return [step + 1 for step in steps], [plan.lr_at_step(step) for step in steps]
    except Exception:  # a function of the user's, which may do anything
        return None


def batch_figure(run: Run) -> Figure | None:
    """The samples of a step, where the plan lets them grow."""
    if run.plan is None or run.plan.batch_start_size is None:
        return None
    figure, axes = new_figure("Samples of a step", "step", "")
    phases = list(run.plan.batch_schedule.phases())
    steps = [phase.step + 1 for phase in phases] + [max(run.plan.total_steps, phases[-1].step + 1)]
    sizes = [phase.size for phase in phases]
    axes.step(steps, [*sizes, sizes[-1]], where="post", color=light("orange"), alpha=0.45, linewidth=5, label="planned")
    logged, samples = run.train["step"].to_numpy(), run.train["samples"].to_numpy()
    between, sizes = (logged[:-1] + 1 + logged[1:]) / 2, np.diff(samples) / np.diff(logged)
    axes.plot(*thin_out(between, sizes), color=light("blue"), linewidth=1.5, label="trained on")
    axes.set_ylim(bottom=0)
    return finished(axes, run, figure)


def norm_figure(run: Run) -> Figure | None:
    """The norm of the gradient, the limit that it is clipped to, and the steps that were skipped."""
    steps, norms = run.train["step"].to_numpy(), run.train["grad_norm"].to_numpy()
    if not np.isfinite(norms).any():
        return None
    figure, axes = new_figure("Gradient norm, before clipping", "step", "")
    curve(axes, steps, norms, "green", "")
    positive = norms[np.isfinite(norms) & (norms > 0)]
    if len(positive) and positive.max() > 100 * np.median(positive):
        axes.set_yscale("log")
    if run.plan is not None and run.plan.max_grad_norm > 0:
        axes.axhline(run.plan.max_grad_norm, color=light("orange"), linewidth=1.2, linestyle="--", label="clipped to")
    if skipped := run.of_kind("skipped"):
        height = np.nanmax(norms[np.isfinite(norms)])
        points(axes, [event["step"] for event in skipped], np.full(len(skipped), height), "x", "red", "skipped")
    return finished(axes, run, figure)


def throughput_figure(run: Run) -> Figure | None:
    """Samples per second."""
    if "samples_per_second" not in run.train or not run.train["samples_per_second"].notna().any():
        return None
    figure, axes = new_figure("Samples per second", "step", "")
    curve(axes, run.train["step"].to_numpy(), run.train["samples_per_second"].to_numpy(), "purple", "")
    axes.set_ylim(bottom=0)
    return finished(axes, run, figure)


def noise_figure(run: Run) -> Figure | None:
    """The gradient noise scale and its interval, where they are known. The interval may have no upper end."""
    names = ("noise_scale", "noise_scale_low", "noise_scale_high")
    scale, low, high = (run.train.get(name, run.train["step"] * np.nan).to_numpy() for name in names)
    known = np.isfinite(low)
    if not known.any():
        return None
    figure, axes = new_figure("Gradient noise scale, in samples", "step", "")
    steps, top = run.train["step"].to_numpy(), 2 * np.nanmax([scale[known], low[known]])
    drawn = np.flatnonzero(known)[:: -(-known.sum() // POINTS)]
    axes.fill_between(
        steps[drawn], low[drawn], np.where(np.isfinite(high), high, top)[drawn], color=light("teal"), alpha=0.18,
        linewidth=0, label="95 % interval",
    )  # fmt: skip
    axes.plot(*thin_out(steps, scale), color=light("teal"), linewidth=1.8, label="estimate")
    axes.set_ylim(0, top)
    return finished(axes, run, figure)


def time_shares(run: Run) -> dict[str, float]:
    """Where the time of the logged steps went, in seconds by name; {} in logs that do not say."""
    train = run.train
    if not len(train) or "samples_per_second" not in train or train["seconds"].isna().any():
        return {}
    samples = train["samples"].diff().fillna(train["samples"].iloc[0] - _first_samples(run)).clip(lower=0)
    seconds = (samples / train["samples_per_second"].where(train["samples_per_second"] > 0)).fillna(0)
    shares = {"waiting for data": "data_wait_share", "waiting for gradients": "communication_share"}
    waits = {name: float((seconds * train[column]).sum()) for name, column in shares.items() if column in train}
    saving = sum(float(event.get("seconds_waited", 0)) for event in run.of_kind("checkpoint"))
    rest = float(train["seconds"].iloc[-1] - seconds.sum()) - saving
    computing = float(seconds.sum()) - sum(waits.values())
    return {"computing": computing, **waits, "saving": saving, "evaluation and start": max(rest, 0.0)}


def _first_samples(run: Run) -> int:
    """The position that the run began to log at: above 0 where it began at another run's checkpoint."""
    starts = [event.get("samples", 0) for event in run.events[:1] if event["kind"] in ("resumed", "branched")]
    return starts[0] if starts else 0


def time_figure(run: Run) -> Figure | None:
    """Where the time went: a bar for each part."""
    shares = time_shares(run)
    if not shares or not sum(shares.values()) > 0:
        return None
    figure, axes = new_figure("Where the time went", "seconds", "")
    axes.set_position((0.29, 0.15, 0.6, 0.74))
    axes.set_title(axes.get_title(loc="left"), loc="left", x=-0.455)
    names, total = list(shares), sum(shares.values())
    axes.barh(names, list(shares.values()), color=light("blue"), height=0.62)
    for row, seconds in enumerate(shares.values()):
        axes.annotate(
            _percentage(seconds / total), (seconds, row), (4, 0), textcoords="offset points",
            va="center", color=light("ink"),
        )  # fmt: skip
    axes.invert_yaxis()
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="y", visible=False)
    return figure


def _percentage(share: float) -> str:
    return "< 0.1%" if 0 < share < 0.001 else f"{100 * share:.1f}%"


def curve(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, name: str) -> None:
    """A noisy series, faint, under its running mean.

    Args:
        axes: where.
        x: (n,), ascending.
        y: (n,).
        colour: its name.
        name: for the legend; "" for none.
    """
    smoothed = smooth(y)
    noisy = len(y) > 20
    if noisy:
        axes.plot(*thin_out(x, y, POINTS), color=light(colour), alpha=0.3, linewidth=0.8)
    drawn = thin_out(x, smoothed if noisy else y, POINTS // 2)
    label = "running mean" if noisy else name or "_"
    axes.plot(*drawn, color=light(colour), linewidth=1.8, label=label, marker="o" if len(y) == 1 else "")


def points(axes: Axes, x: Sequence[float], y: np.ndarray, marker: str, colour: str, name: str) -> None:
    """Marks at points: at most 200 of them.

    Args:
        axes: where.
        x: (n,).
        y: (n,).
        marker: matplotlib's letter for its shape.
        colour: its name.
        name: for the legend.
    """
    every = -(-len(x) // 200)
    axes.plot(x[::every], y[::every], marker, color=light(colour), markersize=6, label=name, clip_on=False)


def finished(axes: Axes, run: Run, figure: Figure) -> Figure:
    """Mark where the run was resumed, fit the horizontal axis, and add the legend."""
    resumed = run.of_kind("resumed")
    named: set[str] = set()
    for event in resumed[-100:]:
        name, colour = ("resumed, changed", "red") if has_changed(event) else ("resumed", "muted")
        label = "_" if name in named else name  # in the legend once
        axes.axvline(event["step"], color=light(colour), linewidth=1.2, linestyle=":", label=label)
        named.add(name)
    axes.margins(x=0.01)
    legend(axes)
    return figure


def has_changed(event: Mapping[str, Any]) -> bool:
    """Whether a run was resumed on other ranks or with another global batch."""
    return any(event.get(f"{name}_before") != event.get(name) for name in ("world_size", "global_batch_size"))
