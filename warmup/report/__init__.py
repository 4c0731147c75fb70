"""A run seen afterwards: its tables, its figures, and one page that holds all of it. Needs no torch.

In a notebook, with the directory of a run:

    from warmup import report

    run = report.load("runs/mine")
    run.train.plot("step", "loss")     # a pandas table with a row for each logged step
    report.run_figures(run)["loss"]    # figures of matplotlib, by name
    report.write_page([run], "report.html")
"""

from warmup.report.comparison import comparison_figures
from warmup.report.figures import loss_figure, run_figures
from warmup.report.load import Run, expand, load
from warmup.report.page import write_page

__all__ = ["Run", "comparison_figures", "expand", "load", "loss_figure", "run_figures", "write_page"]
