"""Encoders that are not made of BertModel's modules, and how each takes the mask that keeps packed samples apart.

A layout gives a mask (R, 1, T or 1, T), True where a token may attend. Distances within a sample are the same in a
packed row as alone, so that relative positions need nothing else; absolute ones are told by `position_ids`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from warmup.training.models.input_layout import Head

Mask = torch.Tensor
_PLAIN = (
    "albert", "data2vec-text", "distilbert", "ernie", "eurobert", "ibert", "luke", "megatron-bert", "mpnet",
    "nomic_bert", "rembert", "roc_bert", "squeezebert",
)  # fmt: skip
"""Model types whose layers all attend by the mask that they are given."""
_DEBERTA = ("deberta", "deberta-v2")
_MODERN = ("modernbert",)
_FIRST_TOKEN = ("cls", "bos")
"""Values of `classifier_pooling` by which a classifier reads the first token only."""


def packs(model: PreTrainedModel, head: Head) -> bool:
    """Whether these encoders' samples can lie several to a row: nothing but attention may look beyond a token."""
    config = model.config
    if config.model_type not in (*_PLAIN, *_DEBERTA, *_MODERN):
        return False
    if head == "sequence" and getattr(config, "classifier_pooling", "cls") not in _FIRST_TOKEN:
        return False
    if _pools(model) and not hasattr(model.base_model, "encoder"):  # nothing gives the pooler the last layer's output
        return False
    return not getattr(config, "conv_kernel_size", 0)  # of large DeBERTas, whose first layer mixes neighbours


def pooled_module(model: PreTrainedModel) -> torch.nn.Module:
    """The module whose output the pooler or the head reads."""
    base_model: Any = model.base_model
    return base_model.encoder if _pools(model) else base_model


def _pools(model: PreTrainedModel) -> bool:
    return getattr(model.base_model, "pooler", None) is not None


def enable(model: PreTrainedModel) -> None:
    """Let the encoder take the mask of a layout, besides those that transformers gives it."""
    base_model: Any = model.base_model
    config = model.config
    if config.model_type in _DEBERTA:
        base_model.embeddings.register_forward_pre_hook(_without_mask_of_rows, with_kwargs=True)
        _convert_mask(base_model, lambda mask: mask.expand(-1, -1, mask.shape[-1], -1).squeeze(1))
    elif config.model_type in _MODERN:
        _convert_mask(base_model, lambda mask: _full_and_local(mask, config.sliding_window))
    elif config._attn_implementation != "sdpa":  # which adds the mask to the scores
        _convert_mask(base_model, lambda mask: _additive(mask, base_model.dtype))


def _convert_mask(base_model: torch.nn.Module, convert: Callable[[Mask], Any]) -> None:
    def replace(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        mask = kwargs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.ndim == 4:
            kwargs = {**kwargs, "attention_mask": convert(mask)}
        return args, kwargs

    base_model.register_forward_pre_hook(replace, with_kwargs=True)


def _additive(mask: Mask, dtype: torch.dtype) -> torch.Tensor:
    """0 where a token may attend, the lowest number elsewhere. (No token of a row attends to none.)"""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def _full_and_local(mask: Mask, window: int) -> dict[str, Mask]:
    """ModernBERT's two masks: of layers that attend to the whole sample, and to at most `window` tokens to each side
    (Warner et al. 2024, arXiv:2412.13663, section 2.1.2).
    """
    position_T = torch.arange(mask.shape[-1], device=mask.device)
    near_TT = (position_T[:, None] - position_T).abs() <= window
    return {"full_attention": mask, "sliding_attention": mask & near_TT}


def _without_mask_of_rows(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """DeBERTa's embeddings set padding to 0 by a mask (B, T). In rows nothing attends to padding but itself."""
    mask = kwargs.get("mask")
    return args, {**kwargs, "mask": None} if mask is not None and mask.ndim == 3 else kwargs
