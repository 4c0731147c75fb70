"""A report as one page of HTML: it opens offline, and fetches and runs nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from warmup.report import tables
from warmup.report.comparison import comparison_figures, short_names
from warmup.report.figures import run_figures
from warmup.report.load import Run
from warmup.report.theme import css_variables, printable, to_png, to_svg

_EVALUATED = ("metrics", "perplexity", "confusion", "scatter")
"""Figures that stand with the evaluation."""


def write_page(
    runs: Sequence[Run], path: str | Path, over: str = "samples", figures: Mapping[str, Figure] | None = None
) -> Path:
    """Write the report of one run, or the comparison of several.

    Args:
        runs: at least one.
        path: of the page, which is replaced.
        over: what several runs are compared over: steps, samples, tokens or time.
        figures: those of the run, or of the comparison, if they have been drawn already.

    Returns:
        The path.
    """
    path = Path(path)
    if figures is None:
        figures = run_figures(runs[0]) if len(runs) == 1 else comparison_figures(runs, over)
    stage = path.with_name(f".{path.name}.stage")
    stage.write_text(page(runs, figures), encoding="utf-8", errors="replace")
    return stage.replace(path)  # a reader sees the old page or the new one, never a part of it


def page(runs: Sequence[Run], figures: Mapping[str, Figure]) -> str:
    """The HTML of a report. Arguments as of `write_page`."""
    content = _one(runs[0], figures) if len(runs) == 1 else _several(runs, figures)
    return _template().render(light=Markup(css_variables(False)), dark=Markup(css_variables(True)), **content)


def write_pictures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write each figure as a PNG file, in a folder that is made. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / (re.sub(r"\W+", "_", name.lower()) + ".png"))
        paths[-1].write_bytes(to_png(figure))
    return paths


def _one(run: Run, figures: Mapping[str, Figure]) -> dict[str, Any]:
    classes, classes_note = tables.class_rows(run)
    examples, labelled = tables.example_rows(run)
    return {
        "title": run.name,
        "single": True,
        "task": run.config.get("task", ""),
        "headline": tables.headline(run),
        "figures": _svgs(figures, lambda name: name not in _EVALUATED),
        "evaluated": _svgs(figures, lambda name: name in _EVALUATED),
        "plan": tables.plan_rows(run),
        "findings": tables.findings(run),
        "kind": run.record.get("kind", "class"),
        "step": run.record.get("step"),
        "classes": classes,
        "classes_note": classes_note,
        "confused": tables.confused_rows(run),
        "events": tables.event_rows(run),
        "examples": examples,
        "labelled": labelled,
        "facts": tables.run_rows(run),
        "config": yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True) if run.config else "",
    }


def _several(runs: Sequence[Run], figures: Mapping[str, Figure]) -> dict[str, Any]:
    names = short_names(runs)
    head, rows = tables.comparison_rows(runs, names)
    return {
        "title": f"{len(runs)} runs",
        "single": False,
        "task": ", ".join(dict.fromkeys(str(run.config.get("task", "")) for run in runs)),
        "figures": _svgs(figures, lambda name: True),
        "head": head,
        "rows": rows,
        "names": names,
        "differences": tables.difference_rows(runs),
        "folders": [str(run.folder) for run in runs],
    }


def _svgs(figures: Mapping[str, Figure], chosen: Any) -> list[Markup]:
    return [Markup(to_svg(figure, name)) for name, figure in figures.items() if chosen(name)]


def _template() -> jinja2.Template:
    source = files("warmup.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, finalize=_visible, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(source)


def _visible(value: Any) -> Any:
    """A text without what browsers cannot show, or that turns the letters behind it around."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(printable(line) for line in value.split("\n"))
