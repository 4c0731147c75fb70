"""The trained model as a normal Hugging Face folder, with a card that holds the plan."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from warmup.plan import Plan
from warmup.training.model import positions
from warmup.training.outcome import UserError

_PIPELINES = {
    "mlm": "fill-mask",
    "clm": "text-generation",
    "classification": "text-classification",
    "regression": "text-classification",
}


def export(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    plan: Plan,
    metrics: dict[str, float],
    weights: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Write `folder`/model as a whole: from_pretrained and pipeline load it. Call on rank 0.

    weights: the model's, those that share memory once, where it may hold a part of them only.
    """
    target, stage, old = folder / "model", folder / ".model.stage", folder / ".model.old"
    for left in (stage, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        model.save_pretrained(stage, state_dict=weights)
        with_length(tokenizer, model).save_pretrained(stage)
        (stage / "README.md").write_text(_card(task, plan, metrics), encoding="utf-8")
        if target.exists():  # of an earlier attempt to end this run
            target.rename(old)
        try:
            stage.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    except SafetensorError as error:  # which hides "no space left" behind sizes that do not match
        raise UserError(f"{target}: cannot be written, is there space left? ({error})") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return target


def with_length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """A tokenizer that knows where the model's positions end, so that truncation=True truncates."""
    longest = positions(model.config)
    if longest is None or tokenizer.model_max_length <= longest:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = longest
    return tokenizer


def _card(task: str, plan: Plan, metrics: dict[str, float]) -> str:
    rows = "\n".join(f"| {name} | {value} | {why} |" for name, value, why in plan.explain())
    as_it_is = ', function_to_apply="none"' if task == "regression" else ""
    results = "\n".join(f"| {name} | {value:.6g} |" for name, value in metrics.items())
    return f"""---
library_name: transformers
pipeline_tag: {_PIPELINES[task]}
---

# {_PIPELINES[task]} model

```python
from transformers import pipeline
model = pipeline("{_PIPELINES[task]}", model="path/to/this/folder"{as_it_is})
```

## Held-out metrics

| metric | value |
|---|---|
{results}

## Plan

| what | value | how it came about |
|---|---|---|
{rows}
"""
