"""Models: a new BERT or GPT-2 of a named size, or one from a folder or the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, BertConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from warmup.config.tasks import TASKS, ProblemType
from warmup.errors import UserError
from warmup.training import hub
from warmup.training.models import gpt2, probe
from warmup.training.models.dropout import set_dropout
from warmup.training.models.positions import max_positions

logging.set_verbosity_error()  # build_model returns the names of new weights; the caller reports them
logging.disable_progress_bar()
SIZES = {  # layers, width; Turc et al. 2019, arXiv:1908.08962, and Devlin et al. 2018, arXiv:1810.04805
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}


@dataclass(frozen=True)
class ModelSpec:
    """Which model to build, and for what."""

    name: str
    """A name in SIZES for a new model; else a folder or a hub name."""

    auto_class: Any
    """The transformers Auto class of the task."""

    max_length: int
    """The most tokens that a sample can have."""

    seed: int
    """New weights are a function of it, so that they are the same on every rank."""

    dropout: float | None = None
    """The rate of all dropouts; None keeps those of the model's config."""

    labels: tuple[str, ...] = ()
    """Names of the head's outputs, in order; empty for language models."""

    problem_type: ProblemType | None = None
    """What the labels are. It is saved in the model's config, which pipelines read; None if there are no labels."""

    has_classes: bool = True
    """Whether the labels are names of classes. Only a saved head that tells other classes apart is drawn anew."""

    causal: bool = False
    """Whether the model predicts the next token, so that it must not see later ones."""

    adapt: Callable[[PreTrainedModel], None] = lambda model: None
    """Lets it take sequences (B, T) and give `logits`, where it would not. What is exported is the model as it was."""


def is_new_model(name: str) -> bool:
    return name in SIZES


def label_names(name: str) -> list[str]:
    """The classes of a saved classifier, in order; none for a new model. An encoder's are LABEL_0 and LABEL_1."""
    if is_new_model(name):
        return []
    names = getattr(load_config(name), "id2label", None) or {}
    return [names[index] for index in sorted(names)]


