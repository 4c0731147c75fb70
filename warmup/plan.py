"""Recipe x topology -> plan: every number that the run will use, before a GPU is touched. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property

from warmup import scaling, shapes
from warmup.config import Batch, Recipe
from warmup.duration import Duration, round_half_up


class PlanError(ValueError):
    """A recipe that cannot be run on a topology. `code` names the finding of the linter."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Topology:
    """What the hardware gives: data-parallel ranks, samples per rank and micro-batch, micro-batches per step."""

    world_size: int
    per_device_batch_size: int
    accumulation: int = 1
    global_batch_size: int = 0
    """Samples per step; 0: the product of the three. Less than that where it does not divide evenly."""

    def __post_init__(self) -> None:
        product = self.world_size * self.per_device_batch_size * self.accumulation
        size = self.global_batch_size or product
        object.__setattr__(self, "global_batch_size", size)
        if min(self.world_size, self.per_device_batch_size, self.accumulation) < 1:
            raise ValueError(f"a topology is made of numbers from 1 up: {self}")
        if self.world_size > size:
            raise PlanError(
                "idle-ranks",
                f"batch.global_size: {size} samples are too few for {self.world_size} ranks; use {size} at most",
            )
        if size > product:
            raise ValueError(f"a step of {product} samples cannot hold a global batch of {size}: {self}")

    @classmethod
    def cut(cls, batch: Batch, world_size: int) -> Topology:
        """The topology of a batch configuration: with global_size, accumulation = ceil(B / (ranks * per_device))."""
        if batch.global_size is None:
            return cls(world_size, batch.per_device, batch.accumulation or 1)
        accumulation = -(-batch.global_size // (world_size * batch.per_device))
        return cls(world_size, batch.per_device, accumulation, batch.global_size)

    @property
    def slots(self) -> int:
        """Micro-batches of a step over all ranks."""
        return self.world_size * self.accumulation


@dataclass(frozen=True)
class Plan:
    """Every number of a run, resolved. Lengths are exact integers; `samples` are those of applied steps."""

    world_size: int
    per_device_batch_size: int
    accumulation: int
    global_batch_size: int
    reference_batch_size: int
    scale: float
    optimizer: str
    scaling: str
    lr: float
    uncapped_lr: float
    peak_lr: float
    start_lr: float
    end_lr: float
    ramp: str
    ramp_power: float
    decay: str
    decay_cycles: int
    decay_power: float
    decay_gamma: float
    decay_milestones_samples: tuple[int, ...]
    decay_length_samples: int | None
    warmup_scaling: str
    warmup_steps: int
    warmup_samples: int
    total_steps: int
    total_samples: int
    duration_samples: int
    num_samples: int | None
    betas: tuple[float, float]
    eps: float
    momentum: float
    alpha: float
    weight_decay: float
    max_grad_norm: float
    tokens_per_sample: float | None = None
    """What lengths in tokens were taken by: the mean, special tokens included."""

    @cached_property
    def _ramp(self) -> shapes.Ramp:
        return shapes.ramp(self.ramp, self.ramp_power)

    @cached_property
    def _decay(self) -> shapes.Decay:
        length = self.decay_length_samples
        return shapes.decay(
            self.decay,
            cycles=self.decay_cycles,
            power=self.decay_power,
            gamma=self.decay_gamma,
            length=None if length is None else Fraction(length, self.total_samples),
            milestones=tuple(Fraction(m, self.total_samples) for m in self.decay_milestones_samples),
        )

    def lr_at(self, samples: int, ratio: float = 1.0) -> float:
        """Learning rate of the step that starts after `samples` samples of applied steps.

        `ratio` multiplies start, peak and end: a parameter group's own share of the rate.
        """
        start, peak, end = (ratio * rate for rate in (self.start_lr, self.peak_lr, self.end_lr))
        if samples < self.warmup_samples:
            return self._ramp(start, peak, Fraction(samples + self.global_batch_size, self.warmup_samples))
        rest = self.total_samples - self.warmup_samples
        fraction = Fraction(samples - self.warmup_samples, rest) if rest > 0 else Fraction(1)
        return self._decay(peak, end, min(fraction, Fraction(1)), Fraction(self.warmup_samples, self.total_samples))

    def lr_at_step(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0, at this plan's batch size."""
        return self.lr_at(step * self.global_batch_size)

    def to_dict(self) -> dict:
        """The plan as JSON would have it."""
        plan = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plan.items()}

    @classmethod
    def from_dict(cls, content: Mapping) -> Plan:
        """What `to_dict` gave. Raises TypeError where fields are missing or unknown."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in content.items()})

    def explain(self) -> list[tuple[str, str, str]]:
        """Rows (name, value, how it came about) for a person to read."""
        k, size = f"{self.scale:.6g}", self.global_batch_size
        cap = f", capped from {self.uncapped_lr:.6g} by max_lr" if self.peak_lr != self.uncapped_lr else ""
        cut = f"{self.world_size} ranks x {self.accumulation} micro-batches x {self.per_device_batch_size}"
        beyond = self.total_samples - self.duration_samples
        share = 100 * self.warmup_samples / self.total_samples
        kept = "the same samples" if self.warmup_scaling == "samples" else "the same steps"
        epochs = f", {self.total_samples / self.num_samples:.4g} epochs" if self.num_samples else ""
        if self.tokens_per_sample:
            epochs += f", about {self.total_samples * self.tokens_per_sample:.4g} tokens"
        if size != self.world_size * self.accumulation * self.per_device_batch_size:
            cut += " at most"
        rows = [
            ("global batch", f"{size} samples", cut),
            ("reference batch", f"{self.reference_batch_size} samples", f"scale k = {k}"),
            ("peak lr", f"{self.peak_lr:.6g}", f"{self.lr:.6g} by the rule {self.scaling}{cap}"),
            ("warmup", f"{self.warmup_steps} steps", self._warmup_in_words(kept, share)),
            (
                "duration",
                f"{self.total_steps} steps",
                f"{self.total_samples} samples{epochs}; {beyond} beyond duration",
            ),
            ("decay", self.decay, f"to {self.end_lr:.6g}" if self.decay != "constant" else ""),
            ("optimizer", self.optimizer, self._optimizer_in_words()),
        ]
        return rows

    def _warmup_in_words(self, kept: str, share: float) -> str:
        words = f"{self.warmup_samples} samples, {share:.3g}% of the run; {kept} at any batch"
        return f"{words}; {self.ramp} from {self.start_lr:.6g}" if self.warmup_steps else "none"

    def _optimizer_in_words(self) -> str:
        words = {
            "sgd": f"momentum {self.momentum:.6g}",
            "adafactor": "steps relative to the weights' size, at most 1 / sqrt(step)",
            "rmsprop": f"alpha {self.alpha:.6g}, eps {self.eps:.3g}, momentum {self.momentum:.6g}",
        }
        adam = f"betas {self.betas[0]:.6g}, {self.betas[1]:.6g}, eps {self.eps:.3g}"
        return f"{words.get(self.optimizer, adam)}, weight decay {self.weight_decay:g}"


def make_plan(
    recipe: Recipe, topology: Topology, num_samples: int | None = None, tokens_per_sample: Fraction | None = None
) -> Plan:
    """The plan of a recipe on a topology, for a training set of `num_samples` with `tokens_per_sample` on average.

    Raises PlanError where there is none: reference batch missing, a length whose unit is not known, a start above
    the peak, an exponential ramp from 0, a beta out of its range.
    """
    size = topology.global_batch_size
    reference = _reference(recipe, size)
    k = Fraction(size, reference)
    lengths = _lengths(recipe, reference, size, num_samples, tokens_per_sample)
    rates = _rates(recipe, k)
    plan = Plan(
        world_size=topology.world_size,
        per_device_batch_size=topology.per_device_batch_size,
        accumulation=topology.accumulation,
        global_batch_size=size,
        reference_batch_size=reference,
        scale=float(k),
        optimizer=recipe.optimizer,
        scaling=scaling.resolve(recipe.scaling, recipe.optimizer),
        lr=recipe.lr,
        ramp=recipe.ramp,
        ramp_power=recipe.ramp_power,
        decay=recipe.decay,
        decay_cycles=recipe.decay_cycles,
        decay_power=recipe.decay_power,
        decay_gamma=recipe.decay_gamma,
        warmup_scaling=recipe.warmup_scaling,
        num_samples=num_samples,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        tokens_per_sample=tokens_per_sample and float(tokens_per_sample),
        **lengths,
        **rates,
        **_moments(recipe, k),
    )
    _check_shapes(plan)
    return plan


def _reference(recipe: Recipe, size: int) -> int:
    """The reference batch size; without one, a recipe that scales nothing is taken as tuned at the batch it gets."""
    if recipe.reference_batch_size is not None:
        return recipe.reference_batch_size
    if recipe.scaling == "none" and recipe.beta_scaling == "none":
        return size
    raise PlanError(
        "reference-missing",
        "recipe.reference_batch_size: needed to scale the learning rate by the batch; give the global batch size that "
        "the recipe was tuned at, or recipe.scaling: none",
    )


def _lengths(
    recipe: Recipe, reference: int, size: int, num_samples: int | None, tokens_per_sample: Fraction | None
) -> dict:
    """Warmup, duration and decay lengths in samples and steps, all exact."""

    def samples(text: str, flag: str, whole: Fraction | None) -> Fraction:
        try:
            return Duration.parse(text, flag).samples(reference, num_samples, whole, flag, tokens_per_sample)
        except ValueError as error:
            raise PlanError("length-unknown", str(error)) from None

    duration = samples(recipe.duration, "recipe.duration", None)
    total_steps = math.ceil(duration / size)
    warmup = samples(recipe.warmup, "recipe.warmup", duration)
    warmup_steps = round_half_up(warmup / (size if recipe.warmup_scaling == "samples" else reference))
    warmup_steps = max(warmup_steps, 1) if warmup else 0
    length = recipe.decay_length or ("10%" if recipe.decay == "wsd" else None)
    if length is None and recipe.decay == "step":
        raise PlanError("length-unknown", 'recipe.decay_length: a step decay needs it, e.g. "30 epochs"')
    milestones = (samples(text, "recipe.decay_milestones", duration) for text in recipe.decay_milestones)
    return {
        "warmup_steps": warmup_steps,
        "warmup_samples": warmup_steps * size,
        "total_steps": total_steps,
        "total_samples": total_steps * size,
        "duration_samples": math.ceil(duration),
        "decay_length_samples": length and max(1, round_half_up(samples(length, "recipe.decay_length", duration))),
        "decay_milestones_samples": tuple(round_half_up(milestone) for milestone in milestones),
    }


def _rates(recipe: Recipe, k: Fraction) -> dict:
    """Start, peak and end of the learning rate."""
    try:
        uncapped = recipe.lr * scaling.factor(scaling.resolve(recipe.scaling, recipe.optimizer), k)
        if not 0 < uncapped < math.inf:
            raise ValueError(f"recipe.scaling: {recipe.scaling!r} makes the peak {uncapped} at k = {float(k):g}")
    except (ValueError, TypeError) as error:
        raise PlanError("shape", str(error)) from None
    peak = min(uncapped, recipe.max_lr or math.inf)
    start = recipe.lr if recipe.start_lr == "reference" else float(recipe.start_lr)
    if start > peak and not (recipe.start_lr == "reference" and k < 1):
        raise PlanError(
            "start-above-peak",
            f"recipe.start_lr: {start:g} is above the peak of {peak:g}; start lower",
        )
    if recipe.end_lr > peak:
        raise PlanError("end-above-peak", f"recipe.end_lr: {recipe.end_lr:g} is above the peak of {peak:g}; end lower")
    return {"uncapped_lr": uncapped, "peak_lr": peak, "start_lr": start, "end_lr": recipe.end_lr}


def _moments(recipe: Recipe, k: Fraction) -> dict:
    """betas, alpha, momentum and eps at the scale k."""
    rule = recipe.beta_scaling
    if rule == "sde" and recipe.optimizer == "sgd":
        raise PlanError("beta-range", "recipe.beta_scaling: sde holds for adaptive optimizers; use half-life for sgd")
    if rule != "none" and recipe.optimizer == "adafactor":
        raise PlanError("beta-range", "recipe.beta_scaling: adafactor has no betas to scale; use none")
    used = {"sgd": ("momentum",), "rmsprop": ("alpha", "momentum")}.get(recipe.optimizer, ("betas",))
    used = ("alpha",) if recipe.optimizer == "rmsprop" and rule == "sde" else used  # Malladi et al. have no momentum
    scaled = {"betas": recipe.betas, "momentum": recipe.momentum, "alpha": recipe.alpha}
    try:
        for name in used:
            value = scaled[name]
            many = isinstance(value, tuple)
            betas = tuple(scaling.scale_beta(beta, k, rule) for beta in (value if many else (value,)))
            scaled[name] = betas if many else betas[0]
    except ValueError as error:
        raise PlanError("beta-range", str(error)) from None
    return {**scaled, "eps": scaling.scale_eps(recipe.eps, k, rule)}


def _check_shapes(plan: Plan) -> None:
    """Draw the curve's corners once, so that a shape that cannot be computed fails here and not in the run."""
    if plan.ramp == "exponential" and plan.warmup_steps and plan.start_lr <= 0:
        raise PlanError(
            "ramp-from-zero",
            "recipe.start_lr: an exponential ramp cannot start from 0; give a rate above 0, or 'reference'",
        )
    if plan.decay == "exponential" and plan.decay_length_samples is None and plan.end_lr <= 0:
        raise PlanError(
            "decay-to-zero",
            "recipe.end_lr: an exponential decay cannot end at 0; give a rate above 0, or recipe.decay_length",
        )
    try:
        for step in {0, plan.warmup_steps, plan.total_steps - 1, plan.total_steps}:
            if not 0 <= (rate := plan.lr_at_step(step)) < math.inf:
                raise ValueError(f"the rate of step {step} would be {rate}")
    except (ValueError, TypeError) as error:
        raise PlanError("shape", f"recipe.ramp, recipe.decay: {error}") from None
