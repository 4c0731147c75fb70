"""What a run measured, for plans: its gradient noise scale."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from warmup.config import Config
from warmup.errors import UserError


def with_noise_scale_of(config: Config, run: str) -> Config:
    """The configuration with the noise scale that a run measured. Raises UserError if it measured none."""
    measured = noise_scale_of(Path(run))
    return replace(config, recipe=replace(config.recipe, noise_scale=f"{max(1, round(measured))} samples"))


def noise_scale_of(run: Path) -> float:
    """The last gradient noise scale in the log of a run, in samples. Raises UserError if there is none."""
    log = run / "metrics.jsonl"
    try:
        with open(log, encoding="utf-8") as file:
            found = [float(value) for line in file if '"noise_scale"' in line and (value := _noise_scale(line))]
    except OSError:
        raise UserError(f"--noise-from: {run} is not the directory of a run, which holds metrics.jsonl") from None
    if not found:
        raise UserError(
            f"--noise-from: {run} has measured no noise scale; train with log.noise_scale: true, for 80 steps or more"
        )
    return found[-1]


def _noise_scale(line: str) -> float | None:
    """None where it was not yet known, or the line is cut off."""
    try:
        return json.loads(line).get("noise_scale")
    except ValueError:
        return None
