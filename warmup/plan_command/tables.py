"""What the plan command prints: a table of the plans, the findings, and the difference of two configurations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TextIO

from warmup import commandline
from warmup.config import Config
from warmup.explain import batch_warmup, optimizer_numbers
from warmup.lint import Finding
from warmup.plan import Plan
from warmup.plan_command.results import Result, ranks_text
from warmup.terminal import colour, highlight

_HEAD = ("batch", "k", "rule", "peak lr", "warmup steps", "samples", "share", "total steps")


def plan_table(results: Sequence[Result], reference: Plan | None, stream: TextIO) -> str:
    """A row for each world size, how its batch grows, and the findings.

    Args:
        results: of each world size.
        reference: the plan at the reference batch size, the first row unless another one has that size.
        stream: what is printed to, which decides on colours.
    """
    rows = [(str(result.world_size), result.plan) for result in results]
    if reference and all(plan is None or plan.scale != 1 for _, plan in rows):
        rows = [("reference", reference), *rows]
    scaled = _scaled_names([plan for _, plan in rows])
    cells = [(name, *_row(plan, scaled)) for name, plan in rows]
    head, *lines = align([("ranks", *_HEAD, *scaled), *cells])
    return "\n".join([colour(head, "bold", stream), *lines, *_batch_lines(results), *finding_lines(results, stream)])


def _batch_lines(results: Sequence[Result]) -> list[str]:
    """A line for each plan whose batch is warmed up."""
    plans = [result.plan for result in results if result.plan and result.plan.batch_start_size is not None]
    return [f"batch warmup at {ranks_text(plan.world_size)}: {batch_warmup(plan)}" for plan in plans]


def finding_lines(results: Sequence[Result], stream: TextIO) -> list[str]:
    """A line for each finding, with all world sizes that it is of."""
    sizes_by_finding: dict[Finding, list[int]] = {}
    for result in results:
        for finding in result.findings:
            sizes_by_finding.setdefault(finding, []).append(result.world_size)
    return [
        highlight(f"{finding.level} [{finding.code}] at {ranks_text(*sizes)}: {finding.message}", stream)
        for finding, sizes in sizes_by_finding.items()
    ]


def difference(configs: Sequence[Config], names: Sequence[str], results: Sequence[Sequence[Result]]) -> str:
    """In which fields two configurations differ, and in which numbers their plans do.

    Args:
        configs: the two.
        names: what they are called.
        results: of each, at the same world sizes.
    """
    ours, theirs = (dict(commandline.leaves(asdict(config))) for config in configs)
    fields = [(name, _text(ours[name]), _text(theirs[name])) for name in ours if ours[name] != theirs[name]]
    numbers = []
    for one, other in zip(*results, strict=True):
        if one.plan is None or other.plan is None:  # the findings say why
            continue
        scaled = _scaled_names([one.plan, other.plan])
        rows = zip((*_HEAD, *scaled), _row(one.plan, scaled), _row(other.plan, scaled), strict=True)
        numbers += [
            (f"{name} at {ranks_text(one.world_size)}", *values) for name, *values in rows if values[0] != values[1]
        ]
    if not fields and not numbers:
        return f"no difference from {names[1]}"
    rows = [("", *names), *fields, *numbers]
    return "\n".join(align([(name, str(value), str(other)) for name, value, other in rows], left=1))


def align(rows: Sequence[tuple[str, ...]], left: int = 0) -> list[str]:
    """Rows as lines of columns of equal width.

    Args:
        rows: of equally many cells.
        left: how many of the first columns are aligned to the left.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<" if number < left else ">" for number in range(len(widths))]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)) for row in rows
    ]


def _text(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _scaled_names(plans: Sequence[Plan | None]) -> list[str]:
    """The optimizer's numbers that differ from those at the reference in any of the plans."""
    numbers = [optimizer_numbers(plan) for plan in plans if plan]
    names = {name: None for one in numbers for name, (before, now) in one.items() if before != now}
    return list(names)


def _row(plan: Plan | None, scaled: Sequence[str]) -> tuple[str, ...]:
    """The cells of a plan: those of _HEAD, and the optimizer's numbers that are named."""
    if plan is None:
        return ("-",) * (len(_HEAD) + len(scaled))
    numbers = optimizer_numbers(plan)
    warmup_percent = 100 * plan.warmup_samples / plan.total_samples
    return (
        str(plan.global_batch_size),
        f"{plan.scale:.6g}",
        plan.scaling,
        f"{plan.peak_lr:.6g}" + ("*" if plan.peak_lr != plan.uncapped_lr else ""),
        str(plan.warmup_steps),
        str(plan.warmup_samples),
        f"{warmup_percent:.3g}%",
        str(plan.total_steps),
        *(f"{numbers[name][1]:.6g}" for name in scaled),
    )
