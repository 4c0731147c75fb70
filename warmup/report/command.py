"""`python -m warmup report RUN [RUN ...]`: write the page of a run again, or compare several."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from warmup.errors import UserError
from warmup.report.comparison import comparison_figures
from warmup.report.figures import run_figures
from warmup.report.load import AXES, expand, load
from warmup.report.page import write_page, write_pictures

PAGE = "report.html"
"""The name of the page in a run directory."""
PICTURES = "figures"
"""The folder beside it that --png writes to."""


def main(argv: Sequence[str]) -> int:
    """Run the command. Returns its exit code; raises UserError for what the user can mend."""
    options = _parser().parse_args(argv)
    folders = [folder for given in options.runs for folder in expand(given)]
    runs = [load(folder) for folder in folders]
    page = Path(options.output or _default_output(options.runs))
    figures = run_figures(runs[0]) if len(runs) == 1 else comparison_figures(runs, options.over)
    try:
        print(write_page(runs, page, options.over, figures))
        if options.png:
            print(*write_pictures(figures, page.parent / PICTURES), sep="\n")
    except OSError as error:
        raise UserError(f"--output: {error.filename or page}: {error.strerror or error}") from error
    return 0


def _default_output(given: Sequence[str]) -> Path:
    """In the directory of the one run, or of the sweep; else in the working directory."""
    return Path(given[0]) / PAGE if len(given) == 1 else Path(PAGE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m warmup report",
        description="Write the report of a run as one page of HTML, or overlay several runs. The directory of a sweep "
        "of seeds stands for all its runs.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directory of a run")
    parser.add_argument("--output", metavar="HTML", help=f"the page (default: RUN/{PAGE}; of several runs ./{PAGE})")
    parser.add_argument(
        "--over", choices=tuple(AXES), default="samples", help="what several runs are drawn over (default: samples)"
    )
    parser.add_argument(
        "--png", action="store_true", help=f"write each figure to the folder {PICTURES} beside the page"
    )
    return parser
