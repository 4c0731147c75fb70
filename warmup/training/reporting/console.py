"""What is printed about a plan and a run."""

from __future__ import annotations

import sys
from pathlib import Path

import accelerate
import datasets
import torch
import transformers

from warmup.explain import explain_plan
from warmup.lint import Finding
from warmup.plan import Plan


def plan_table(plan: Plan, findings: list[Finding], facts: dict[str, str]) -> str:
    """The plan for a person: name, value, how it came about; then what the linter found."""
    rows = [*explain_plan(plan), *((name, value, "") for name, value in facts.items())]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    widths[1] = min(widths[1], 24)
    lines = [f"  {name:<{widths[0]}}  {value:<{widths[1]}}  {why}".rstrip() for name, value, why in rows]
    return "\n".join(lines + [f"  {finding.level} [{finding.code}]: {finding.message}" for finding in findings])


def summary(folder: Path, result: dict) -> str:
    """What came of the run and where it was written."""
    metrics = ", ".join(f"{name} {value:.6g}" for name, value in result["metrics"].items()) or "none"
    files = sorted(str(path) for path in folder.iterdir() if not path.name.startswith("."))
    head = f"{result['outcome']} after step {result['step']} of {result['total_steps']}, {result['wall_seconds']} s"
    of = f" of step {step}" if (step := result.get("exported_step")) not in (None, result["step"]) else ""
    return "\n".join((head, f"  held-out metrics{of}: {metrics}", *(f"  wrote {file}" for file in files)))


def library_versions() -> dict[str, str]:
    modules = (torch, accelerate, transformers, datasets)
    return {"python": sys.version.split()[0], **{module.__name__: module.__version__ for module in modules}}
