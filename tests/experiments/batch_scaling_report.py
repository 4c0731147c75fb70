"""Table and picture of the experiment in batch_scaling.py, from the files of its runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from warmup.report.theme import LINES, compact, light, style
from warmup.training.files import staged_file, write_text

NAMES = {"sgd": "SGD", "sgd at a quarter of the rate": "SGD, lr / 4", "adamw": "AdamW"}
ABOVE = 0.6
"""How far above the reference's first loss a panel goes; what is higher is cut off."""
Curve = Mapping[int, float]


@dataclass(frozen=True)
class Experiment:
    """All results, by the name of the run."""

    runs: Mapping[str, Mapping[str, Any]]
    run_name: Callable[[str, Fraction, str, int], str]
    rates: Mapping[str, float]
    seeds: Sequence[int]
    rules: Sequence[str]
    scales: Sequence[Fraction]

    def of(self, optimizer: str, scale: Fraction, rule: str) -> list[Mapping[str, Any]]:
        """The runs of all seeds."""
        return [self.runs[self.run_name(optimizer, scale, rule, seed)] for seed in self.seeds]

    def distances(self, optimizer: str, scale: Fraction, rule: str) -> list[float]:
        """Of each seed whose run did not diverge, the distance to the reference run of that seed."""
        pairs = zip(self.of(optimizer, scale, rule), self.of(optimizer, Fraction(1), "linear"), strict=True)
        return [distance(curve(run), curve(reference)) for run, reference in pairs if run["loss"] is not None]

    def noise(self, optimizer: str) -> float:
        """The mean distance between the reference runs of two seeds."""
        runs = self.of(optimizer, Fraction(1), "linear")
        return statistics.mean(distance(curve(one), curve(other)) for one, other in combinations(runs, 2))


def curve(run: Mapping[str, Any]) -> dict[int, float]:
    """The held-out losses by the samples trained on, without that of the initial weights, which all runs share."""
    return {int(samples): loss for samples, loss in run["held_out"].items() if int(samples)}


def distance(one: Curve, other: Curve) -> float:
    """The mean absolute difference of two curves over the samples at which both were taken."""
    return statistics.mean(abs(one[samples] - other[samples]) for samples in one.keys() & other.keys())


def write_report(out: Path, experiment: Experiment) -> None:
    """table.md, batch_scaling.svg and batch_scaling.png in the folder `out`."""
    text = "\n".join([*short_table(experiment), "", *table(experiment)]) + "\n"
    write_text(out / "table.md", text)
    print(text)
    with style():
        picture = figure(experiment)
        for suffix in ("svg", "png"):
            with staged_file(out / f"batch_scaling.{suffix}") as stage:
                picture.savefig(stage, format=suffix, dpi=120, metadata={"Date": None} if suffix == "svg" else None)
    seconds = sum(run["seconds"] for run in experiment.runs.values())
    print(f"{len(experiment.runs)} runs, {seconds / 60:.0f} minutes in all; {out}")


def short_table(experiment: Experiment) -> Iterator[str]:
    """Markdown: the distances to the reference run, with a row for each optimizer and rule and a column for each k."""
    scales = sorted(scale for scale in experiment.scales if scale != 1)
    yield row("optimizer", "rule", *(f"k = {scale}" for scale in scales))
    yield "|---|---" + "|---" * len(scales) + "|"
    for optimizer in experiment.rates:
        yield row(f"**{NAMES[optimizer]}**", "seeds at k = 1", *[f"{experiment.noise(optimizer):.3f}"] * len(scales))
        for rule in experiment.rules:
            cells = [distance_cell(experiment, optimizer, scale, rule) for scale in scales]
            yield row(NAMES[optimizer], rule, *cells)


def distance_cell(experiment: Experiment, optimizer: str, scale: Fraction, rule: str) -> str:
    """The mean distance and its standard deviation; how many runs diverged, if one did."""
    runs = experiment.of(optimizer, scale, rule)
    distances = experiment.distances(optimizer, scale, rule)
    diverged = f"{len(runs) - len(distances)} of {len(runs)} diverged"
    return spread(distances) if len(distances) == len(runs) else diverged


