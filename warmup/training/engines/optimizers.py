"""Creates the plan's optimizer, with a learning rate multiplier for each weight."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import nn, optim

from warmup.config.recipe import parse_lr_ratio
from warmup.errors import UserError
from warmup.plan import Plan

WHOLE_WEIGHTS = ("lamb", "adafactor")
"""Optimizers whose update of a weight depends on the whole weight, so that an engine must not shard it."""
_EMBEDDINGS = r"embeddings\.|\.(wte|wpe|embed_tokens|embed_positions|embed_in)\."  # BERT, GPT-2 and decoders like it


def build_optimizer(
    model: nn.Module, plan: Plan, layer_decay: float = 1.0, lr_ratios: Sequence[str] = ()
) -> optim.Optimizer:
    """Create the plan's optimizer. Weights whose learning rate multiplier is 0 are frozen.

    Biases and norms (parameters with fewer than two dimensions) are not decayed.

    Args:
        model: the model to train; the `requires_grad` of frozen weights is set to False.
        plan: the optimizer's name and its numbers.
        layer_decay: as `lr_multipliers`.
        lr_ratios: as `lr_multipliers`.

    Returns:
        The optimizer; each of its parameter groups has an "lr_multiplier", the largest first.

    Raises:
        UserError: if a name in lr_ratios matches no weight, or all weights are frozen.
    """
    multipliers = lr_multipliers(model, layer_decay, lr_ratios)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and multipliers[name] > 0)
        if parameter.requires_grad:
            decay = plan.weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((multipliers[name], decay), []).append(parameter)
    if not groups:
        raise UserError("recipe.lr_ratios: freezes every weight")
    ordered = sorted(groups, reverse=True)
    return _create(
        plan,
        [{"params": groups[key], "weight_decay": key[1], "lr_multiplier": key[0]} for key in ordered],
    )


def _create(plan: Plan, groups: list[dict]) -> optim.Optimizer:
    """Uses fused kernels where torch has them: on CPUs too they are several times faster than the others."""
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

            # As in arXiv:1904.00962v3, algorithm 2: the decay is part of the update that is scaled to the weight, and
            # moments are not bias-corrected (without adam_debias the library corrects one, by a count of its own).
            return Lamb(groups, lr=lr, betas=plan.betas, eps=plan.eps, weight_decouple=False, adam_debias=True)
    raise AssertionError(plan.optimizer)


def lr_multipliers(model: nn.Module, layer_decay: float, lr_ratios: Sequence[str]) -> dict[str, float]:
    """The factor by which each weight's learning rate differs from the plan's.

    It is layer_decay ^ (layers above the weight), times the ratio that lr_ratios give to it. Of L layers the embeddings
    have L + 1 above them, the first layer has L, the last one 1, and the head none: the layer-wise decay of BEiT (Bao
    et al. 2022) and, except for its head, of ELECTRA (Clark et al. 2020).

    Args:
        model: the model whose weights are listed.
        layer_decay: the factor from one layer to the next below it.
        lr_ratios: entries such as "classifier=10". Where several match a weight, the longest name counts.

    Returns:
        The multiplier of each parameter, by name.

    Raises:
        UserError: if a name in lr_ratios matches no weight.
    """
    names = [name for name, _ in model.named_parameters()]
    ratios = [parse_lr_ratio(text) for text in lr_ratios]
    for part, _ in ratios:
        if not any(_contains(name, part) for name in names):
            raise UserError(f"recipe.lr_ratios: no weight has {part!r} in its name; there are {_list_modules(names)}")
    top = max(map(_depth, names)) + 1
    multipliers = {}
    for name in names:
        depth = _depth(name)
        ratio = max(((len(part), ratio) for part, ratio in ratios if _contains(name, part)), default=(0, 1.0))[1]
        multipliers[name] = ratio * layer_decay ** (0 if depth < 0 else top - depth)
    return multipliers


def _depth(name: str) -> int:
    """0 for embeddings, n + 1 for layer n, -1 for weights above all layers."""
    match = re.search(r"\.(?:\w*layers?|h)\.(\d+)\.", name)
    return int(match[1]) + 1 if match else 0 if re.search(_EMBEDDINGS, name) else -1


def _contains(name: str, part: str) -> bool:
    """Whether the components of the dotted name `part` follow each other in the dotted name `name`."""
    return f".{part}." in f".{name}."


def _list_modules(names: Iterable[str]) -> str:
    """The modules that have weights; of a list of layers, only the first."""
    modules = dict.fromkeys(re.sub(r"\.\d+\..*", ".0", name.rpartition(".")[0]) for name in names)
    return ", ".join(modules)


def describe_groups(model: nn.Module, optimizer: optim.Optimizer) -> str | None:
    """In words, which multipliers differ from 1 and how many weights are frozen; None if all weights are alike."""
    multipliers = [group["lr_multiplier"] for group in optimizer.param_groups]
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    uniform = set(multipliers) == {1.0}
    parts = [] if uniform else [f"lr multiplied by {min(multipliers):.3g} to {max(multipliers):.3g}"]
    parts += [f"{frozen:,} weights frozen"] if frozen else []
    return "; ".join(parts) or None


def check_shardable(optimizer: str, engine: str) -> None:
    """Raise UserError for an optimizer that needs whole weights under an engine that shards them."""
    if optimizer in WHOLE_WEIGHTS:
        raise UserError(f"recipe.optimizer: {optimizer} needs whole weights, which {engine} shards; use adamw")
