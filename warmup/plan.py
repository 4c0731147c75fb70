"""Topology and Plan: every number that a run will use, known before anything is launched. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from warmup import scaling, shapes
from warmup.batch_schedule import BatchSchedule
from warmup.config.run import Batch
from warmup.errors import PlanError


@dataclass(frozen=True)
class Topology:
    """How a global batch is split, which is what the hardware gives, and how it grows to its size."""

    world_size: int
    """Data-parallel ranks."""
    per_device_batch_size: int
    """Samples in a micro-batch of one rank, at most."""
    accumulation: int = 1
    """Micro-batches per rank and step."""
    global_batch_size: int = 0
    """Samples per step over all ranks; 0: the product of the three. May be less, when it does not divide evenly."""
    batch_warmup: str = "0 steps"
    """As `Batch.warmup`."""
    batch_start_size: int | None = None
    """As `Batch.start_size`; None: the batch has one size."""
    batch_warmup_lr: str = "scale"
    """As `Batch.warmup_lr`."""

    def __post_init__(self) -> None:
        product = self.world_size * self.per_device_batch_size * self.accumulation
        size = self.global_batch_size or product
        object.__setattr__(self, "global_batch_size", size)
        if min(self.world_size, self.per_device_batch_size, self.accumulation) < 1:
            raise ValueError(f"world_size, per_device_batch_size and accumulation must be 1 or above: {self}")
        if self.world_size > size:
            raise PlanError(
                "idle-ranks",
                f"batch.global_size: {size} is too small for {self.world_size} ranks; use {size} at most",
            )
        if size > product:
            raise ValueError(f"a step of at most {product} samples cannot hold a global batch of {size}: {self}")
        if self.batch_start_size is not None and self.batch_start_size < 1:
            raise ValueError(f"batch_start_size must be 1 or above: {self}")
        if (self.batch_start_size or 0) > size:
            raise PlanError(
                "batch-shrinks",
                f"batch.start_size: {self.batch_start_size} is above the global batch size of {size}, to which the "
                f"batch grows; use {size} at most",
            )

    @classmethod
    def from_batch(cls, batch: Batch, world_size: int) -> Topology:
        """The topology of a `batch` section on `world_size` ranks.

        With batch.global_size, accumulation = ceil(global_size / (world_size * per_device)).

        Raises:
            PlanError: there are more ranks than samples in a global batch.
        """
        accumulation = batch.accumulation or 1
        if batch.global_size is not None:
            accumulation = -(-batch.global_size // (world_size * batch.per_device))
        warmup = (batch.warmup, batch.start_size, batch.warmup_lr)
        return cls(world_size, batch.per_device, accumulation, batch.global_size or 0, *warmup)


@dataclass(frozen=True)
class Plan:
    """Every number of a run, resolved.

    Lengths are exact integers: `*_steps` are steps of this plan, `*_samples` count the samples of applied steps. Fields
    that have the name of a field of `Recipe` or `Topology` mean the same as there, with what scales with the batch
    already scaled.
    """

    world_size: int
    per_device_batch_size: int
    accumulation: int
    global_batch_size: int
    reference_batch_size: int
    scale: float
    """k = global_batch_size / reference_batch_size."""
    optimizer: str
    scaling: str
    """The scaling rule, with "auto" resolved."""
    lr: float
    """The learning rate of the recipe, at the reference batch size."""
    uncapped_lr: float
    """The learning rate at k times the batch, with the momentum correction, before max_lr."""
    peak_lr: float
    """The learning rate at the end of the warmup: uncapped_lr, or max_lr if that is lower."""
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
    """Samples of total_steps whole steps: duration_samples, and what the last step has beyond them."""
    duration_samples: int
    """The requested duration."""
    num_samples: int | None
    """Samples of the training set; None if it is not known."""
    betas: tuple[float, float]
    eps: float
    momentum: float
    alpha: float
    weight_decay: float
    max_grad_norm: float
    tokens_per_sample: float | None = None
    """Mean number of tokens per sample, special tokens included, that durations in tokens were converted with."""
    cooldown: str = "linear"
    momentum_correction: float = 1.0
    """The factor in uncapped_lr that makes up for a scaled momentum; see `scaling.momentum_correction`."""
    noise_scale: float | None = None
    """Gradient noise scale in samples; None if it is not known."""
    beta_scaling: str = "none"
    beta_floor: float = 0.0
    weight_decay_scaling: str = "none"
    reference_betas: tuple[float, float] | None = None
    """What the recipe has at the reference batch size, as in the four fields below. None in plans of older versions."""
    reference_eps: float | None = None
    reference_momentum: float | None = None
    reference_alpha: float | None = None
    reference_weight_decay: float | None = None
    batch_start_size: int | None = None
    """Samples of the first step; None: all steps have global_batch_size."""
    batch_warmup_steps: int = 0
    """Steps of fewer samples than global_batch_size."""
    batch_warmup_samples: int = 0
    """The position from which on steps have global_batch_size samples."""
    batch_warmup_lr: str = "scale"

    @cached_property
    def batch_schedule(self) -> BatchSchedule:
        """How many samples each step has."""
        size = self.global_batch_size
        return BatchSchedule(size, self.batch_start_size or size, self.batch_warmup_samples)

    def batch_at(self, samples: int) -> int:
        """The samples of the step that begins at a position: samples of the steps applied so far."""
        return self.batch_schedule.size_at(samples)

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
            cooldown=self.cooldown,
            milestones=tuple(Fraction(m, self.total_samples) for m in self.decay_milestones_samples),
        )

    def lr_at(self, samples: int, lr_multiplier: float = 1.0) -> float:
        """The learning rate of the step that starts at a position.

        Where the batch is warmed up it is that of the curve, multiplied by what the scaling rule gives for the step's
        size over what it gives for global_batch_size (unless batch_warmup_lr is keep).

        Args:
            samples: the position: samples of the steps applied so far.
            lr_multiplier: multiplies the start, peak and end rates: a parameter group's learning rate relative to the
                plan's.
        """
        size = self.batch_at(samples)
        lr_multiplier *= self.size_factor(size)
        start, peak, end = (lr_multiplier * rate for rate in (self.start_lr, self.peak_lr, self.end_lr))
        if samples < self.warmup_samples:
            return self._ramp(start, peak, Fraction(samples + size, self.warmup_samples))
        decay_samples = self.total_samples - self.warmup_samples
        fraction = Fraction(samples - self.warmup_samples, decay_samples) if decay_samples > 0 else Fraction(1)
        warmup_fraction = Fraction(min(self.warmup_samples, self.total_samples), self.total_samples)
        return self._decay(peak, end, min(fraction, Fraction(1)), warmup_fraction)

    def size_factor(self, size: int) -> float:
        """What the learning rate of a step is multiplied by because it has fewer samples than global_batch_size."""
        if size == self.global_batch_size or self.batch_warmup_lr == "keep":
            return 1.0
        reference, adaptive = self.reference_batch_size, self.optimizer in scaling.ADAPTIVE
        noise_ratio = None if self.noise_scale is None else Fraction(self.noise_scale) / reference
        own, full = (
            scaling.factor(self.scaling, Fraction(batch, reference), noise_ratio, adaptive)
            for batch in (size, self.global_batch_size)
        )
        return own / full

    def lr_at_step(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        return self.lr_at(self.batch_schedule.position(step))

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON types: tuples become lists."""
        plan = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plan.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Plan:
        """The plan that `to_dict` was called on. Raises TypeError if fields are missing or unknown."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
        }
        return cls(**fields)
