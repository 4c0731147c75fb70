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
