"""The export at the end of a run: weights, metrics and what the model's config holds are of one evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_checkpoints import LR_SCHEDULE, clock_at
from transformers import BertConfig

from warmup.training.checkpoints import resume
from warmup.training.checkpoints.state import ResumePoint, RunState
from warmup.training.run import finish

SETTINGS = {step: {"thresholds": {"a": step / 10}} for step in (1, 2, 3)}


@dataclass(frozen=True)
class Card:
    metrics: dict[str, float]
    per_class: dict[str, Any] = field(default_factory=dict)
    picture: str = ""


@pytest.mark.parametrize("export", ["best", "last"])
@pytest.mark.parametrize("best_is_lost", [False, True])
@pytest.mark.parametrize("rewound", [False, True])
def test_thresholds_and_scores_are_those_of_the_exported_weights(
    export: str, best_is_lost: bool, rewound: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the best evaluation, that of step 2, or of the last one; in a run directory without evaluation.json too."""
    state, fields = RunState({"task": "multi-label"}, "key", LR_SCHEDULE, "micro_f1"), {"task": "multi-label"}
    for step, value in ((1, 0.5), (2, 0.75), (3, 0.25)):
        details = {"per_class": {"a": {"f1": value}}, "model_settings": SETTINGS[step]}
        state.add(clock_at(step), {"micro_f1": value}, details)
    if rewound:
        state = json.loads(json.dumps(state.state(clock_at(3), world_size=2)))
        state["config"]["evaluation.metric"] = "micro_f1"
        state = resume.initial_state(ResumePoint(tmp_path, None, state=state), fields, "key", LR_SCHEDULE, "micro_f1")
    config, found = BertConfig(), {}
    monkeypatch.setattr(finish, "best_weights", lambda run: None if best_is_lost else {"of": 2})
    monkeypatch.setattr(finish, "trained_model", lambda run, metrics, step, weights: Card(metrics))
    monkeypatch.setattr(finish, "model_card", lambda card: "")
    monkeypatch.setattr(finish, "export_model", lambda *given: found.update(config=config.to_dict(), weights=given[4]))
    run: Any = SimpleNamespace(
        folder=tmp_path,
        state=state,
        config=SimpleNamespace(evaluation=SimpleNamespace(export=export)),
        data=SimpleNamespace(tokenizer=None),
        train_step=SimpleNamespace(
            clock=SimpleNamespace(step=3), engine=SimpleNamespace(unwrapped_model=SimpleNamespace(config=config))
        ),
    )
    result = finish.export_final_model(run, {"of": 3})
    step = 2 if export == "best" and not best_is_lost else 3
    assert found["weights"] == {"of": step} and result["exported_step"] == step
    assert found["config"]["thresholds"] == SETTINGS[step]["thresholds"]
    assert result["per_class"] == {"a": result["metrics"] and {"f1": result["metrics"]["micro_f1"]}}
