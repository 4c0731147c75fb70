"""Directories of runs, made without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from warmup.config.recipe import Recipe
from warmup.plan import Topology
from warmup.planning import make_plan

BATCH = 32
HOSTILE = (
    "<script>alert(1)</script>", "\"quoted' & <b>", "long_" * 60, "$\\frac{x}{0}$", "\x00\x1b[31m\n\u202eevil",
    "\u65e5\u672c\u8a9e", "", "</style><svg onload=alert(2)>", "{{ 7 * 7 }}",
)  # fmt: skip
"""Names of classes that are text, whatever they look like."""


def train_line(step: int, **values: Any) -> dict[str, Any]:
    """A line of metrics.jsonl as `Log.train` writes it."""
    position = {"step": step, "samples": BATCH * step, "consumed_samples": BATCH * step, "tokens": 900 * step}
    numbers = {
        "epoch": step / 100, "lr": 1e-3 / step, "loss": 4 / step**0.5, "grad_norm": 1.5, "seconds": step / 10,
        "samples_per_second": 320.0, "tokens_per_second": 9000.0, "padding_share": 0.01, "data_wait_share": 0.1,
        "communication_share": 0.2, "mfu": None,
    }  # fmt: skip
    return {"kind": "train", **position, **numbers, **values}


def eval_line(step: int, **values: float) -> dict[str, Any]:
    metrics = {"loss": 5 / step**0.5, "accuracy": 0.5, "targets": 100.0}
    return {"kind": "eval", "step": step, "consumed_samples": BATCH * step, **metrics, **values}


def resumed_line(step: int, **values: float) -> dict[str, Any]:
    facts = {"world_size_before": 2, "world_size": 2, "global_batch_size_before": BATCH, "global_batch_size": BATCH}
    rates = {"lr_before": 1e-3, "lr": 1e-3}
    return {"kind": "resumed", "step": step, "consumed_samples": BATCH * step, "from": "x", **facts, **rates, **values}


def record(names: tuple[str, ...], step: int = 40) -> dict[str, Any]:
    """What evaluation.json says of an evaluation in which each class is taken once for the next one."""
    score = {"precision": 0.25, "recall": 0.5, "f1": 1 / 3, "support": 7}
    examples = [{"loss": 3.25, "label": name, "prediction": name, "text": f"text of {name}"} for name in names[:20]]
    return {
        "step": step,
        "metrics": {"loss": 0.75, "accuracy": 0.5, "targets": 100.0},
        "kind": "class",
        "per_class": {name: score for name in names},
        "confusion": [[index, (index + 1) % len(names), 5] for index in range(len(names))],
        "pairs": [],
        "examples": examples,
    }


def make_run(folder: Path, lines: list[dict[str, Any]] | None = None, **files: Any) -> Path:
    """A run directory.

    Args:
        folder: where; it is made.
        lines: of metrics.jsonl; None for those of 40 steps and two evaluations.
        files: content of JSON files by their names without .json, in place of those of a run that is done; None for
            no such file.
    """
    folder.mkdir(parents=True)
    lines = [*map(train_line, range(1, 41)), eval_line(20), eval_line(40)] if lines is None else lines
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plan = make_plan(Recipe(lr=1e-3, reference_batch_size=BATCH, warmup="10%", duration="40 steps"), Topology(2, 16))
    config = files.pop("config", {"task": "classification", "seed": 1, "recipe": {"lr": 1e-3}})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    content = {
        "plan": plan.to_dict(),
        "run": {"command": ["train.py", "--seed", "1"], "facts": {"device": "2 ranks"}, "findings": [], "versions": {}},
        "result": {"outcome": "done", "step": 40, "total_steps": 40, "exported_step": 40, "world_size": 2}
        | {"metrics": {"loss": 0.75, "accuracy": 0.5}},
        "evaluation": {"evaluations": [record(("no", "yes"))]},
    }
    for name, value in (content | files).items():
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value))
    return folder
