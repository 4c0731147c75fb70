"""Hooks that let a model compute its last layer and its head only where the output is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationMixin, PreTrainedModel

from warmup.training.models import gpt2, packed_attention, varlen_attention
from warmup.training.models.attention_masks import leave_masks_unread
from warmup.training.models.heads import align_output_rows
from warmup.training.models.input_layout import PACKED_DECODERS, Head, InputLayout, supports_packing
from warmup.training.models.positions import first_position
from warmup.training.models.varlen_attention import SequenceBounds


def install_partial_forward(
    model: PreTrainedModel,
    head: Head,
    packed: bool,
    masked_only: bool,
    varlen: bool = False,
    static_max_length: int = 0,
) -> InputLayout:
    """Let a model compute only what is read: the masked positions of a language model, the first one of a classifier.

    In most small models the head is the larger part of the work, and six of seven of its rows are not needed. In the
    last encoder layer everything but keys and values is needed only where the output is read. Called as transformers
    would call it, the model computes everything, as it does after export.

    Args:
        model: is changed in place: its forward takes more keyword arguments.
        head: what its head reads.
        packed: put several samples into a row where the model can.
        masked_only: compute the last layer and the head only at the positions that are read.
        varlen: use the kernel for variable lengths (see `choose_varlen`).
        static_max_length: as the field of InputLayout.

    Returns:
        How the model's inputs are to be laid out.
    """
    model_type, config = model.config.model_type, model.config
    leave_masks_unread(model)
    align_output_rows(model)
    if supports_packing(model):
        _hook_last_layer(model, whole=not masked_only)
        if varlen:
            varlen_attention.enable(model)
        padding_id = config.pad_token_id or 0
        return InputLayout(
            head=head,
            logits="positions" if masked_only or head == "sequence" else "all",
            rows=True,
            packed=packed,
            varlen=varlen,
            static_max_length=static_max_length,
            first_position=first_position(model),
            padding_id=padding_id,
        )
    if packed_attention.packs(model, head):
        packed_attention.enable(model)
        _select_output(model, packed_attention.pooled_module(model))
        return InputLayout(
            head=head,
            logits="positions" if masked_only or head == "sequence" else "all",
            positions_in="head",
            rows=True,
            packed=packed,
            first_position=first_position(model),
            padding_id=config.pad_token_id or 0,
        )
    selects = head == "token" and masked_only
    if selects:
        _hook_head(model)
    gpt2.disable_cache(model)
    in_rows = model_type in PACKED_DECODERS and config._attn_implementation == "sdpa" and head == "token"
    return InputLayout(
        head=head,
        logits="positions" if selects else "all",
        positions_in="head",
        rows=in_rows,
        packed=in_rows and packed,
        causal=in_rows,
    )


def _hook_last_layer(model: PreTrainedModel, whole: bool) -> None:
    """Let the last layer return (N, 1, D), its output at the read positions, if it is given some.

    transformers forwards keyword arguments that it does not know to every layer. With `whole`, the layer is computed
    everywhere and its output selected.
    """
    base_model: Any = model.base_model
    layer = base_model.encoder.layer[-1]
    forward = layer.forward

    def partial_forward(
        hidden_RTD: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *args: Any,
        read_positions: torch.Tensor | None = None,
        gather_index: torch.Tensor | None = None,
        read_cu_seqlens: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if read_positions is None:
            return forward(hidden_RTD, attention_mask, *args, **kwargs)
        if whole:
            hidden_RTD = forward(hidden_RTD, attention_mask, *args, **kwargs)
            read_RmD = _gather(hidden_RTD, read_positions)
        else:
            bounds = None
            if read_cu_seqlens is not None:
                bounds = SequenceBounds(read_cu_seqlens, kwargs["cu_seqlens"], kwargs["max_seqlen"])
            read_RmD = _last_layer_at(layer, hidden_RTD, attention_mask, read_positions, bounds)
        read_ND = read_RmD.flatten(0, 1)
        return (read_ND if gather_index is None else read_ND[gather_index])[:, None]

    layer.forward = partial_forward


def _gather(hidden_RTD: torch.Tensor, read_Rm: torch.Tensor) -> torch.Tensor:
    return hidden_RTD.gather(1, read_Rm[..., None].expand(-1, -1, hidden_RTD.shape[-1]))


def _last_layer_at(
    layer: Any,
    hidden_RTD: torch.Tensor,
    mask: torch.Tensor | None,
    read_Rm: torch.Tensor,
    bounds: SequenceBounds | None = None,
) -> torch.Tensor:
    """BertLayer's output at some positions of each row: keys and values of all, everything else only of those.

    Args:
        layer: a BertLayer or one like it.
        hidden_RTD: its input.
        mask: (R, 1, T or 1, T) bool, None where every token attends to all.
        read_Rm: the positions, within each row.
        bounds: of a single row, in place of a mask: where samples begin among the read positions (the queries) and
            among all (the keys).

    Returns:
        (R, m, D).
    """
    attention, (rows, length, width) = layer.attention.self, hidden_RTD.shape
    read_RmD = _gather(hidden_RTD, read_Rm)
    inputs = attention.query(read_RmD), attention.key(hidden_RTD), attention.value(hidden_RTD)
    heads = [x.view(rows, -1, attention.num_attention_heads, attention.attention_head_size) for x in inputs]
    dropout = attention.dropout.p if layer.training else 0.0
    if bounds is not None:
        query, key, value = (x.squeeze(0) for x in heads)
        context = varlen_attention.kernel(query, key, value, bounds, dropout)
    else:
        if mask is not None:
            mask = mask.expand(-1, -1, length, -1).gather(2, read_Rm[:, None, :, None].expand(-1, -1, -1, length))
        query, key, value = (x.transpose(1, 2) for x in heads)
        context = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout
        ).transpose(1, 2)
    attended_RmD = layer.attention.output(context.reshape(rows, -1, width), read_RmD)
    return layer.output(layer.intermediate(attended_RmD), attended_RmD)


def _hook_head(model: PreTrainedModel) -> None:
    """Let a language model's head compute only `positions` (N,) of the flattened batch: logits (N, 1, V)."""
    if not isinstance(model, GenerationMixin):
        return _select_output(model, model.base_model)
    # Some of these go around their base model. Their head is one product.
    select = _take_positions(model)
    output_embeddings: Any = model.get_output_embeddings()
    output_embeddings.register_forward_pre_hook(lambda module, args: (select(args[0]),))


def _select_output(model: PreTrainedModel, module: torch.nn.Module) -> None:
    """Let a module of the model return the hidden states of `positions` only."""
    select = _take_positions(model)

    def select_output(module: torch.nn.Module, args: tuple, output: Any) -> Any:
        output["last_hidden_state"] = select(output["last_hidden_state"])
        return output

    module.register_forward_hook(select_output)


def _take_positions(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """Let the model take `positions`. Returns what selects them of hidden states (B, T, D): (N, 1, D)."""
    given: dict[str, torch.Tensor | None] = {}

    def take(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        given["positions"] = kwargs.pop("positions", None)
        return args, kwargs

    def select(hidden_BTD: torch.Tensor) -> torch.Tensor:
        positions = given["positions"]
        return hidden_BTD if positions is None else hidden_BTD.flatten(0, 1)[positions][:, None]

    model.register_forward_pre_hook(take, with_kwargs=True)
    return select
