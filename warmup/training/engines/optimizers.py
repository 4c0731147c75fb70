"""Optimizers by name, with the plan's numbers, and each weight's share of the rate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import nn, optim

from warmup.config.recipe import parse_lr_ratio
from warmup.errors import UserError
from warmup.plan import Plan

WHOLE_WEIGHTS = ("lamb", "adafactor")
"""Optimizers that look at a weight as a whole, so that an engine must not divide it."""
_EMBEDDINGS = r"embeddings\.|\.(wte|wpe|embed_tokens|embed_positions|embed_in)\."  # of BERT, GPT-2 and decoders like it


def build_optimizer(
    model: nn.Module, plan: Plan, layer_decay: float = 1.0, lr_ratios: Sequence[str] = ()
) -> optim.Optimizer:
    """The plan's optimizer, for weights whose share of the rate is not 0; the others are frozen. Biases and norms
    (parameters with fewer than two dimensions) are not decayed.

    Raises UserError where a name in lr_ratios is of no weight, or all are frozen.
    """
    ratios = lr_multipliers(model, layer_decay, lr_ratios)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and ratios[name] > 0)
        if parameter.requires_grad:
            decay = plan.weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((ratios[name], decay), []).append(parameter)
    if not groups:
        raise UserError("recipe.lr_ratios: freezes every weight")
    ordered = sorted(groups, reverse=True)
    return _create(
        plan,
        [{"params": groups[key], "weight_decay": key[1], "lr_ratio": key[0]} for key in ordered],
    )


def _create(plan: Plan, groups: list[dict]) -> optim.Optimizer:
    """Fused kernels where torch has them: on CPUs too they are several times faster than the others."""
    lr = plan.peak_lr
    match plan.optimizer:
        case "adamw":
            return optim.AdamW(groups, lr=lr, betas=plan.betas, eps=plan.eps, fused=True)
        case "adam":
            return optim.Adam(groups, lr=lr, betas=plan.betas, eps=plan.eps, fused=True)
        case "sgd":
            return optim.SGD(groups, lr=lr, momentum=plan.momentum, fused=True)
        case "rmsprop":
            return optim.RMSprop(groups, lr=lr, alpha=plan.alpha, eps=plan.eps, momentum=plan.momentum)
        case "adafactor":
            return optim.Adafactor(groups, lr=lr)
        case "lamb":
            from pytorch_optimizer import Lamb

            # As in arXiv:1904.00962v3, algorithm 2: the decay is inside of what is scaled to the weight, and moments
            # are not corrected (the library corrects one, by a count of its own, unless told adam_debias).
            return Lamb(groups, lr=lr, betas=plan.betas, eps=plan.eps, weight_decouple=False, adam_debias=True)
    raise AssertionError(plan.optimizer)


def lr_multipliers(model: nn.Module, layer_decay: float, lr_ratios: Sequence[str]) -> dict[str, float]:
    """Each weight's share of the rate: layer_decay ^ (layers above it), times what lr_ratios say of it.

    Of L layers the embeddings have L + 1 above them, the first layer L, the last one 1, and a head none: the layer-wise
    decay of BEiT (Bao et al. 2022) and, but for its head, of ELECTRA (Clark et al. 2020).
    """
    names = [name for name, _ in model.named_parameters()]
    given = [parse_lr_ratio(text) for text in lr_ratios]
    for part, _ in given:
        if not any(_within(part, name) for name in names):
            raise UserError(f"recipe.lr_ratios: no weight has {part!r} in its name; there are {_some(names)}")
    top = max(map(_depth, names)) + 1
    found = {}
    for name in names:
        depth = _depth(name)
        own = max(((len(part), ratio) for part, ratio in given if _within(part, name)), default=(0, 1.0))[1]
        found[name] = own * layer_decay ** (0 if depth < 0 else top - depth)
    return found


def _depth(name: str) -> int:
    """0 for embeddings, n + 1 for layer n, -1 for what is above all layers."""
    match = re.search(r"\.(?:\w*layers?|h)\.(\d+)\.", name)
    return int(match[1]) + 1 if match else 0 if re.search(_EMBEDDINGS, name) else -1


def _within(part: str, name: str) -> bool:
    """Whether a dotted name has these parts, one after the other, in it."""
    return f".{part}." in f".{name}."


def _some(names: Iterable[str]) -> str:
    """The modules to choose from, those of layers once."""
    modules = dict.fromkeys(re.sub(r"\.\d+\..*", ".0", name.rpartition(".")[0]) for name in names)
    return ", ".join(modules)


def describe_groups(model: nn.Module, optimizer: optim.Optimizer) -> str | None:
    """In words, where not all weights have the same rate."""
    ratios = [group["lr_ratio"] for group in optimizer.param_groups]
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    parts = [f"{min(ratios):.3g} to {max(ratios):.3g} of the rate"] if set(ratios) != {1.0} else []
    parts += [f"{frozen:,} weights frozen"] if frozen else []
    return "; ".join(parts) or None


def check_shardable(optimizer: str, engine: str) -> None:
    """Raise UserError for an optimizer that needs whole weights under an engine that divides them."""
    if optimizer in WHOLE_WEIGHTS:
        raise UserError(f"recipe.optimizer: {optimizer} looks at whole weights, which {engine} divides; use adamw")
