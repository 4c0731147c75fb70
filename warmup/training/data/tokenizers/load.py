"""Loading tokenizers, and checking that a task can use them."""

from __future__ import annotations

import copy
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from warmup.errors import UserError
from warmup.training.models.build import _first_line, check_folder, max_positions


def load_tokenizer(name: str, flag: str, goes_on: bool = False, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name; `goes_on`: of a model that goes on with a text (task: clm).
    Raises UserError, naming `flag`, where there is none to use.
    """
    check_folder(name, flag)
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


def load_word_tokenizer(name: str, flag: str) -> PreTrainedTokenizerBase:
    """A tokenizer to which a word by itself is what it is in a text. Byte-level ones (RoBERTa's, ModernBERT's) know the
    beginning of a word by the blank before it, which they are made to think of.
    """
    tokenizer = load_tokenizer(name, flag)
    if not _keeps_words(tokenizer):
        tokenizer = load_tokenizer(name, flag, add_prefix_space=True)
        parts = tokenizer.backend_tokenizer.pre_tokenizer
        if getattr(parts, "add_prefix_space", True) is False:  # the library passes it on for some kinds alone
            parts.add_prefix_space = True
    if not _keeps_words(tokenizer):
        raise UserError(
            f"{flag}: the tokenizer of {name} reads a word by itself as another than in a text, even with "
            "add_prefix_space, so that task: token-classification cannot use it; give another one"
        )
    return tokenizer


def _keeps_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    options = {"add_special_tokens": False, "verbose": False}
    alone = tokenizer(["in", "in"], is_split_into_words=True, **options)
    return alone["input_ids"] == tokenizer("in in", **options)["input_ids"]


def with_model_max_length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """A tokenizer that knows where the model's positions end, so that truncation=True truncates."""
    longest = max_positions(model.config)
    if longest is None or tokenizer.model_max_length <= longest:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = longest
    return tokenizer
