"""How many tokens a model can take, as its position embeddings tell and not its name."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel

from warmup.errors import UserError, one_line


def first_position(model: PreTrainedModel) -> int:
    """The position id of a sample's first token. RoBERTa and models like it begin after the id of padding."""
    tables = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    padding_ids = (getattr(table, "padding_idx", None) for table in tables)
    return max((index + 1 for index in padding_ids if index is not None), default=0)


def max_positions(model: PreTrainedModel) -> int | None:
    """The most tokens that a sample can have; None if any number."""
    count = getattr(model.config, "max_position_embeddings", None)
    return count - first_position(model) if count and count > 0 else None


def empty_model(config: Any, name: str) -> PreTrainedModel:
    """The model of a config without its head and without memory for weights, to look at its modules.

    Raises UserError, with the model's name, if there is none of this config.
    """
    try:
        with torch.device("meta"):
            return AutoModel.from_config(config)
    except Exception as error:  # transformers raises whatever its parts raise
        raise UserError(f"--model: {name} cannot be built: {one_line(error)}") from error
