"""The section `recipe`: the hyperparameters that were tuned, at the reference batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from warmup.config.checks import require, require_count
from warmup.duration import Duration

BALANCED = "balanced"
"""The value of `class_weights` that makes all classes count the same."""


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters that were tuned, at the reference batch size."""

    optimizer: Literal["adamw", "adam", "rmsprop", "sgd", "lamb", "adafactor"] = "adamw"
    """The optimizer."""
    lr: float = 1e-4
    """Learning rate at the reference batch size. The scaling rule makes the peak learning rate of the run from it."""
    reference_batch_size: int | None = None
    """Global batch size (samples per step over all ranks) that the recipe was tuned at. The scale k is the global batch
    size of the run divided by it. Steps in a duration of the recipe are steps of this size."""
    scaling: str = "linear"
    """Scaling rule: how the learning rate changes with k = global batch size / reference batch size: linear (lr * k),
    sqrt (lr * sqrt(k)), noise (linear for sgd and sqrt for the others as far as noise_scale lets them hold), none, auto
    (linear for sgd, sqrt for the other optimizers) or module:function (lr * function(k))."""
    scaled: Literal["lr", "all"] = "lr"
    """What follows the batch: lr, with what other fields turn on; or all that belongs together for the optimizer: sgd
    linear with weight_decay_scaling timescale; adamw sqrt with beta_scaling sde and timescale; adam and rmsprop sqrt
    with sde; lamb sqrt. Where sde ends, half-life takes its place."""
    noise_scale: str | None = None
    """Gradient noise scale: "2000 samples" or "250k tokens", the batch at which a larger one begins to pay less."""
    reference_max_length: int | None = None
    """data.max_length that the recipe was tuned at, where a batch is meant in tokens. The linter compares."""
    max_lr: float | None = None
    """Upper limit of the scaled learning rate."""
    warmup: str = "0 steps"
    """Length of the warmup at the reference batch size: "10000 steps", "5 epochs", "2.56M samples", "2B tokens" or "6%"
    of the duration."""
    warmup_scaling: Literal["samples", "steps"] = "samples"
    """What the warmup keeps at another batch size: its number of samples (Goyal et al.) or its number of steps (LEGW,
    LAMB)."""
    ramp: str = "linear"
    """Shape of the warmup: linear, exponential, cosine, constant, polynomial or module:function."""
    ramp_power: float = 2.0
    """Exponent of the polynomial ramp."""
    start_lr: float | Literal["reference"] = 0.0
    """Learning rate that the warmup starts from. It is not scaled. reference: the recipe's lr (Goyal et al.: from lr to
    k * lr)."""
    decay: str = "linear"
    """Shape of the decay after the warmup: constant, linear, cosine, polynomial, step, multistep, exponential,
    inverse_sqrt, 1-sqrt, wsd or module:function."""
    end_lr: float = 0.0
    """Learning rate at the end of the run, and lower limit of the decays that do not reach a given end. It is not
    scaled."""
    decay_cycles: int = 1
    """Cosine: number of cycles, each of which starts at the peak."""
    decay_milestones: Sequence[str] = ()
    """Multistep: positions, counted from step 0, at which the learning rate is multiplied by decay_gamma."""
    decay_gamma: float = 0.1
    """Step, multistep, exponential: the factor."""
    decay_power: float = 1.0
    """Exponent of the polynomial decay."""
    decay_length: str | None = None
    """Step: distance between drops; exponential: distance over which the learning rate is multiplied by decay_gamma;
    inverse_sqrt: time scale (default: the warmup); wsd: length of the final decay (default: 10%)."""
    cooldown: Literal["linear", "cosine", "1-sqrt"] = "linear"
    """wsd: shape of the final decay."""
    duration: str = "3 epochs"
    """Length of the run at the reference batch size."""
    layer_decay: float = 1.0
    """Learning rate of each layer relative to that of the layer above it, for example 0.9 for fine-tuning."""
    lr_ratios: Sequence[str] = ()
    """Learning rates of parts of the model relative to that of the run, by their names in the model: classifier=10. 0
    freezes: embeddings=0 encoder.layer.0=0. If several names match, the longest one counts."""
    weight_decay: float = 0.01
    """Weight decay; biases and normalization layers have none."""
    max_grad_norm: float = 1.0
    """Clip the global gradient norm to this; 0: no clipping."""
    betas: tuple[float, float] = (0.9, 0.999)
    """adamw, adam, lamb: coefficients of the moving averages of the gradient and its square."""
    eps: float = 1e-8
    """adamw, adam, lamb, rmsprop: epsilon."""
    momentum: float = 0.9
    """sgd, rmsprop: momentum."""
    alpha: float = 0.99
    """rmsprop: smoothing coefficient."""
    beta_scaling: str = "none"
    """How betas, alpha and momentum change with the scale k: none, sde (1 - k(1 - beta) and eps / sqrt(k); for adaptive
    optimizers) or half-life (beta^k; with a momentum, the peak is multiplied by (1 - momentum^k) / (1 - momentum)). One
    rule for all, or one for each of the two that the optimizer has: none,half-life."""
    beta_floor: float = 0.0
    """Half-life lowers no coefficient below it."""
    weight_decay_scaling: Literal["none", "timescale"] = "none"
    """How the weight decay changes with k: none, or timescale (weight_decay * k * lr / peak: weights lose the same part
    per sample; for adamw and sgd)."""
    label_smoothing: float = 0.0
    """Classification of texts or tokens: fraction of each target that is spread evenly over all classes."""
    class_weights: Sequence[str] = ()
    """Classification of texts or tokens: weights of the classes in the training loss: balanced (n / (classes * n_c),
    which averages 1 over the targets), or weights by name, with 1 for the others: positive=2 negative=0.5. The weighted
    sum is divided by the number of targets, not by the sum of their weights. The held-out loss uses neither weights nor
    smoothing."""
    max_skipped: int = 10
    """End the run after this many steps in a row were skipped because their gradient was not finite. (In fp16, steps at
    a loss scale above 1 do not count.)"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay_milestones", tuple(self.decay_milestones))
        object.__setattr__(self, "betas", tuple(self.betas))
        object.__setattr__(self, "lr_ratios", tuple(self.lr_ratios))
        object.__setattr__(self, "class_weights", tuple(self.class_weights))
        for text in self.lr_ratios:
            parse_lr_ratio(text)
        if self.class_weights != (BALANCED,):
            for text in self.class_weights:
                parse_class_weight(text)
        require(0 <= self.label_smoothing < 1, "recipe.label_smoothing", self.label_smoothing, "in 0 <= x < 1")
        require(0 < self.layer_decay <= 1, "recipe.layer_decay", self.layer_decay, "in 0 < x <= 1")
        for name in ("lr", "max_lr", "ramp_power", "decay_power", "decay_gamma", "eps"):
            value = getattr(self, name)
            require(value is None or 0 < value < math.inf, f"recipe.{name}", value, "above 0")
        for name in ("end_lr", "weight_decay", "max_grad_norm"):
            require(0 <= getattr(self, name) < math.inf, f"recipe.{name}", getattr(self, name), "0 or above")
        for name in ("reference_batch_size", "reference_max_length", "decay_cycles", "max_skipped"):
            require_count(f"recipe.{name}", getattr(self, name))
        for name, value in (("betas", self.betas[0]), ("betas", self.betas[1]), ("momentum", self.momentum)):
            require(0 <= value < 1, f"recipe.{name}", value, "in 0 <= beta < 1")
        require(0 <= self.alpha < 1, "recipe.alpha", self.alpha, "in 0 <= alpha < 1")
        require(0 <= self.beta_floor < 1, "recipe.beta_floor", self.beta_floor, "in 0 <= beta < 1")
        self._check_rules()
        start = self.start_lr
        number = isinstance(start, int | float) and 0 <= start < math.inf
        require(number or start == "reference", "recipe.start_lr", start, "0 or above, or 'reference'")
        require(Duration.parse(self.duration, "recipe.duration").value > 0, "recipe.duration", self.duration, "above 0")
        Duration.parse(self.warmup, "recipe.warmup")
        for milestone in self.decay_milestones:
            Duration.parse(milestone, "recipe.decay_milestones")
        if self.decay_length is not None:
            length = Duration.parse(self.decay_length, "recipe.decay_length")
            require(length.value > 0, "recipe.decay_length", self.decay_length, "above 0")

    def _check_rules(self) -> None:
        rules = [rule.strip() for rule in self.beta_scaling.split(",")]
        known = all(rule in ("none", "sde", "half-life") for rule in rules)
        expected = "none, sde or half-life, or two of them: none,half-life"
        require(known and len(rules) <= 2, "recipe.beta_scaling", self.beta_scaling, expected)
        if self.noise_scale is not None:
            unit = Duration.parse(self.noise_scale, "recipe.noise_scale").unit
            require(unit in ("samples", "tokens"), "recipe.noise_scale", self.noise_scale, "in samples or tokens")


def parse_lr_ratio(text: str) -> tuple[str, float]:
    """Split one of `recipe.lr_ratios` into name and ratio. Raises UserError if it is malformed."""
    return _named_number(text, "recipe.lr_ratios", "a name and a number: classifier=10")


def parse_class_weight(text: str) -> tuple[str, float]:
    """Split one of `recipe.class_weights` into class and weight. Raises UserError if it is malformed."""
    return _named_number(text, "recipe.class_weights", f"a class and a number (positive=2), or {BALANCED} alone")


def _named_number(text: str, flag: str, expected: str) -> tuple[str, float]:
    name, _, number = str(text).rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    require(bool(name) and 0 <= value < math.inf, flag, text, expected)
    return name, value
