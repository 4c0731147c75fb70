"""What is found out about a model by two short texts, before it is trained: whether it can be trained as promised.

A family of models is recognised by what it does, not by a list of names, which would never be complete.
"""

from __future__ import annotations

import inspect

import torch
from transformers import PreTrainedModel

from warmup.errors import UserError, one_line
from warmup.training.models.positions import max_positions

_SHORT, _LONG = 5, 24  # tokens of the two texts: an odd number, for those that pool pairs of tokens
_ROUNDING = 1e-4  # relative to the largest logit; more than this is no rounding, however deep the model


def takes_token_types(model: PreTrainedModel) -> bool:
    """Whether the model can tell the second text of a pair from the first."""
    takes = "token_type_ids" in inspect.signature(model.forward).parameters
    return takes and getattr(model.config, "type_vocab_size", 2) > 1


def check_padding(model: PreTrainedModel, name: str) -> None:
    """Raise UserError if a text's logits depend on the padding beside it, hence on the texts in its micro-batch.

    The training of such a model depends on the number of ranks. Examples are FNet, whose Fourier transform mixes
    padding in, and XLNet's classifier, which reads the last token.
    """
    ids_BT, mask_BT = _short_texts(model)
    with torch.inference_mode():
        alone = _logits(model, ids_BT[:1, :_SHORT], mask_BT[:1, :_SHORT], name)[0]
        padded = _logits(model, ids_BT, mask_BT, name)[0]
    if alone.ndim > 1:  # logits of each token
        padded = padded[:_SHORT]
    if (alone - padded).abs().max() > _ROUNDING * alone.abs().max():
        raise UserError(
            f"model: {name} ({model.config.model_type}) reads the padding of a batch, so its training would depend on "
            "the number of ranks; use an architecture that masks padding, such as BERT, RoBERTa or DeBERTa"
        )


def freeze_unused(model: PreTrainedModel, name: str) -> list[str]:
    """Freeze the weights that the logits do not depend on. They get no gradient, for which engines would wait.

    Examples are the poolers of heads that read single tokens, and Longformer's global attention where no token has it.

    Args:
        model: is changed in place.
        name: for error messages.

    Returns:
        The names of the weights that were frozen.

    Raises:
        UserError: The model cannot compute a short text.
    """
    with torch.enable_grad():
        used = _leaves(_logits(model, *_short_texts(model), name))
    unused = [
        (path, weight) for path, weight in model.named_parameters() if weight.requires_grad and weight not in used
    ]
    for _, weight in unused:
        weight.requires_grad_(False)
    return [path for path, _ in unused]


def check_causal(model: PreTrainedModel, name: str) -> None:
    """Raise UserError if the logits at a token depend on the next token, which the model is to predict.

    This finds encoders: transformers loads them for causal language modelling too, and lets them see every token.
    """
    ids_BT = torch.tensor([[0, 1], [0, 2]])
    with torch.inference_mode():
        first_BV = _logits(model, ids_BT, torch.ones_like(ids_BT), name)[:, 0]
    if (first_BV[0] - first_BV[1]).abs().max() > 1e-4 * first_BV.abs().max():
        raise UserError(
            f"model: {name} sees the tokens that it is to predict; task: clm needs one that reads from left "
            "to right, as GPT-2 does"
        )


def _short_texts(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, (2, T): a short text that is padded, and a longer one."""
    longest = min(_LONG, max_positions(model) or _LONG)
    lengths_B1 = torch.tensor([[_SHORT], [longest]])
    vocabulary, padding_id = model.config.vocab_size, model.config.pad_token_id or 0
    mask_BT = torch.arange(longest) < lengths_B1
    ids_BT = (7919 * torch.arange(1, 2 * longest + 1).view(2, longest)) % vocabulary  # a prime, so that tokens differ
    ids_BT = torch.where(ids_BT == padding_id, (padding_id + 1) % vocabulary, ids_BT)
    return torch.where(mask_BT, ids_BT, padding_id), mask_BT.long()


def _logits(model: PreTrainedModel, ids_BT: torch.Tensor, mask_BT: torch.Tensor, name: str) -> torch.Tensor:
    try:
        return model.eval()(input_ids=ids_BT, attention_mask=mask_BT).logits
    except Exception as error:  # whatever a model's code raises
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"model: {name} ({model.config.model_type}) cannot compute a short text: {reason}") from error


def _leaves(output: torch.Tensor) -> set[torch.Tensor]:
    """The tensors that a gradient of `output` would reach."""
    found, seen, waiting = set(), set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        waiting += [function for function, _ in node.next_functions]
    return found
