"""What a probe found: as a table, as JSON and as a picture, in one folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from warmup.config import Config
from warmup.errors import UserError
from warmup.plan import Plan
from warmup.training.checkpoints.state import config_fields
from warmup.training.files import staged_folder, write_json, write_text
from warmup.training.probe.halving import Candidate, Finalist, Recommendation, Result, lowest_diverged
from warmup.training.probe.heatmap import heatmap

SHORT = 0.2
"""Trials of the last rung that are shorter than this share of the run say little of it."""
_SHORT_TEXT = "so short a run favours rates below the best of the whole one (arXiv:1803.02021); give a larger --budget"


@dataclass(frozen=True)
class Probe:
    """All that a probe found."""

    config: Config
    plan: Plan
    """Of the recipe."""
    own: Candidate
    """The recipe's own pair."""
    results: Sequence[Result]
    recommendation: Recommendation
    budget: int

    @property
    def diverged_from(self) -> float | None:
        """The lowest rate that diverged with the recommended warmup."""
        chosen = self.recommendation.chosen
        return lowest_diverged(self.results, chosen.candidate.warmup) if chosen else None


def write(probe: Probe, folder: Path) -> None:
    """Write table.txt, probe.json and heatmap.png. Raises UserError if that is impossible; nothing is written then."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with staged_folder(folder) as stage:
            write_text(stage / "table.txt", text(probe, folder) + "\n")
            write_json(stage / "probe.json", to_dict(probe))
            (stage / "heatmap.png").write_bytes(heatmap(probe.results, probe.own, probe.recommendation))
    except OSError as error:
        raise UserError(f"--output: {error.filename or folder}: {error.strerror or error}") from error


def to_dict(probe: Probe) -> dict[str, Any]:
    """JSON types; a loss that is infinite, because the training diverged, is null."""
    found = probe.recommendation
    return {
        "config": config_fields(probe.config),
        "global_batch_size": probe.plan.global_batch_size,
        "scale": probe.plan.scale,
        "total_steps": probe.plan.total_steps,
        "budget": probe.budget,
        "spent": sum(result.tried for result in probe.results),
        "own": asdict(probe.own),
        "trials": [_finite(asdict(result)) for result in probe.results],
        "finalists": [_finite(asdict(finalist)) for finalist in found.finalists],
        "noise": found.noise,
        "recommended": asdict(found.chosen.candidate) if found.chosen else None,
        "diverged_from": probe.diverged_from,
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value == math.inf else value for name, value in values.items()}


def text(probe: Probe, folder: Path) -> str:
    """The trials rung by rung, and what follows from them."""
    parts = []
    for rung in range(max(result.rung for result in probe.results) + 1):
        of_rung = [result for result in probe.results if result.rung == rung]
        repeats = len({result.seed for result in of_rung})
        parts += [f"rung {rung + 1}: {of_rung[0].steps} steps{f', {repeats} seeds' if repeats > 1 else ''}"]
        parts += [_grid(of_rung, probe.own)]
    spent = sum(result.tried for result in probe.results)
    parts += [*_conclusion(probe), f"{len(probe.results)} trials, {spent} steps of {probe.budget}; {folder}"]
    return "\n".join(parts)


def _grid(results: Sequence[Result], own: Candidate) -> str:
    """Held-out losses, the mean of the seeds, with a row for each warmup and a column for each rate."""
    lrs = sorted({result.candidate.lr for result in results})
    warmups = list(dict.fromkeys(result.candidate.warmup for result in results))
    rows = [["warmup \\ lr", *(f"{lr:g}" for lr in lrs)]]
    for warmup in warmups:
        cells = []
        for lr in lrs:
            pair = Candidate(lr, warmup)
            losses = [result.loss for result in results if result.candidate == pair]
            cells.append(cell(losses) + ("*" if losses and pair == own else ""))
        rows.append([warmup, *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  " + "  ".join(word.rjust(width) for word, width in zip(row, widths)) for row in rows)


def cell(losses: Sequence[float]) -> str:
    """The mean of the losses of one pair; how many of its trials diverged, if one did."""
    diverged = sum(loss == math.inf for loss in losses)
    if diverged:
        return "diverged" if len(losses) == 1 else f"{diverged}/{len(losses)} diverged"
    return f"{sum(losses) / len(losses):.3f}" if losses else ""


def _conclusion(probe: Probe) -> list[str]:
    found = probe.recommendation
    if found.chosen is None:
        return ["every pair diverged: give lower --rates"]
    chosen, lines = found.chosen, ["* the recipe's own pair"]
    pair = f"--recipe.lr {chosen.candidate.lr:g} --recipe.warmup {_quoted(chosen.candidate.warmup)}"
    own = ", the recipe's own" if chosen.candidate == probe.own else ""
    lines.append(f"recommended: {pair}{own}: held-out loss {_loss(chosen)}")
    noise = "not known, without repeats" if found.noise is None else f"{found.noise:.3f}"
    lines.append(f"two pairs differ by chance by up to: {noise}")
    lines += [
        f"  lr {other.candidate.lr:g}, warmup {other.candidate.warmup}: {_loss(other)}, "
        f"{other.loss - chosen.loss:+.3f} against the recommended"
        for other in found.finalists
        if other is not chosen and other.loss < math.inf
    ]
    steps = probe.results[-1].steps
    part = steps / probe.plan.total_steps
    if part < SHORT:
        lines.append(f"caution: the last trials had {steps} of the run's {probe.plan.total_steps} steps; {_SHORT_TEXT}")
    limit = probe.diverged_from
    factor = f"{limit:g}, {limit / chosen.candidate.lr:.3g} times the recommended" if limit else "none of those tried"
    return [*lines, f"lowest rate that diverged with this warmup: {factor}"]


def _loss(finalist: Finalist) -> str:
    return f"{finalist.loss:.3f}" + ("" if finalist.deviation is None else f" ± {finalist.deviation:.3f}")


def _quoted(length: str) -> str:
    return f'"{length}"' if " " in length else length
