"""Causal language models: the config of a new GPT-2, and what a given model and its tokenizer must satisfy."""

from __future__ import annotations

import inspect

import torch
from transformers import GPT2Config, PreTrainedModel, PreTrainedTokenizerBase

from warmup.errors import UserError

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


@torch.inference_mode()
def check_causal(model: PreTrainedModel, name: str) -> None:
    """Raise UserError if the logits at a token depend on the next token, which the model is to predict.

    This finds encoders: transformers loads them for causal language modelling too, and lets them see every token.
    """
    ids_BT = torch.tensor([[0, 1], [0, 2]])
    first_BV = model.eval()(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).logits[:, 0]
    if (first_BV[0] - first_BV[1]).abs().max() > 1e-4 * first_BV.abs().max():
        raise UserError(
            f"model: {name} sees the tokens that it is to predict; task: clm needs one that reads from left "
            "to right, as GPT-2 does"
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
