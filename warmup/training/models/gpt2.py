"""Models that read from left to right: a new GPT-2, and what is asked of one that is given, and of its tokenizer."""

from __future__ import annotations

import inspect

import torch
from transformers import GPT2Config, PreTrainedModel, PreTrainedTokenizerBase

from warmup.errors import UserError

MAX_POSITIONS = 1024  # of GPT-2 (Radford et al. 2019, section 2.3)


def boundary_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The tokens before and after a document: where none begins a text, the one that ends it, as GPT-2's does."""
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    return last if first is None else first, last


def new_gpt2_config(layers: int, width: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> GPT2Config:
    first, last = boundary_tokens(tokenizer)
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=width,
        n_layer=layers,
        n_head=width // 64,
        n_positions=max(MAX_POSITIONS, max_length),
        bos_token_id=first,
        eos_token_id=last,
    )


@torch.inference_mode()
def check_causal(model: PreTrainedModel, name: str) -> None:
    """Raise UserError where what is said of a token depends on the one after it, which it is to predict.

    Encoders are among those: transformers loads them for this task too, and lets them see everything.
    """
    ids_BT = torch.tensor([[0, 1], [0, 2]])
    first_BV = model.eval()(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).logits[:, 0]
    if (first_BV[0] - first_BV[1]).abs().max() > 1e-4 * first_BV.abs().max():
        raise UserError(
            f"model: {name} sees the tokens that it is to predict; task: clm needs one that reads from left "
            "to right, as GPT-2 does"
        )


def disable_cache(model: PreTrainedModel) -> None:
    """Keep no keys and values for tokens to come, unless asked to: there are none while training."""
    if "use_cache" not in inspect.signature(model.forward).parameters:
        return

    def ask(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {"use_cache": False, **kwargs}

    model.register_forward_pre_hook(ask, with_kwargs=True)