def table(experiment: Experiment) -> Iterator[str]:
    """Markdown: a row for each optimizer, scale and rule, with the mean and the standard deviation over the seeds."""
    yield "| optimizer | k | rule | peak lr | warmup / steps | held-out loss | distance to k = 1 | diverged |"
    yield "|---|---|---|---|---|---|---|---|"
    for optimizer, lr in experiment.rates.items():
        reference = [run["loss"] for run in experiment.of(optimizer, Fraction(1), "linear")]
        noise = f"{experiment.noise(optimizer):.3f} between seeds"
        plan = experiment.of(optimizer, Fraction(1), "linear")[0]["plan"]
        yield row(
            NAMES[optimizer],
            "1",
            "with warmup",
            f"{lr:g}",
            lengths(plan),
            spread(reference),
            noise,
            f"0 of {len(reference)}",
        )
        for scale in experiment.scales:
            rules = [rule for rule in experiment.rules if scale != 1 or "no warmup" in rule]
            for rule in rules:
                yield cell_row(experiment, optimizer, scale, rule)


def cell_row(experiment: Experiment, optimizer: str, scale: Fraction, rule: str) -> str:
    """The row of one optimizer, scale and rule."""
    runs = experiment.of(optimizer, scale, rule)
    start = (NAMES[optimizer], str(scale), rule)
    losses = [run["loss"] for run in runs if run["loss"] is not None]
    plan, diverged = runs[0]["plan"], len(runs) - len(losses)
    distances = spread(experiment.distances(optimizer, scale, rule))
    numbers = (f"{plan['peak_lr']:.3g}", lengths(plan), spread(losses), distances)
    return row(*start, *numbers, f"{diverged} of {len(runs)}")


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def lengths(plan: Mapping[str, Any]) -> str:
    return f"{plan['warmup_steps']} / {plan['total_steps']}"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def figure(experiment: Experiment) -> Figure:
    """A panel for each optimizer and scale other than 1: the mean curves of the rules, and the reference's."""
    scales = sorted(scale for scale in experiment.scales if scale != 1)
    picture = Figure(figsize=(11, 2.8 * len(experiment.rates) + 0.8), layout="constrained", facecolor="white")
    panels = picture.subplots(len(experiment.rates), len(scales), sharex=True, sharey="row", squeeze=False)
    for line, optimizer in zip(panels, experiment.rates, strict=True):
        for axes, scale in zip(line, scales, strict=True):
            draw(axes, experiment, optimizer, scale)
        top = max(curve(run)[min(curve(run))] for run in experiment.of(optimizer, Fraction(1), "linear")) + ABOVE
        line[0].set_ylim(top=min(line[0].get_ylim()[1], top))
        line[0].set_ylabel(f"{NAMES[optimizer]}: held-out loss")
    for axes in panels[-1]:
        axes.set_xlabel("samples")
    handles = dict(reversed([pair for axes in panels.flat for pair in zip(*axes.get_legend_handles_labels()[::-1])]))
    names = ["k = 1", *experiment.rules]
    picture.legend([handles[name] for name in names if name in handles], [name for name in names if name in handles],
                   loc="outside lower center", ncols=len(names))  # fmt: skip
    picture.suptitle("Held-out loss at equal samples, mean of the seeds; shaded: all seeds of the reference")
    return picture


def draw(axes: Axes, experiment: Experiment, optimizer: str, scale: Fraction) -> None:
    """One panel. A rule whose runs all diverged is missing, one of which some did ends in a cross."""
    references = [curve(run) for run in experiment.of(optimizer, Fraction(1), "linear")]
    samples = sorted(references[0])
    at = [[one[position] for one in references] for position in samples]
    axes.fill_between(samples, [min(each) for each in at], [max(each) for each in at], color=light("grid"))
    axes.plot(samples, [statistics.mean(each) for each in at], "--", color=light("ink"), label="k = 1")
    for rule, colour in zip(experiment.rules, LINES, strict=False):
        runs = experiment.of(optimizer, scale, rule)
        curves = [curve(run) for run in runs if run["loss"] is not None]
        if curves:
            means = [statistics.mean(one[position] for one in curves) for position in samples]
            mark = "x" if len(curves) < len(runs) else ""
            axes.plot(samples, means, color=light(colour), label=rule, marker=mark, markevery=[-1])
    axes.set_title(f"k = {scale}", loc="left")
    axes.grid(color=light("grid"), linewidth=0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def read_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """All results, the tuning's too, by the name of the run."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
