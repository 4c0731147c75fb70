"""What is printed about a plan and a run, as text."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import accelerate
import datasets
import torch
import transformers

from warmup.config.tasks import TaskFacts
from warmup.explain import explain_plan
from warmup.lint import Finding
from warmup.plan import Plan
from warmup.training.models.build import is_new_model

_VALUE_WIDTH = 24  # of the second column; longer values run into the third
_EXAMPLES = 3  # rows that are quoted


def plan_table(plan: Plan, findings: list[Finding], facts: dict[str, str]) -> str:
    """The plan as a table of three columns, followed by the linter's findings.

    Args:
        plan: The plan; a row for each number: name, value and how it was derived.
        findings: The linter's findings.
        facts: More rows, value by name.
    """
    rows = [*explain_plan(plan), *((name, value, "") for name, value in facts.items())]
    name_width, value_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    value_width = min(value_width, _VALUE_WIDTH)
    lines = [f"  {name:<{name_width}}  {value:<{value_width}}  {why}".rstrip() for name, value, why in rows]
    return "\n".join(lines + [f"  {finding.level} [{finding.code}]: {finding.message}" for finding in findings])


def summary(folder: Path, result: Mapping[str, Any], facts: TaskFacts, report: str) -> str:
    """The result of a run: how far it came, the exported model's metrics, and what to do next.

    Args:
        folder: The run directory.
        result: The content of its result.json.
        facts: Those of its task.
        report: A line about its report.
    """
    metrics = ", ".join(f"{name} {value:.6g}" for name, value in result["metrics"].items()) or "none"
    exported_step = result.get("exported_step")
    of_step = "" if exported_step in (None, result["step"]) else f" of step {exported_step}"
    model = shlex.quote(str(folder))
    go_on = f"resume: the same command with --resume auto --run_dir {model}"
    predict = facts.no_prediction.format(model=folder / "model") or f"python train.py --predict FILE --model {model}"
    lines = [
        f"{result['outcome']} after step {result['step']} of {result['total_steps']} in {result['wall_seconds']} s",
        f"  held-out metrics{of_step}: {metrics}",
        f"  run directory: {folder}",
        f"  {report}",
        f"  {go_on}" if result["outcome"] == "stopped" else f"  predict: {predict}",
    ]
    return "\n".join(lines)


def model_text(name: str, new_weights: Sequence[str]) -> str:
    """The model's name, and which of its weights are not pretrained: names, or "all"."""
    text = f"{name}, new weights: {', '.join(new_weights)} (random initialisation)" if new_weights else name
    beside = is_new_model(name) and Path(name).is_dir()
    return f"{text}; the folder {name} is not read, --model ./{name} would" if beside else text


def rows_text(rows: Sequence[str]) -> str:
    """How many rows there are, with the first few of them, each being a location and a reason."""
    return f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}: " + "; ".join(rows[:_EXAMPLES])


def library_versions() -> dict[str, str]:
    """The versions of Python and of the libraries that training depends on, by name."""
    modules = (torch, accelerate, transformers, datasets)
    return {"python": sys.version.split()[0], **{module.__name__: module.__version__ for module in modules}}
