"""Scaling rules: how a recipe that was tuned at one batch size is adapted to a batch k times as large.

k = B / B0 is the global batch size divided by the reference batch size: any number above 0, whole or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from warmup.config.recipe import Recipe
from warmup.errors import PlanError
from warmup.shapes import Number, find

ADAPTIVE = ("adam", "adamw", "rmsprop", "lamb", "adafactor")
"""Optimizers that divide the gradient by an estimate of its size."""
RATE_DECAYS = ("adamw", "sgd")
"""Optimizers whose weight decay works through the learning rate alone, so that `timescale` holds."""
SETS: dict[str, dict[str, str]] = {
    "sgd": {"scaling": "linear", "beta_scaling": "none", "weight_decay_scaling": "timescale"},
    "adamw": {"scaling": "sqrt", "beta_scaling": "sde", "weight_decay_scaling": "timescale"},
    "adam": {"scaling": "sqrt", "beta_scaling": "sde", "weight_decay_scaling": "none"},
    "rmsprop": {"scaling": "sqrt", "beta_scaling": "sde", "weight_decay_scaling": "none"},
    "lamb": {"scaling": "sqrt", "beta_scaling": "none", "weight_decay_scaling": "none"},
}
"""The rules that `recipe.scaled: all` stands for, by optimizer, as fields of a recipe.

