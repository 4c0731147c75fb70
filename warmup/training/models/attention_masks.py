"""Attention masks of padded samples, made on a GPU without waiting for it.

transformers looks into every (B, T) mask: where nothing is padded it needs none, and attention is faster. The look
makes the host wait for the GPU in each forward pass. `lay_out` leaves such masks out beforehand, so nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import AttentionMaskInterface, PreTrainedModel, masking_utils
from transformers.masking_utils import eager_mask, sdpa_mask

MaskFunction = Callable[..., torch.Tensor | None]


def leave_masks_unread(model: PreTrainedModel) -> None:
    """On a GPU, let this process's models use each mask that they are given, whatever is in it."""
    if model.device.type != "cuda":
        return
    AttentionMaskInterface.register("sdpa", _unread(sdpa_mask))
    AttentionMaskInterface.register("eager", _unread(eager_mask))
    # Without a mask, it would look for several samples in a row of position ids. All such rows have a mask here.
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    for module in model.modules():  # without a mask, some look for padding among the token ids, to warn of it
        if isinstance(module, PreTrainedModel):
            module.warn_if_padding_and_no_attention_mask = lambda input_ids, attention_mask: None


def _unread(make_mask: MaskFunction) -> MaskFunction:
    def make_unread(*args: Any, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
        if attention_mask is not None:
            kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return make_mask(*args, attention_mask=attention_mask, **kwargs)

    return make_unread