def build_model(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> tuple[PreTrainedModel, list[str]]:
    """Build the model that `spec` describes, with the same weights on every rank.

    If a loaded model has only one token type, "token_type_ids" is removed from the tokenizer's model inputs.

    Returns:
        The model and the names of its new weights; ["all"] for a new model.

    Raises:
        UserError: The model cannot be loaded, or does not fit the tokenizer or the maximum length.
    """
    config = _base_config(spec, tokenizer)
    known_labels = {label.lower() for label in (config.id2label or {}).values()}
    _configure(config, spec)
    torch.manual_seed(spec.seed)
    if is_new_model(spec.name):
        model = spec.auto_class.from_config(config)
        spec.adapt(model)
        return model, ["all"]
    model, new_weights = _load(spec, config)
    spec.adapt(model)
    if not new_weights and _has_other_classes(known_labels, spec):
        new_weights = _reset_head(model)
    _fit_tokenizer(model, spec, tokenizer)
    return model, new_weights


def _fit_tokenizer(model: PreTrainedModel, spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a loaded model can take the tokenizer's samples; keep token types from one that has a single type.

    Raises:
        UserError: The model has too few positions or embeddings, or sees the tokens that it is to predict.
    """
    positions = max_positions(model)
    if positions is not None and spec.max_length > positions:
        raise UserError(f"data.max_length: {spec.max_length} is more than the {positions} positions of {spec.name}")
    if not probe.takes_token_types(model):
        names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names  # the latter is saved
    embeddings = len(cast(torch.nn.Embedding, model.get_input_embeddings()).weight)
    if len(tokenizer) > embeddings:
        raise UserError(
            f"model: {spec.name} has {embeddings} word embeddings, its tokenizer {len(tokenizer)} tokens; give the "
            "tokenizer that it was trained with"
        )
    if spec.causal:
        probe.check_causal(model, spec.name)


def _base_config(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> Any:
    if not is_new_model(spec.name):
        return load_config(spec.name)
    if spec.causal:
        return gpt2.new_gpt2_config(*SIZES[spec.name], tokenizer, spec.max_length)
    return _new_bert_config(spec.name, tokenizer, spec.max_length)


def _configure(config: Any, spec: ModelSpec) -> None:
    """Set the config's dropouts and labels, in place."""
    if spec.dropout is not None:
        set_dropout(config, spec.dropout)
    for facts in TASKS.values():  # of the run that the model is from; the end of this one sets its own
        for name in facts.model_settings:
            vars(config).pop(name, None)
    if spec.labels:
        config.problem_type = spec.problem_type
        config.num_labels = len(spec.labels)
        config.id2label = dict(enumerate(spec.labels))
        config.label2id = {label: index for index, label in enumerate(spec.labels)}


def _has_other_classes(known_labels: set[str], spec: ModelSpec) -> bool:
    """Whether a saved head tells other classes apart than `spec` does.

    Names are compared without case. transformers' default names, LABEL_0 and so on, say nothing about the classes and
    count as equal; so do names of outputs that are no classes: of a number, of a choice's score.

    Args:
        known_labels: Names in the saved config, in lower case.
        spec: What the model is to be built for.
    """
    if not spec.labels or not spec.has_classes:
        return False
    has_default_names = all(label.startswith("label_") for label in known_labels)
    return not has_default_names and known_labels != {label.lower() for label in spec.labels}


def _reset_head(model: PreTrainedModel) -> list[str]:
    """Draw all weights outside the encoder anew, as BERT's are (Devlin et al. 2018). Returns their names."""
    heads = [(name, child) for name, child in model.named_children() if name != model.base_model_prefix]
    for _, child in heads:
        for module in child.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=getattr(model.config, "initializer_range", 0.02))
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
    return [f"{name}.{weight}" for name, child in heads for weight, _ in child.named_parameters()]


def _new_bert_config(size: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> BertConfig:
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
    """The config of a folder or hub name. Raises UserError if it cannot be loaded."""
    check_folder(name, "model")
    try:
        return AutoConfig.from_pretrained(name)
    except Exception as error:  # transformers raises whatever its parts raise
        hub.check_reachable(name, "model", error)
        raise UserError(f"model: {name} cannot be loaded: {first_line(error)}; sizes are {', '.join(SIZES)}") from error


def _load(spec: ModelSpec, config: Any) -> tuple[PreTrainedModel, list[str]]:
    """Load the weights. Returns the model and the names of the weights that are missing in the folder.

    Only weights of the head may be missing: an encoder without its weights is an error, not a fresh start.
    """
    _check_shards(spec.name)
    try:
        model, info = spec.auto_class.from_pretrained(
            spec.name, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
        )
    except Exception as error:
        raise UserError(f"model: the weights of {spec.name} cannot be loaded: {first_line(error)}") from error
    new = sorted({*info["missing_keys"], *(key[0] for key in info.get("mismatched_keys", ()))})
    encoder = [key for key in new if key.startswith(model.base_model_prefix + ".") and ".pooler." not in key]
    if encoder:
        raise UserError(f"model: {spec.name} lacks weights of its encoder, {encoder[0]} and {len(encoder) - 1} more")
    return model, new


def _check_shards(name: str) -> None:
    """Raise UserError if the index of a model folder names files outside it, which transformers would open."""
    for index in Path(name).glob("*.index.json"):
        try:
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue  # transformers says what is wrong with it, if it reads it
        for shard in map(str, shards):
            if os.path.isabs(shard) or ".." in Path(shard).parts:
                raise UserError(f"model: {index} names {shard!r}, which is outside its folder; shards must be in it")


def check_folder(name: str, flag: str) -> None:
    """Raise UserError, naming `flag`, if the name looks like a path and no such folder exists.

    If it is a name on the hub, see that the hub can be reached, or else go without it.
    """
    if os.path.isdir(name):
        return
    if not name.startswith((".", "/", "~")) and name.count("/") <= 1:
        hub.go_offline_if_unreachable()
    else:
        raise UserError(f"{flag}: no folder {name}; give a folder, a hub name, or one of {', '.join(SIZES)}")


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
