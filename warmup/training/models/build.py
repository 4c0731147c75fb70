"""Models: a new BERT of a named size, or one from a folder or the hub."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from warmup.errors import UserError
from warmup.training.models import gpt2

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


def is_new_model(name: str) -> bool:
    return name in SIZES


def label_names(name: str) -> list[str]:
    """The classes of a classifier in their order; none for a new model. (An encoder's are LABEL_0, LABEL_1.)"""
    if is_new_model(name):
        return []
    names = getattr(load_config(name), "id2label", None) or {}
    return [names[number] for number in sorted(names)]


def build_model(
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
    if not is_new_model(name):
        config = load_config(name)
    elif goes_on:
        config = gpt2.new_gpt2_config(*SIZES[name], tokenizer, max_length)
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
    longest = max_positions(config)
    if longest is not None and max_length > longest:
        raise UserError(f"data.max_length: {max_length} is more than the {longest} positions of {name}")
    if getattr(config, "type_vocab_size", 2) < 2:  # a tokenizer may speak of a second text that the model cannot tell
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    torch.manual_seed(seed)
    if is_new_model(name):
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
        gpt2.check_causal(model, name)
    return model, new


def max_positions(config: Any) -> int | None:
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
    check_folder(name, "model")
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


def check_folder(name: str, flag: str) -> None:
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not os.path.isdir(name):
        raise UserError(f"{flag}: no folder {name}; give a folder, a hub name, or one of {', '.join(SIZES)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
