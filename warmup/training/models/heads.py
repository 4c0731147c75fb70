"""Models whose heads differ from the others: they too take sequences (B, T), and give `logits` for what they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel


def unify_head(model: PreTrainedModel) -> None:
    """Let a model be called like a classifier of sequences or tokens. What is exported is the model as it was.

    Models for multiple choice give one score for each sequence, (B, 1). Called as transformers calls them, with choices
    of shape (B, choices, T), they still give (B, choices). Models for question answering give the scores of start and
    end at each token too, as `logits` of shape (..., 2).
    """
    name = type(model).__name__
    if name.endswith("ForMultipleChoice"):
        _take_sequences(model)
    elif name.endswith("ForQuestionAnswering"):
        model.register_forward_hook(_join_start_and_end)


def set_output_biases(model: PreTrainedModel, new_weights: Sequence[str], biases: Sequence[float]) -> None:
    """Set the biases of the head's outputs, if it has any and they are new.

    Args:
        model: is changed in place.
        new_weights: as `build_model` returned them.
        biases: of the outputs, in order.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    name, output = next(((n, layer) for n, layer in reversed(layers) if layer.out_features == len(biases)), ("", None))
    if output is not None and output.bias is not None and {"all", f"{name}.bias"}.intersection(new_weights):
        with torch.no_grad():
            output.bias.copy_(torch.tensor(biases))


def _take_sequences(model: PreTrainedModel) -> None:
    """Give a model for multiple choice each sequence as the one choice of a sample. It flattens its inputs to (., T),
    which a mask of four dimensions does not survive: that one goes past it.
    """
    past: dict[str, torch.Tensor] = {}

    def add_choices(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        past.clear()
        if kwargs["input_ids"].ndim == 2:
            if kwargs.get("attention_mask") is not None and kwargs["attention_mask"].ndim > 2:
                past["attention_mask"] = kwargs.pop("attention_mask")
            kwargs["input_ids"] = kwargs["input_ids"][:, None]
        return args, kwargs

    def restore(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs | past

    model.register_forward_pre_hook(add_choices, with_kwargs=True)
    model.base_model.register_forward_pre_hook(restore, with_kwargs=True)


def _join_start_and_end(module: torch.nn.Module, args: tuple, output: Any) -> Any:
    output["logits"] = torch.stack([output["start_logits"], output["end_logits"]], -1)
    return output
