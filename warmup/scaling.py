"""Scaling rules: how a recipe that was tuned at one batch size is adapted to a batch k times as large.

k = B / B0 is the global batch size divided by the reference batch size: any number above 0, whole or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from warmup.errors import PlanError
from warmup.shapes import Number, find

ADAPTIVE = ("adam", "adamw", "rmsprop", "lamb", "adafactor")
"""Optimizers that divide the gradient by an estimate of its size."""


def linear(k: Number) -> float:
    """lr * k (Goyal et al. 2017, arXiv:1706.02677, section 2.1). For SGD."""
    return float(k)


def sqrt(k: Number) -> float:
    """lr * sqrt(k) (Krizhevsky 2014, arXiv:1404.5997; for Adam and RMSprop: Malladi et al. 2022, arXiv:2205.10287)."""
    return math.sqrt(k)


def none(k: Number) -> float:
    """lr at any batch size."""
    return 1.0


RULES: dict[str, Callable[[Number], float]] = {"linear": linear, "sqrt": sqrt, "none": none}


def resolve(rule: str, optimizer: str) -> str:
    """The rule that "auto" stands for: sqrt for adaptive optimizers, linear for SGD. Other rules are returned as is."""
    return ("sqrt" if optimizer in ADAPTIVE else "linear") if rule == "auto" else rule


def factor(rule: str, k: Number) -> float:
    """The factor that the learning rate is multiplied by at k times the batch.

    Args:
        rule: a name in RULES, or module:function for the user's own function of k.
        k: global batch size / reference batch size.

    Raises:
        PlanError: there is no such rule.
    """
    return find(rule, RULES, "recipe.scaling")(k)


def scale_beta(beta: float, k: Number, rule: str) -> float:
    """The coefficient of an exponential moving average (Adam's betas, RMSprop's alpha, momentum) at k times the batch.

    Args:
        beta: the coefficient at the reference batch size.
        k: global batch size / reference batch size.
        rule: none; sde: 1 - k(1 - beta), Malladi et al. 2022 (arXiv:2205.10287, definitions 2 and 3); or half-life:
            beta^k, which keeps the half-life in samples (Marek et al. 2025, arXiv:2507.07101, for Adam's second beta;
            that it holds for the others too is this project's assumption).

    Raises:
        PlanError: `rule` is sde and k is not below 1 / (1 - beta).
    """
    if rule == "none" or beta == 0:
        return beta
    if rule == "half-life":
        return beta ** float(k)
    scaled = float(1 - Fraction(k) * (1 - Fraction(str(beta))))  # exact: in floats, 0.9 at k = 10 is just above 0
    if scaled <= 0:
        limit = 1 / (1 - beta)
        raise PlanError(
            "beta-range",
            f"recipe.beta_scaling: sde changes beta {beta:g} to {scaled:.3g} at k = {float(k):g}; it is valid for "
            f"k < {limit:.4g} only; use half-life, or a smaller batch",
        )
    return scaled


def momentum_correction(momentum: float, scaled: float) -> float:
    """The factor of the learning rate that keeps its effect where the momentum changes: (1 - scaled) / (1 - momentum).

    Heavy-ball momentum as torch has it, v = momentum * v + gradient, adds each gradient 1 + momentum + momentum^2 + ...
    = 1 / (1 - momentum) times in all. A moving average, as Adam has, adds it once and needs no factor.
    """
    return (1 - scaled) / (1 - momentum)


def scale_eps(eps: float, k: Number, rule: str) -> float:
    """Adam's and RMSprop's epsilon at k times the batch: eps / sqrt(k) under sde, unchanged under the other rules."""
    return eps / math.sqrt(k) if rule == "sde" else eps
