"""Models: a new BERT of a named size, or one from a folder or the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from warmup.training import causal
from warmup.training.outcome import UserError

logging.set_verbosity_error()  # which weights are new, we say ourselves
logging.disable_progress_bar()

SIZES = {  # layers, width; Turc et al. 2019, arXiv:1908.08962, and Devlin et al. 2018, arXiv:1810.04805
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}
_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "hidden_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "summary_first_dropout",
)


def is_new(name: str) -> bool:
    return name in SIZES


def label_names(name: str) -> list[str]:
    """The classes of a classifier in their order; none for a new model. (An encoder's are LABEL_0, LABEL_1.)"""
    if is_new(name):
        return []
    names = getattr(load_config(name), "id2label", None) or {}
    return [names[number] for number in sorted(names)]


def load_tokenizer(name: str, flag: str, goes_on: bool = False, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name; `goes_on`: of a model that goes on with a text (task: clm).
    Raises UserError, naming `flag`, where there is none to use.
    """
    _refuse_missing_folder(name, flag)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except Exception as error:  # transformers raises whatever its parts raise
        raise UserError(f"{flag}: {name} has no tokenizer that can be loaded: {_first_line(error)}") from error
    if goes_on:
        if not tokenizer.is_fast or tokenizer.eos_token_id is None:
            raise UserError(f"{flag}: the tokenizer of {name} is not a fast one with a token that ends a text (eos)")
    elif not tokenizer.is_fast or None in (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id):
        raise UserError(f"{flag}: the tokenizer of {name} is not a fast one with [CLS], [SEP] and [PAD] tokens")
    return tokenizer


def build(
    name: str,
    auto_class: Any,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    dropout: float | None,
    labels: tuple[str, ...],
    seed: int,
) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the names of the weights that are new. The same weights on every rank.

    `auto_class` is the transformers Auto class of the task; `labels` the classes' names, none for language
    models, and one for regression.
    Raises UserError where the model cannot be loaded or does not fit the tokenizer or max_length.
    """
    goes_on = auto_class is AutoModelForCausalLM
    if not is_new(name):
        config = load_config(name)
    elif goes_on:
        config = causal.new_config(*SIZES[name], tokenizer, max_length)
    else:
        config = _new_config(name, tokenizer, max_length)
    for field in _DROPOUTS:
        if dropout is not None and hasattr(config, field):
            setattr(config, field, dropout)
    known = {label.lower() for label in (config.id2label or {}).values()}
    if labels:
        config.problem_type = "single_label_classification" if len(labels) > 1 else "regression"
        config.num_labels = len(labels)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    longest = positions(config)
    if longest is not None and max_length > longest:
        raise UserError(f"data.max_length: {max_length} is more than the {longest} positions of {name}")
    if getattr(config, "type_vocab_size", 2) < 2:  # a tokenizer may speak of a second text that the model cannot tell
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    torch.manual_seed(seed)
    if is_new(name):
        return auto_class.from_config(config), ["all"]
    model, new = _load(name, auto_class, config)
    if len(labels) > 1 and not new and known != {label.lower() for label in labels} and not _unnamed(known):
        new = _renew_head(model)  # it tells other classes apart
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise UserError(
            f"model: {name} has {model.get_input_embeddings().num_embeddings} word embeddings, its tokenizer "
            f"{len(tokenizer)} tokens; give the tokenizer that it was trained with"
        )
    if goes_on:
        causal.refuse_looking_ahead(model, name)
    return model, new


def positions(config: Any) -> int | None:
    """How many tokens a model can tell the places of; None for any number. RoBERTa's start counting after padding's."""
    count = getattr(config, "max_position_embeddings", None)
    return count - 2 if count is not None and "roberta" in config.model_type else count


def _unnamed(labels: set[str]) -> bool:
    """Whether classes have transformers' default names, which say nothing of what they mean."""
    return all(label.startswith("label_") for label in labels)


def _renew_head(model: PreTrainedModel) -> list[str]:
    """Draw all weights outside the encoder anew, as BERT's are (Devlin et al. 2018). Returns their names."""
    heads = [(name, child) for name, child in model.named_children() if name != model.base_model_prefix]
    for _, child in heads:
        for module in child.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=getattr(model.config, "initializer_range", 0.02))
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
    return [f"{name}.{weight}" for name, child in heads for weight, _ in child.named_parameters()]


@dataclass(frozen=True)
class Reading:
    """What a model can be asked for, and how its inputs are laid out for it.

    positions: it takes the flattened places whose logits are wanted. rows: it takes samples in rows, `packs` of them
    several in one, and gives the logits of the places that are read. dense: but its last layer and a language model's
    head are computed everywhere. causal: in rows a place sees none after it. first_position, padding: the model's
    numbers of the first place and of padding.
    """

    positions: bool = False
    rows: bool = False
    packs: bool = False
    dense: bool = False
    causal: bool = False
    first_position: int = 0
    padding: int = 0


WHOLE = Reading()
ROWS = ("bert", "electra", "roberta", "xlm-roberta", "camembert")  # encoders that are made of BertModel's modules
CAUSAL_ROWS = ("gpt2", "llama", "gpt_neox")  # decoders that take a mask of any shape as it is, and positions


def read_only_where_asked(model: PreTrainedModel, task_reads_tokens: bool, packs: bool, masked_only: bool) -> Reading:
    """Let a model compute only what is read: of a language model the masked places, of a classifier the first ones.

    Of most small models' work, the head is the larger part, and six of seven of its rows are not asked for; of the
    last encoder layer, everything but keys and values is needed only where something is read. Called as transformers
    would call it, the model computes all, as it does once exported.
    """
    kind, config = model.config.model_type, model.config
    if kind in ROWS and config._attn_implementation == "sdpa" and not config.is_decoder:
        _read_in_last_layer(model, whole=not masked_only)
        padding = config.pad_token_id or 0
        first = padding + 1 if "roberta" in kind or kind == "camembert" else 0  # these count from behind padding's
        return Reading(rows=True, packs=packs, dense=not masked_only, first_position=first, padding=padding)
    reads = task_reads_tokens and masked_only
    if reads:
        _read_in_head(model)
    causal.without_cache(model)
    if kind in CAUSAL_ROWS and config._attn_implementation == "sdpa" and task_reads_tokens:
        return Reading(rows=True, packs=packs, positions=reads, dense=not reads, causal=True)
    return Reading(positions=True) if reads else WHOLE


def attention(model: PreTrainedModel, reading: Reading) -> str:
    """How attention is computed, in words."""
    return f"{model.config._attn_implementation}, {'samples packed in rows' if reading.packs else 'samples padded'}"


def _read_in_last_layer(model: PreTrainedModel, whole: bool) -> None:
    """The last layer gives (n, 1, width), the places that are read, where it is told of them."""
    asked = _taken_off(model, "read", "kept")
    layer = model.base_model.encoder.layer[-1]
    forward = layer.forward

    def read(hidden_RTD: torch.Tensor, attention_mask: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        if asked["read"] is None:
            return forward(hidden_RTD, attention_mask, *args, **kwargs)
        if whole:
            hidden_RTD = forward(hidden_RTD, attention_mask, *args, **kwargs)
            read_RmD = hidden_RTD.gather(1, asked["read"][..., None].expand(-1, -1, hidden_RTD.shape[-1]))
        else:
            read_RmD = _layer_at(layer, hidden_RTD, attention_mask, asked["read"])
        return read_RmD.flatten(0, 1)[asked["kept"]][:, None]

    layer.forward = read


def _layer_at(
    layer: torch.nn.Module, hidden_RTD: torch.Tensor, mask: torch.Tensor | None, read_Rm: torch.Tensor
) -> torch.Tensor:
    """BertLayer's output at the places read_Rm of each row: keys and values of all, everything else of those alone.

    mask: (R, 1, T or 1, T) bool, None where all see all.
    """
    attention, (rows, length, width) = layer.attention.self, hidden_RTD.shape
    read_RmD = hidden_RTD.gather(1, read_Rm[..., None].expand(-1, -1, width))

    def heads(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(rows, -1, attention.num_attention_heads, attention.attention_head_size).transpose(1, 2)

    if mask is not None:
        mask = mask.expand(-1, -1, length, -1).gather(2, read_Rm[:, None, :, None].expand(-1, -1, -1, length))
    context = torch.nn.functional.scaled_dot_product_attention(
        heads(attention.query(read_RmD)),
        heads(attention.key(hidden_RTD)),
        heads(attention.value(hidden_RTD)),
        attn_mask=mask,
        dropout_p=attention.dropout.p if layer.training else 0.0,
    )
    attended_RmD = layer.attention.output(context.transpose(1, 2).reshape(rows, -1, width), read_RmD)
    return layer.output(layer.intermediate(attended_RmD), attended_RmD)


def _read_in_head(model: PreTrainedModel) -> None:
    """A language model's head computes `positions` (n,) alone, of the flattened batch: logits (1, n, V)."""
    asked = _taken_off(model, "positions")

    def select(hidden_BTD: torch.Tensor) -> torch.Tensor:
        return hidden_BTD if asked["positions"] is None else hidden_BTD.flatten(0, 1)[asked["positions"]][None]

    def after(module: torch.nn.Module, args: tuple, output: Any) -> Any:
        output["last_hidden_state"] = select(output["last_hidden_state"])
        return output

    if isinstance(model, GenerationMixin):  # some of these go around their base model; their head is one product
        model.get_output_embeddings().register_forward_pre_hook(lambda module, args: (select(args[0]),))
    else:
        model.base_model.register_forward_hook(after)


def _taken_off(model: PreTrainedModel, *names: str) -> dict[str, torch.Tensor | None]:
    """A dictionary that holds, while the model is called, what it was given under these names, unknown to it."""
    asked: dict[str, torch.Tensor | None] = {}

    def take(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        asked.update({name: kwargs.pop(name, None) for name in names})
        return args, kwargs

    model.register_forward_pre_hook(take, with_kwargs=True)
    return asked


def _new_config(size: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> BertConfig:
    layers, width = SIZES[size]
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        max_position_embeddings=max(512, max_length),
        pad_token_id=tokenizer.pad_token_id,
    )


def load_config(name: str) -> Any:
    _refuse_missing_folder(name, "model")
    try:
        return AutoConfig.from_pretrained(name)
    except Exception as error:
        raise UserError(
            f"model: {name} cannot be loaded: {_first_line(error)}; sizes are {', '.join(SIZES)}"
        ) from error


def _load(name: str, auto_class: Any, config: Any) -> tuple[PreTrainedModel, list[str]]:
    """The weights. Only a head may be new: an encoder without its weights is an error, not a fresh start."""
    try:
        model, info = auto_class.from_pretrained(
            name, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
        )
    except Exception as error:
        raise UserError(f"model: the weights of {name} cannot be loaded: {_first_line(error)}") from error
    new = sorted({*info["missing_keys"], *(key[0] for key in info.get("mismatched_keys", ()))})
    encoder = [key for key in new if key.startswith(model.base_model_prefix + ".") and ".pooler." not in key]
    if encoder:
        raise UserError(f"model: {name} lacks weights of its encoder, {encoder[0]} and {len(encoder) - 1} more")
    return model, new


def _refuse_missing_folder(name: str, flag: str) -> None:
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not os.path.isdir(name):
        raise UserError(f"{flag}: no folder {name}; give a folder, a hub name, or one of {', '.join(SIZES)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
