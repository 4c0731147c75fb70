"""The learning rates of several plans as a picture: over steps and over samples, with the warmup shaded."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from warmup.errors import UserError, one_line
from warmup.plan import Plan
from warmup.plan_command.results import Result, curve, ranks_text
from warmup.report.theme import LINES, compact, light, shorten, style

_LOG_FROM = 20  # times as many steps, or as high a peak, in one plan as in another: then the axis is logarithmic
_MOST_NOTES = 6


def plot(path: str, results: Sequence[Result]) -> None:
    """Plot the learning rate of each plan into a file. Raises UserError if that is impossible."""
    try:
        with style(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that matplotlib cannot draw, which it then raises as well
            plan_figure(results).savefig(path, dpi=150)
    except UserError:
        raise
    except Exception as error:  # matplotlib cannot draw all numbers that floats have
        raise UserError(f"--plot: cannot write {path}: {one_line(error)}") from None


def plan_figure(results: Sequence[Result]) -> Figure:
    """The figure, to be drawn within `theme.style`."""
    notes = _notes(results)
    planned = [result for result in results if result.plan]
    plans = [result.plan for result in results if result.plan]
    rows = 2 if any(plan.batch_start_size is not None for plan in plans) else 1
    size = (11, 4.2 + 2.4 * (rows - 1) + 0.22 * len(notes))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    grid = figure.subplots(rows, 2, sharex="col", sharey="row", squeeze=False, height_ratios=(7, 4)[:rows])
    axes = grid[0]
    for number, (result, plan) in enumerate(zip(planned, plans, strict=True)):
        colour = light(LINES[number % len(LINES)])
        _draw(axes, result, plan, colour)
        if rows == 2:
            _draw_batch(grid[1], plan, colour)
    grid[-1][0].set_ylim(bottom=0)
    _scale(axes[0], plans)
    for row, quantity in zip(grid, ("learning rate", "samples per step")):
        row[0].set_ylabel(quantity)
        for axis, name in zip(row, ("step", "samples"), strict=True):
            _label(axis, name)
    figure.suptitle("The plan at each world size; the warmup is shaded")
    if planned:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(planned), 3))
    for row, (level, text) in enumerate(notes):
        colour = light("red" if level == "error" else "orange")
        grid[-1][0].annotate(
            text, (0, 0), (0, -46 - 15 * row), xycoords="axes fraction", textcoords="offset points", color=colour,
            fontsize=9, annotation_clip=False,
        )  # fmt: skip
    return figure


def _draw(axes: Sequence[Axes], result: Result, plan: Plan, colour: str) -> None:
    """One plan over steps and over samples; a mark at its peak if the linter found something."""
    corners = {step for step in (plan.warmup_steps - 1, plan.warmup_steps) if 0 <= step < plan.total_steps}
    early = {int(plan.total_steps ** (power / 40)) for power in range(40)}  # for a logarithmic axis
    points = sorted({*curve(plan), *((step, plan.lr_at_step(step)) for step in corners | early)})
    ranks = ranks_text(plan.world_size)
    label = f"{ranks}, batch {plan.global_batch_size}, {plan.total_steps} steps"
    for axis, place in zip(axes, (_number, plan.batch_schedule.position), strict=True):
        x, y = [float(place(step)) for step, _ in points], [lr for _, lr in points]
        axis.plot(x, y, color=colour, linewidth=1.8, label=label)
        ramp = [(at, lr) for (step, _), at, lr in zip(points, x, y) if step <= plan.warmup_steps]
        axis.fill_between([at for at, _ in ramp], [lr for _, lr in ramp], color=colour, alpha=0.15, linewidth=0)
        if result.findings:
            step = min(plan.warmup_steps, plan.total_steps - 1)
            axis.plot([float(place(step))], [plan.lr_at_step(step)], "D", color=colour, markersize=7)


def _draw_batch(axes: Sequence[Axes], plan: Plan, colour: str) -> None:
    """The samples of each step of one plan, over steps and over samples."""
    phases = [phase for phase in plan.batch_schedule.phases() if phase.step < plan.total_steps]
    sizes = [phase.size for phase in (*phases, phases[-1])]
    for axis, place in zip(axes, (_number, plan.batch_schedule.position), strict=True):
        x = [float(place(step)) for step in (*(phase.step for phase in phases), plan.total_steps - 1)]
        axis.step(x, [float(size) for size in sizes], where="post", color=colour, linewidth=1.8)


def _number(step: int) -> int:
    """The number of a step, counted from 1."""
    return step + 1


def _scale(axis: Axes, plans: Sequence[Plan]) -> None:
    """Logarithmic axes where plans differ so much that some could not be seen on others."""
    axis.set_ylim(bottom=0)
    if not plans:
        return
    steps, peaks = [plan.total_steps for plan in plans], [plan.peak_lr for plan in plans]
    if max(steps) > _LOG_FROM * min(steps):
        axis.set_xscale("log")
    if max(peaks) > _LOG_FROM * min(peaks):
        axis.set_yscale("log")
        axis.set_ylim(bottom=min(peaks) / 50)


def _label(axis: Axes, name: str) -> None:
    axis.set_xlabel(name)
    axis.grid(color=light("grid"), linewidth=0.8)
    axis.set_axisbelow(True)
    axis.margins(x=0.01)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def _notes(results: Sequence[Result]) -> list[tuple[str, str]]:
    """(level, text) of the findings, each once."""
    found: dict[tuple[str, str], list[int]] = {}
    for result in results:
        for finding in result.findings:
            found.setdefault((finding.level, finding.code), []).append(result.world_size)
    notes = [
        (level, shorten(f"{level} [{code}] at {ranks_text(*sizes)}", 70)) for (level, code), sizes in found.items()
    ]
    return notes[:_MOST_NOTES]