sgd: Goyal et al. 2017 (arXiv:1706.02677) scale the rate and keep the momentum; lamb: You et al. 2019 (arXiv:1904.00962)
scale the rate and keep the betas; the others: Malladi et al. 2022 (arXiv:2205.10287), definitions 2 and 3.
"""


def linear(k: Number) -> float:
    """lr * k (Goyal et al. 2017, arXiv:1706.02677, section 2.1). For SGD."""
    return float(k)


def sqrt(k: Number) -> float:
    """lr * sqrt(k) (Krizhevsky 2014, arXiv:1404.5997; for Adam and RMSprop: Malladi et al. 2022, arXiv:2205.10287)."""
    return math.sqrt(k)


def none(k: Number) -> float:
    """lr at any batch size."""
    return 1.0


def noise(k: Number, noise_ratio: Number, adaptive: bool = False) -> float:
    """lr * g for SGD and lr * sqrt(g) for adaptive optimizers, with g = k (B0 + N) / (B + N).

    McCandlish et al. 2018 (arXiv:1812.06162, section 2.2): the best rate at the batch B goes as 1 / (1 + N / B). g is
    also the gain of AdaScale (Johnson et al. 2020, arXiv:2007.05105). N far above the batch gives linear and sqrt, N
    far below it none.

    Args:
        k: global batch size / reference batch size.
        noise_ratio: N / B0: the gradient noise scale in samples / reference batch size.
        adaptive: whether the optimizer divides the gradient by an estimate of its size.
    """
    gain = float(k * (1 + noise_ratio) / (k + noise_ratio))
    return math.sqrt(gain) if adaptive else gain


def extra_samples(noise_scale: float, batch_size: int, reference: int) -> float:
    """How many times the samples a batch needs that the reference batch needs to the same loss: (N + B) / (N + B0).

    McCandlish et al. 2018 (arXiv:1812.06162, section 2.3): samples go as 1 + B / N, steps as 1 + N / B. At B = N either
    is twice its least.
    """
    return (noise_scale + batch_size) / (noise_scale + reference)


RULES: dict[str, Callable[..., float]] = {"linear": linear, "sqrt": sqrt, "none": none, "noise": noise}


def resolve(rule: str, optimizer: str) -> str:
    """The rule that "auto" stands for: sqrt for adaptive optimizers, linear for SGD. Other rules are returned as is."""
    return ("sqrt" if optimizer in ADAPTIVE else "linear") if rule == "auto" else rule


def factor(rule: str, k: Number, noise_ratio: Number | None = None, adaptive: bool = False) -> float:
    """The factor that the learning rate is multiplied by at k times the batch.

    Args:
        rule: a name in RULES, or module:function for the user's own function of k.
        k: global batch size / reference batch size.
        noise_ratio: for noise, as `noise`.
        adaptive: for noise, as `noise`.

    Raises:
        PlanError: there is no such rule, or noise_ratio is missing.
    """
    function = find(rule, RULES, "recipe.scaling")
    if function is not noise:
        return function(k)
    if noise_ratio is None:
        raise PlanError(
            "noise-scale-missing",
            'recipe.noise_scale: needed by recipe.scaling: noise; give the gradient noise scale, e.g. "2000 samples", '
            "or use recipe.scaling: auto",
        )
    return noise(k, noise_ratio, adaptive)


def scale_beta(beta: float, k: Number, rule: str, floor: float = 0.0) -> float:
    """The coefficient of an exponential moving average (Adam's betas, RMSprop's alpha, momentum) at k times the batch.

    Args:
        beta: the coefficient at the reference batch size.
        k: global batch size / reference batch size.
        rule: none; sde: 1 - k(1 - beta), Malladi et al. 2022 (arXiv:2205.10287, definitions 2 and 3); or half-life:
            beta^k, which keeps the half-life in samples (Marek et al. 2025, arXiv:2507.07101, for Adam's second beta;
            that it holds for the others too is this project's assumption).
        floor: half-life lowers no coefficient below it.

    Raises:
        PlanError: `rule` is sde and k is not below 1 / (1 - beta).
    """
    if rule == "none" or beta == 0:
        return beta
    if rule == "half-life":
        return max(beta ** float(k), min(beta, floor))
    scaled = sde(beta, k)
    if scaled <= 0:
        limit = 1 / (1 - beta)
        raise PlanError(
            "beta-range",
            f"recipe.beta_scaling: sde changes beta {beta:g} to {scaled:.3g} at k = {float(k):g}; it is valid for "
            f"k < {limit:.4g} only; use half-life, or a smaller batch",
        )
    return scaled


def sde(beta: float, k: Number) -> float:
    """1 - k(1 - beta), which is a coefficient only above 0. Exact: in floats, 0.9 at k = 10 is just above it."""
    return float(1 - Fraction(k) * (1 - Fraction(str(beta))))


def beta_rules(beta_scaling: str, optimizer: str) -> dict[str, str]:
    """The rule of each coefficient that the optimizer has, by name: beta1 and beta2, alpha and momentum, or momentum.

    Args:
        beta_scaling: one rule for all, or two with a comma between.
        optimizer: the optimizer's name.

    Raises:
        PlanError: a rule is not for this optimizer or coefficient, or there are more rules than coefficients.
    """
    rules = beta_scaling.replace(" ", "").split(",")
    names = {"sgd": ("momentum",), "rmsprop": ("alpha", "momentum"), "adafactor": ()}.get(optimizer, ("beta1", "beta2"))
    if optimizer == "adafactor" and rules != ["none"]:
        raise PlanError("beta-range", "recipe.beta_scaling: adafactor has no betas to scale; use none")
    if optimizer == "rmsprop" and rules == ["sde"]:
        rules = ["sde", "none"]  # Malladi et al. have no momentum
    if len(rules) == 1:
        rules *= len(names)
    by_name = dict(zip(names, rules, strict=False))
    if by_name.get("momentum") == "sde":
        raise PlanError(
            "beta-range",
            "recipe.beta_scaling: sde is valid for adaptive optimizers, and not for a momentum; use half-life for "
            + ("sgd" if optimizer == "sgd" else "the momentum of rmsprop, or none"),
        )
    if len(rules) > len(names):
        raise PlanError(
            "beta-range",
            f"recipe.beta_scaling: {beta_scaling} has {len(rules)} rules, and {optimizer} only a momentum; give one",
        )
    return by_name


def scale_moments(recipe: Recipe, k: Number) -> dict[str, Any]:
    """betas, alpha, momentum and eps at k times the batch.

    Raises:
        PlanError: a rule is not for this optimizer, or a number leaves its range.
    """
    rules = beta_rules(recipe.beta_scaling, recipe.optimizer)
    if recipe.beta_floor and "half-life" not in rules.values() and recipe.scaled != "all":
        raise PlanError("beta-range", "recipe.beta_floor: is for recipe.beta_scaling: half-life; leave it out")
    values = {"beta1": recipe.betas[0], "beta2": recipe.betas[1], "momentum": recipe.momentum, "alpha": recipe.alpha}
    for name, rule in rules.items():
        values[name] = scale_beta(values[name], k, rule, recipe.beta_floor)
    values["eps"] = scale_eps(recipe.eps, k, "sde" if "sde" in rules.values() else "none")
    for name in (*rules, "eps"):
        value = values[name]
        if not (0 < value < math.inf if name == "eps" else 0 <= value < 1):
            raise PlanError(
                "beta-range",
                f"recipe.beta_scaling: {recipe.beta_scaling} changes {name} to {value:g} at k = {float(k):g}, which "
                "is not in its range; use none, or a batch nearer to the reference",
            )
    return {"betas": (values.pop("beta1"), values.pop("beta2")), **values}


def momentum_correction(momentum: float, scaled: float) -> float:
    """The factor of the learning rate that keeps its effect where the momentum changes: (1 - scaled) / (1 - momentum).

    Heavy-ball momentum as torch has it, v = momentum * v + gradient, adds each gradient 1 + momentum + momentum^2 + ...
    = 1 / (1 - momentum) times in all. A moving average, as Adam has, adds it once and needs no factor.
    """
    return (1 - scaled) / (1 - momentum)


def scale_eps(eps: float, k: Number, rule: str) -> float:
    """Adam's and RMSprop's epsilon at k times the batch: eps / sqrt(k) under sde, unchanged under the other rules."""
    return eps / math.sqrt(k) if rule == "sde" else eps


def scale_weight_decay(recipe: Recipe, k: Number, peak_lr: float, correction: float) -> float:
    """The weight decay at k times the batch.

    timescale keeps the part of the weights that decays per sample, effective rate * decay / B (Wang & Aitchison 2024,
    arXiv:2405.13698: the averaging time of AdamW in epochs): decay * k * lr / peak.

    Args:
        recipe: what was tuned, with the rule.
        k: global batch size / reference batch size.
        peak_lr: the rate at k times the batch, capped.
        correction: what the rate was multiplied by for a scaled momentum. The decay of SGD goes through the momentum
            too, so its effective rate is peak_lr / correction.

    Raises:
        PlanError: the optimizer's decay does not work through the rate alone, or the decay leaves its range.
    """
    if recipe.weight_decay_scaling == "none":
        return recipe.weight_decay
    if recipe.optimizer not in RATE_DECAYS:
        raise PlanError(
            "decay-rule",
            f"recipe.weight_decay_scaling: timescale is for {' and '.join(RATE_DECAYS)}, whose weight decay works "
            f"through the learning rate alone; that of {recipe.optimizer} does not: use none",
        )
    scaled = recipe.weight_decay * float(k) * (recipe.lr / peak_lr) * correction
    if not scaled < math.inf:
        raise PlanError(
            "decay-rule",
            f"recipe.weight_decay_scaling: timescale makes the weight decay {scaled} at k = {float(k):g}; use none",
        )
    return scaled


def resolve_set(recipe: Recipe, k: Number) -> Recipe:
    """The recipe with the rules that `recipe.scaled: all` stands for at k times the batch.

    They are those of SETS. Where sde leaves its range, half-life takes its place, for all betas.

    Args:
        recipe: what was tuned. Under all, fields at their defaults, and scaling: auto, leave the choice to the set.
        k: global batch size / reference batch size.

    Raises:
        PlanError: the optimizer has no such set, or a field contradicts it.
    """
    if recipe.scaled == "lr":
        return recipe
    if recipe.optimizer not in SETS:
        raise PlanError(
            "rules-conflict",
            f"recipe.scaled: all has no rules for {recipe.optimizer}, whose steps are relative to the weights; use lr",
        )
    rules: dict[str, Any] = dict(SETS[recipe.optimizer])
    betas = {"rmsprop": (recipe.alpha,)}.get(recipe.optimizer, recipe.betas)
    if rules["beta_scaling"] == "sde" and any(beta and sde(beta, k) <= 0 for beta in betas):
        rules["beta_scaling"] = "half-life,none" if recipe.optimizer == "rmsprop" else "half-life"
    left_open = {"scaling": ("linear", "auto"), "beta_scaling": ("none",), "weight_decay_scaling": ("none",)}
    for name, rule in rules.items():
        given = getattr(recipe, name)
        same = given == rule
        if name == "beta_scaling" and given not in left_open[name]:  # which can be written in several ways
            same = beta_rules(given, recipe.optimizer) == beta_rules(rule, recipe.optimizer)
        if not same and given not in left_open[name]:
            raise PlanError(
                "rules-conflict",
                f"recipe.{name}: {given} contradicts recipe.scaled: all, which stands for {rule} with "
                f"{recipe.optimizer} at k = {float(k):g}; leave it out, or leave out recipe.scaled",
            )
    return replace(recipe, **rules)
