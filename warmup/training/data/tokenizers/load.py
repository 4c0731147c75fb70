"""Loading tokenizers, and checking that a task can use them."""

from __future__ import annotations

import copy
from typing import Any, Literal, cast

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from warmup.errors import UserError
from warmup.training import hub
from warmup.training.models.build import check_folder, first_line
from warmup.training.models.positions import max_positions

TokenizerNeeds = Literal["cls_sep_pad", "eos"]
"""Special tokens that a task needs: those of an encoder, or one that ends a text, for causal language modelling."""


def load_tokenizer(
    name: str, flag: str, needs: TokenizerNeeds = "cls_sep_pad", **options: Any
) -> PreTrainedTokenizerBase:
    """Load a tokenizer and check that it is a fast one with the special tokens that are needed.

    Args:
        name: A folder or a hub name.
        flag: The option that named it, for error messages.
        needs: Which special tokens it must have.
        **options: Passed on to AutoTokenizer.from_pretrained.

    Raises:
        UserError: There is no such tokenizer, or it lacks what is needed.
    """
    check_folder(name, flag)
    try:
        tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(name, **options))
    except Exception as error:  # transformers raises whatever its parts raise
        hub.check_reachable(name, flag, error)
        raise UserError(f"{flag}: {name} has no tokenizer that can be loaded: {first_line(error)}") from error
    if needs == "eos":
        if not tokenizer.is_fast or tokenizer.eos_token_id is None:
            raise UserError(f"{flag}: the tokenizer of {name} is not a fast one with a token that ends a text (eos)")
    elif not tokenizer.is_fast or None in (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id):
        raise UserError(f"{flag}: the tokenizer of {name} is not a fast one with [CLS], [SEP] and [PAD] tokens")
    return tokenizer


def load_word_tokenizer(name: str, flag: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer that splits a single word into the same tokens as within a text.

    Byte-level tokenizers (RoBERTa's, ModernBERT's) mark the beginning of a word by the space before it. They are loaded
    with add_prefix_space, so that single words get this mark too.

    Args:
        name: A folder or a hub name.
        flag: The option that named it, for error messages.

    Raises:
        UserError: As `load_tokenizer`, or if single words are split differently all the same.
    """
    tokenizer = load_tokenizer(name, flag)
    if not _keeps_words(tokenizer):
        tokenizer = load_tokenizer(name, flag, add_prefix_space=True)
        pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
        if getattr(pre_tokenizer, "add_prefix_space", True) is False:  # transformers sets it for some classes only
            pre_tokenizer.add_prefix_space = True
    if not _keeps_words(tokenizer):
        raise UserError(
            f"{flag}: the tokenizer of {name} splits a single word differently than within a text, even with "
            "add_prefix_space, so that task: token-classification cannot use it; give another one"
        )
    return tokenizer


def _keeps_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    options = {"add_special_tokens": False, "verbose": False}
    single_words = tokenizer(["in", "in"], is_split_into_words=True, **options)
    return single_words["input_ids"] == tokenizer("in in", **options)["input_ids"]


def with_model_max_length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer with model_max_length at most the model's positions, so that truncation=True truncates to them.

    Args:
        tokenizer: Not changed; a copy is returned if its model_max_length is too large.
        model: The model that it is saved with.
    """
    positions = max_positions(model)
    if positions is None or tokenizer.model_max_length <= positions:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = positions
    return tokenizer
