"""Scaling rules: how a recipe tuned at one batch size is carried to a batch k times as large.

k = B / B0, the global batch over the reference batch. Any k > 0, whole or not, above or below 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from warmup.shapes import find

ADAPTIVE = ("adam", "adamw", "rmsprop", "lamb", "adafactor")


def linear(k: float) -> float:
    """lr * k (Goyal et al. 2017, arXiv:1706.02677, section 2.1). For SGD."""
    return float(k)


def sqrt(k: float) -> float:
    """lr * sqrt(k) (Krizhevsky 2014, arXiv:1404.5997; for Adam and RMSprop: Malladi et al. 2022, arXiv:2205.10287)."""
    return math.sqrt(k)


def none(k: float) -> float:
    """lr, whatever the batch."""
    return 1.0


RULES: dict[str, Callable[[float], float]] = {"linear": linear, "sqrt": sqrt, "none": none}


def resolve(rule: str, optimizer: str) -> str:
    """The rule that `auto` means for an optimizer: sqrt for adaptive ones, linear for SGD. Others stay as they are."""
    return ("sqrt" if optimizer in ADAPTIVE else "linear") if rule == "auto" else rule


def factor(rule: str, k: float) -> float:
    """What the learning rate is multiplied by. `rule` is a name in RULES or module:function, a function of k."""
    return find(rule, RULES, "recipe.scaling")(k)


def scale_beta(beta: float, k: float, rule: str) -> float:
    """An exponential average's coefficient (Adam's betas, RMSprop's alpha, momentum) at k times the batch.

    sde: 1 - k(1 - beta), Malladi et al. 2022 (arXiv:2205.10287, definitions 2 and 3). Raises ValueError unless
    k < 1 / (1 - beta).
    half-life: beta^k, which keeps the half-life in samples (Marek et al. 2025, arXiv:2507.07101). Any k.
    """
    if rule == "none" or beta == 0:
        return beta
    if rule == "half-life":
        return beta ** float(k)
    scaled = float(1 - Fraction(k) * (1 - Fraction(str(beta))))  # exact, or 0.9 at k = 10 would be just above 0
    if scaled <= 0:
        limit = 1 / (1 - beta)
        raise ValueError(
            f"recipe.beta_scaling: sde takes beta {beta:g} to {scaled:.3g} at k = {float(k):g}; it holds for "
            f"k < {limit:.4g} only; use half-life, or a smaller batch"
        )
    return scaled


def scale_eps(eps: float, k: float, rule: str) -> float:
    """Adam's and RMSprop's epsilon at k times the batch: eps / sqrt(k) under sde, unchanged otherwise."""
    return eps / math.sqrt(k) if rule == "sde" else eps
