"""The trained model as a normal Hugging Face folder, with its card."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from warmup.training.model import positions
from warmup.training.outcome import UserError


def export(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: str,
    weights: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Write `folder`/model as a whole: from_pretrained and pipeline load it. Call on rank 0.

    card: what its README.md says. weights: those to write, which share memory once; by default the model's.
    """
    target, stage, old = folder / "model", folder / ".model.stage", folder / ".model.old"
    for left in (stage, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        model.save_pretrained(stage, state_dict=weights)
        with_length(tokenizer, model).save_pretrained(stage)
        (stage / "README.md").write_text(card, encoding="utf-8")
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
