"""Hooks that let a model compute its last layer and its head only where the output is read."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationMixin, PreTrainedModel

from warmup.training.models import gpt2, varlen_attention
from warmup.training.models.input_layout import PACKED_DECODERS, UNPACKED, InputLayout, supports_packing


def install_partial_forward(
    model: PreTrainedModel,
    task_reads_tokens: bool,
    packs: bool,
    masked_only: bool,
    varlen: bool = False,
    steady: int = 0,
) -> InputLayout:
    """Let a model compute only what is read: of a language model the masked places, of a classifier the first ones.

    Of most small models' work, the head is the larger part, and six of seven of its rows are not asked for; of the
    last encoder layer, everything but keys and values is needed only where something is read. Called as transformers
    would call it, the model computes all, as it does once exported.
    """
    kind, config = model.config.model_type, model.config
    if supports_packing(model):
        _hook_last_layer(model, whole=not masked_only)
        if varlen:
            varlen_attention.enable(model)
        padding = config.pad_token_id or 0
        return InputLayout(
            rows=True,
            packs=packs,
            dense=not masked_only,
            varlen=varlen,
            steady=steady,
            first_position=padding + 1 if "roberta" in kind or kind == "camembert" else 0,  # from behind padding's
            padding=padding,
        )
    reads = task_reads_tokens and masked_only
    if reads:
        _hook_head(model)
    gpt2.disable_cache(model)
    if kind in PACKED_DECODERS and config._attn_implementation == "sdpa" and task_reads_tokens:
        return InputLayout(rows=True, packs=packs, positions=reads, dense=not reads, causal=True)
    return InputLayout(positions=True) if reads else UNPACKED


def _hook_last_layer(model: PreTrainedModel, whole: bool) -> None:
    """The last layer gives (n, 1, width), the places that are read, where it is told of them.

    What a model is given and does not know, transformers hands on to all layers.
    """
    layer = model.base_model.encoder.layer[-1]
    forward = layer.forward

    def read(
        hidden_RTD: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *args: Any,
        read: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
        read_offsets: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if read is None:
            return forward(hidden_RTD, attention_mask, *args, **kwargs)
        if whole:
            hidden_RTD = forward(hidden_RTD, attention_mask, *args, **kwargs)
            read_RmD = _gather(hidden_RTD, read)
        else:
            offsets = (read_offsets, kwargs["offsets"], kwargs["longest"]) if read_offsets is not None else None
            read_RmD = _last_layer_at(layer, hidden_RTD, attention_mask, read, offsets)
        read_ND = read_RmD.flatten(0, 1)
        return (read_ND if kept is None else read_ND[kept])[:, None]

    layer.forward = read


def _gather(hidden_RTD: torch.Tensor, read_Rm: torch.Tensor) -> torch.Tensor:
    return hidden_RTD.gather(1, read_Rm[..., None].expand(-1, -1, hidden_RTD.shape[-1]))


def _last_layer_at(
    layer: torch.nn.Module,
    hidden_RTD: torch.Tensor,
    mask: torch.Tensor | None,
    read_Rm: torch.Tensor,
    offsets: tuple[torch.Tensor, torch.Tensor, int] | None = None,
) -> torch.Tensor:
    """BertLayer's output at the places read_Rm of each row: keys and values of all, everything else of those alone.

    mask: (R, 1, T or 1, T) bool, None where all see all. offsets, of a single row instead: where samples begin among
    the places that are read and among all, and the longest sample's length.
    """
    attention, (rows, length, width) = layer.attention.self, hidden_RTD.shape
    read_RmD = _gather(hidden_RTD, read_Rm)
    inputs = attention.query(read_RmD), attention.key(hidden_RTD), attention.value(hidden_RTD)
    heads = [x.view(rows, -1, attention.num_attention_heads, attention.attention_head_size) for x in inputs]
    dropout = attention.dropout.p if layer.training else 0.0
    if offsets is not None:
        context = varlen_attention.kernel(*(x[0] for x in heads), *offsets, dropout)
    else:
        if mask is not None:
            mask = mask.expand(-1, -1, length, -1).gather(2, read_Rm[:, None, :, None].expand(-1, -1, -1, length))
        context = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in heads), attn_mask=mask, dropout_p=dropout
        ).transpose(1, 2)
    attended_RmD = layer.attention.output(context.reshape(rows, -1, width), read_RmD)
    return layer.output(layer.intermediate(attended_RmD), attended_RmD)


def _hook_head(model: PreTrainedModel) -> None:
    """A language model's head computes `positions` (n,) alone, of the flattened batch: logits (1, n, V)."""
    asked: dict[str, torch.Tensor | None] = {}

    def take(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        asked["positions"] = kwargs.pop("positions", None)
        return args, kwargs

    def select(hidden_BTD: torch.Tensor) -> torch.Tensor:
        return hidden_BTD if asked["positions"] is None else hidden_BTD.flatten(0, 1)[asked["positions"]][None]

    def after(module: torch.nn.Module, args: tuple, output: Any) -> Any:
        output["last_hidden_state"] = select(output["last_hidden_state"])
        return output

    model.register_forward_pre_hook(take, with_kwargs=True)
    if isinstance(model, GenerationMixin):  # some of these go around their base model; their head is one product
        model.get_output_embeddings().register_forward_pre_hook(lambda module, args: (select(args[0]),))
    else:
        model.base_model.register_forward_hook(after)
