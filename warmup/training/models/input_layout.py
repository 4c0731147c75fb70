"""What of a model's work is read: what it can be asked for, how its inputs lie, and how its layers attend."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from warmup.errors import UserError
from warmup.training.distributed import collectives
from warmup.training.models import varlen_attention


@dataclass(frozen=True)
class InputLayout:
    """What a model can be asked for, and how its inputs are laid out for it.

    positions: it takes the flattened places whose logits are wanted. rows: it takes samples in rows, `packs` of them
    several in one, and gives the logits of the places that are read. dense: but its last layer and a language model's
    head are computed everywhere. causal: in rows a place sees none after it. varlen: all samples lie in one row, and
    attention is told where each begins. steady: the length of the longest sample that can come, where inputs are to
    have few shapes; 0 where they need not. first_position, padding: the model's numbers of the first place and of
    padding.
    """

    positions: bool = False
    rows: bool = False
    packs: bool = False
    dense: bool = False
    causal: bool = False
    varlen: bool = False
    steady: int = 0
    first_position: int = 0
    padding: int = 0


UNPACKED = InputLayout()
PACKED_ENCODERS = (
    "bert",
    "electra",
    "roberta",
    "xlm-roberta",
    "camembert",
)  # encoders that are made of BertModel's modules
PACKED_DECODERS = ("gpt2", "llama", "gpt_neox")  # decoders that take a mask of any shape as it is, and positions


def supports_packing(model: PreTrainedModel) -> bool:
    config = model.config
    return config.model_type in PACKED_ENCODERS and config._attn_implementation == "sdpa" and not config.is_decoder


def choose_varlen(
    model: PreTrainedModel, packs: bool, compiled: bool, wanted: str, device: torch.device, precision: str
) -> bool:
    """Whether attention is to be `wanted`: varlen, mask, or auto, the former where it can be. A collective call.

    Raises UserError where it cannot be what is wanted.
    """
    if wanted == "mask":
        return False
    config = model.config
    if not supports_packing(model):
        why = f"there is no kernel for the layers of {config.model_type}"
    elif not packs:
        why = "samples are not packed in rows"
    else:
        heads = config.num_attention_heads
        why = varlen_attention.why_unsupported(device, precision, heads, config.hidden_size // heads, compiled)
    reasons = [reason for reason in collectives.gather_objects(why) if reason]
    if reasons and wanted == "varlen":
        raise UserError(f"speed.attention: varlen cannot be: {reasons[0]}; use auto")
    return not reasons


def describe_attention(model: PreTrainedModel, reading: InputLayout) -> str:
    """How attention is computed, in words."""
    if reading.varlen:
        return "FlashAttention of variable length, samples packed in one row"
    return f"{model.config._attn_implementation}, {'samples packed in rows' if reading.packs else 'samples padded'}"
