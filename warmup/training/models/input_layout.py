"""How a model wants its inputs: padded or packed, where it gives logits, and how its layers attend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from warmup.errors import UserError
from warmup.training.distributed import collectives
from warmup.training.models import varlen_attention

Head = Literal["sequence", "token"]
"""What a model's head reads: one position of each sequence, as a text classifier does, or every token."""


@dataclass(frozen=True)
class InputLayout:
    """How a model takes its inputs, and for which positions it gives logits."""

    head: Head = "token"
    """What its head reads."""
    logits: Literal["all", "positions"] = "all"
    """all: for everything that the head reads, (B, C) or (B, T, C). positions: for the listed ones only, (N, C)."""
    positions_in: Literal["last_layer", "head"] = "last_layer"
    """Which part of the model is told the positions, and computes nothing else."""
    rows: bool = False
    """Samples lie in rows, with a mask of any shape, and not padded with a (B, T) mask."""
    packed: bool = False
    """Several samples lie end to end in a row."""
    causal: bool = False
    """In rows, a token attends to none after it."""
    varlen: bool = False
    """All samples lie in one row, and attention is told where each begins."""
    static_max_length: int = 0
    """The length of the longest sample that can come, if inputs are to have few shapes; 0 if they need not."""
    first_position: int = 0
    """The position id of a sample's first token."""
    padding_id: int = 0
    """The token id of padding."""


PACKED_ENCODERS = ("bert", "electra", "roberta", "xlm-roberta", "camembert")
"""Model types that are made of BertModel's modules."""
PACKED_DECODERS = ("gpt2", "llama", "gpt_neox")
"""Model types that take position ids, and a mask of any shape as it is."""


def supports_packing(model: PreTrainedModel) -> bool:
    """True for an encoder whose last layer can be computed at single positions of packed rows."""
    config = model.config
    return config.model_type in PACKED_ENCODERS and config._attn_implementation == "sdpa" and not config.is_decoder


def choose_varlen(
    model: PreTrainedModel, packed: bool, compiled: bool, requested: str, device: torch.device, precision: str
) -> bool:
    """Whether to attend by the kernel for variable lengths. A collective call.

    Args:
        model: whose layers are to use it.
        packed: whether samples are packed.
        compiled: whether the layers are compiled.
        requested: as `speed.attention`: varlen, mask, or auto, which means varlen where all ranks can.
        device: of this rank.
        precision: Accelerate's name of the mixed precision.

    Raises:
        UserError: varlen was requested and does not work on some rank.
    """
    if requested == "mask":
        return False
    config = model.config
    if not supports_packing(model):
        why = f"there is no kernel for the layers of {config.model_type}"
    elif not packed:
        why = "samples are not packed in rows"
    else:
        heads = config.num_attention_heads
        why = varlen_attention.why_unsupported(device, precision, heads, config.hidden_size // heads, compiled)
    reasons = [reason for reason in collectives.gather_objects(why) if reason]
    if reasons and requested == "varlen":
        raise UserError(f"speed.attention: varlen cannot be: {reasons[0]}; use auto")
    return not reasons


def describe_attention(model: PreTrainedModel, layout: InputLayout) -> str:
    """How attention is computed, in words."""
    if layout.varlen:
        return "FlashAttention of variable length, samples packed in one row"
    return f"{model.config._attn_implementation}, {'samples packed in rows' if layout.packed else 'samples padded'}"
