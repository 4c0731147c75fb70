"""The section `recipe`: what was tuned, at the reference batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from warmup.config.checks import require
from warmup.duration import Duration

BALANCED = "balanced"  # among the class weights


@dataclass(frozen=True)
class Recipe:
    """What was tuned, at the reference batch size."""

    optimizer: Literal["adamw", "adam", "rmsprop", "sgd", "lamb", "adafactor"] = "adamw"
    """The optimizer."""
    lr: float = 1e-4
    """Learning rate at the reference batch size; the scaling rule makes the peak of it."""
    reference_batch_size: int | None = None
    """Global batch size that the recipe was tuned at. Steps in a length are steps of this batch."""
    scaling: str = "linear"
    """How lr follows the batch: linear (lr * k), sqrt, none, auto (linear for sgd, else sqrt) or module:function."""
    max_lr: float | None = None
    """Cap of the scaled peak."""
    warmup: str = "0 steps"
    """Length of the warmup at the reference batch size: "10000 steps", "5 epochs", "2.56M samples", "2B tokens",
    "6%"."""
    warmup_scaling: Literal["samples", "steps"] = "samples"
    """What stays the same at another batch size: the warmup's samples (Goyal et al.) or its steps (LEGW, LAMB)."""
    ramp: str = "linear"
    """Shape of the warmup: linear, exponential, cosine, constant, polynomial or module:function."""
    ramp_power: float = 2.0
    """Exponent of the polynomial ramp."""
    start_lr: float | Literal["reference"] = 0.0
    """Rate that the ramp starts from, not scaled; reference: lr itself (Goyal et al.: from lr to k * lr)."""
    decay: str = "linear"
    """After the warmup: constant, linear, cosine, polynomial, step, multistep, exponential, inverse_sqrt, wsd or
    module:function."""
    end_lr: float = 0.0
    """Rate at the end, and floor of the decays that have no end. Not scaled."""
    decay_cycles: int = 1
    """Cosine: number of cycles, each from the peak."""
    decay_milestones: Sequence[str] = ()
    """Multistep: where the rate is multiplied by decay_gamma, counted from step 0."""
    decay_gamma: float = 0.1
    """Step, multistep, exponential: the factor."""
    decay_power: float = 1.0
    """Exponent of the polynomial decay."""
    decay_length: str | None = None
    """Step: distance between drops; exponential: length of one factor; inverse_sqrt: time scale (default: the
    warmup); wsd: length of the final decay (default: 10%)."""
    duration: str = "3 epochs"
    """Length of the run, at the reference batch size."""
    layer_decay: float = 1.0
    """Each layer's rate, as a part of that of the layer above it: 0.9, say, for fine-tuning."""
    lr_ratios: Sequence[str] = ()
    """Rates of single parts, as a part of the rate, by their names in the model: classifier=10; 0 freezes:
    embeddings=0 encoder.layer.0=0. The longest name that fits counts."""
    weight_decay: float = 0.01
    """Weight decay; never on biases and norms."""
    max_grad_norm: float = 1.0
    """Clip the global gradient norm to this; 0: do not clip."""
    betas: tuple[float, float] = (0.9, 0.999)
    """adamw, adam, lamb: coefficients of the two moments."""
    eps: float = 1e-8
    """adamw, adam, lamb, rmsprop: epsilon."""
    momentum: float = 0.9
    """sgd, rmsprop: momentum."""
    alpha: float = 0.99
    """rmsprop: smoothing coefficient."""
    beta_scaling: Literal["none", "sde", "half-life"] = "none"
    """How betas, alpha and momentum follow the batch: sde (1 - k(1 - beta), eps / sqrt(k); adaptive optimizers) or
    half-life (beta^k)."""
    label_smoothing: float = 0.0
    """Classification, of texts or tokens: the part of each target that is spread evenly over all classes."""
    class_weights: Sequence[str] = ()
    """Classification, of texts or tokens: how much a target counts in training, by its class: balanced (n / (classes *
    n_c), which is 1 in the mean) or weights by name, 1 for the others: positive=2 negative=0.5. The sum is divided by
    the number of targets, not by their weights; the held-out loss knows neither weights nor smoothing."""
    max_skipped: int = 10
    """End the run after so many steps in a row that were skipped for a gradient that is not finite. (In fp16 those do
    not count that were computed at a loss scale above 1.)"""

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
        for name in ("reference_batch_size", "decay_cycles", "max_skipped"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"recipe.{name}", value, "1 or above")
        for name, value in (("betas", self.betas[0]), ("betas", self.betas[1]), ("momentum", self.momentum)):
            require(0 <= value < 1, f"recipe.{name}", value, "in 0 <= beta < 1")
        require(0 <= self.alpha < 1, "recipe.alpha", self.alpha, "in 0 <= alpha < 1")
        start = self.start_lr
        number = isinstance(start, int | float) and 0 <= start < math.inf
        require(number or start == "reference", "recipe.start_lr", start, "0, above, or 'reference'")
        require(Duration.parse(self.duration, "recipe.duration").value > 0, "recipe.duration", self.duration, "above 0")
        Duration.parse(self.warmup, "recipe.warmup")
        for milestone in self.decay_milestones:
            Duration.parse(milestone, "recipe.decay_milestones")
        if self.decay_length is not None:
            length = Duration.parse(self.decay_length, "recipe.decay_length")
            require(length.value > 0, "recipe.decay_length", self.decay_length, "above 0")


def parse_lr_ratio(text: str) -> tuple[str, float]:
    """Name and ratio of one of `recipe.lr_ratios`. Raises UserError where it is not one."""
    return _named_number(text, "recipe.lr_ratios", "a name and a number: classifier=10")


def parse_class_weight(text: str) -> tuple[str, float]:
    """Class and weight of one of `recipe.class_weights`. Raises UserError where it is not one."""
    return _named_number(text, "recipe.class_weights", f"a class and a number (positive=2), nor {BALANCED}, alone")


def _named_number(text: str, flag: str, wanted: str) -> tuple[str, float]:
    name, _, number = str(text).rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    require(bool(name) and 0 <= value < math.inf, flag, text, wanted)
    return name, value
