"""Causal language models: the config of a new GPT-2, its boundary tokens, and its cache."""

from __future__ import annotations

import inspect

import torch
from transformers import GPT2Config, PreTrainedModel, PreTrainedTokenizerBase

MAX_POSITIONS = 1024  # of GPT-2 (Radford et al. 2019, section 2.3)


def boundary_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The ids of the tokens before and after a document.

    A tokenizer without a token that begins a text, such as GPT-2's, uses the one that ends it in both places.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return eos if bos is None else bos, eos


def new_gpt2_config(layers: int, width: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> GPT2Config:
    """The config of a new GPT-2.

    Args:
        layers: Number of layers.
        width: Width of the hidden states; heads are 64 wide.
        tokenizer: Gives the size of the vocabulary and the boundary tokens.
        max_length: The most tokens of a sample. The model has at least as many positions, and at least GPT-2's.
    """
    bos, eos = boundary_tokens(tokenizer)
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=width,
        n_layer=layers,
        n_head=width // 64,
        n_positions=max(MAX_POSITIONS, max_length),
        bos_token_id=bos,
        eos_token_id=eos,
    )


def disable_cache(model: PreTrainedModel) -> None:
    """Let the model keep no keys and values for later tokens, unless its caller asks for it with use_cache.

    Training generates no tokens, so a cache would only take memory.
    """
    if "use_cache" not in inspect.signature(model.forward).parameters:
        return

    def set_default(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {"use_cache": False, **kwargs}

    model.register_forward_pre_hook(set_default, with_kwargs=True)
