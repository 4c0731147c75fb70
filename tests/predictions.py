"""Predictions of whole runs, for tests."""

from __future__ import annotations

import json
from pathlib import Path

from harness import Ended, train


def predict(world_size: int, output: Path, *argv: object) -> Ended:
    """What it prints goes beside the output, or to where that would be."""
    home = output.parent if output.parent.is_dir() else output.parent.parent
    return train(world_size, home / f"{output.stem}.folder", "--output", output, *argv)


def read(output: Path) -> list[dict]:
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
