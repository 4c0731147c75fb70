"""The report of a run or of a sweep, written into its directory when it ends."""

from __future__ import annotations

from pathlib import Path

from warmup.errors import one_line


def write_report(folder: Path) -> str:
    """Write report.html into the directory of a run, or of a sweep of seeds, once everything else is on the disk.

    Returns:
        A line for the user. A failure is a warning in it and not an error, because the run itself is complete.
    """
    try:
        from warmup import report  # which the first step need not wait for
        from warmup.report.command import PAGE

        return f"report: {report.write_page([report.load(run) for run in report.expand(folder)], folder / PAGE)}"
    except Exception as error:  # of a library, or of files that something else has changed
        return f"warning: no report: {type(error).__name__}: {one_line(error)}; python -m warmup report {folder}"


def loss_picture(folder: Path) -> bytes | None:
    """The loss of a run as a PNG picture; None if there is nothing to show, or it cannot be drawn."""
    try:
        from warmup import report
        from warmup.report.theme import to_png

        figure = report.loss_figure(report.load(folder))
        return to_png(figure) if figure else None
    except Exception:  # what goes wrong with the report, too, is said there
        return None


def report_pictures(folder: Path) -> dict[str, bytes]:
    """All figures of a run as PNG pictures by name; none if they cannot be drawn."""
    try:
        from warmup import report
        from warmup.report.theme import to_png

        return {name: to_png(figure) for name, figure in report.run_figures(report.load(folder)).items()}
    except Exception:  # as above
        return {}
