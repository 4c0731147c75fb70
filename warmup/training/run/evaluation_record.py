"""What is kept of an evaluation besides its metrics: evaluation.json, with the scores of each class and the examples
with the largest loss. Its reader is `warmup.report`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from warmup.training.checkpoints.run_directory import EVALUATION, read_evaluations
from warmup.training.data.samples import Samples
from warmup.training.files import write_json
from warmup.training.run.evaluate import Evaluation
from warmup.training.tasks import Objective

_EXAMPLES = 20
_CHARACTERS = 300  # of an example's text


def make_record(
    evaluation: Evaluation, objective: Objective, samples: Samples, tokenizer: PreTrainedTokenizerBase, step: int
) -> dict[str, Any]:
    """An evaluation as JSON types.

    Args:
        evaluation: what was found.
        objective: of the task.
        samples: those that were evaluated.
        tokenizer: of their texts.
        step: the step after which they were.
    """
    losses_S = evaluation.losses_S.numpy()
    hardest = np.argsort(-losses_S, kind="stable")[:_EXAMPLES]
    examples = [
        {
            "loss": float(f"{losses_S[sample]:.6g}"),
            **objective.outcome(evaluation.results_SW[sample].tolist()),
            "text": _shorten(_text(samples, sample, tokenizer)),
        }
        for sample in hardest.tolist()
    ]
    breakdown = objective.breakdown(evaluation.combined) if objective.breakdown else None
    details = breakdown.to_dict() if breakdown else {}
    return _strict_json({"step": step, "metrics": evaluation.metrics, **details, "examples": examples})


def export_details(evaluation: Evaluation, objective: Objective) -> dict[str, Any]:
    """What an export of the evaluated weights needs besides their metrics, as `RunState.details`."""
    breakdown = objective.breakdown(evaluation.combined) if objective.breakdown else None
    per_class = breakdown.to_dict()["per_class"] if breakdown else {}
    return _strict_json({"per_class": per_class, "model_settings": objective.model_settings(evaluation.combined)})


def add_record(folder: Path, record: Mapping[str, Any], best_step: int | None) -> None:
    """Write a record to evaluation.json, and keep the one of the best evaluation beside it."""
    best = [old for old in read_evaluations(folder) if old["step"] == best_step != record["step"]]
    write_json(folder / EVALUATION, {"evaluations": [*best, record]})


def _text(samples: Samples, sample: int, tokenizer: PreTrainedTokenizerBase) -> str:
    ids = samples.sequences(np.array([sample]))["ids"].combine_chunks().flatten()
    return str(tokenizer.decode(ids.to_pylist(), skip_special_tokens=True))


def _shorten(text: str) -> str:
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "\u2026"


def _strict_json(content: Any) -> Any:
    """With what JSON has no number for, such as NaN, as null."""
    if isinstance(content, dict):
        return {name: _strict_json(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_strict_json(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
