"""What a run measured, for plans: its gradient noise scale."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from warmup.config import Config
from warmup.errors import UserError


def with_noise_scale_of(config: Config, run: str) -> tuple[Config, str]:
    """The configuration with the noise scale that a run measured last, and that in words.

    Raises:
        UserError: it measured none.
    """
    scale, low = last_noise_scale(Path(run))
    samples = f"{max(1, round(scale or low or 0))} samples"
    recipe = replace(config.recipe, noise_scale=samples)
    return replace(config, recipe=recipe), samples if scale else f"{samples} or more"


def last_noise_scale(run: Path) -> tuple[float | None, float | None]:
    """The last gradient noise scale in the log of a run and its lower limit, in samples: at least one of them.

    The first is None where it had no upper limit.

    Raises:
        UserError: there is none.
    """
    log = run / "metrics.jsonl"
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        raise UserError(f"--noise-from: {run} is not the directory of a run, which holds metrics.jsonl") from None
    for line in reversed(lines):
        found = _noise_scale(line) if '"noise_scale"' in line else (None, None)
        if any(found):
            return found
    raise UserError(
        f"--noise-from: {run} has measured no noise scale; train with log.noise_scale: true, for 80 steps or more"
    )


def _noise_scale(line: str) -> tuple[float | None, float | None]:
    """(None, None) where it was not known, or the line is cut off or damaged."""
    try:
        values = json.loads(line)
        return values.get("noise_scale"), values.get("noise_scale_low")
    except (ValueError, AttributeError):
        return None, None
