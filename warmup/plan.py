"""Plan: every number that a run will use, before a GPU is touched. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property

from warmup import shapes
from warmup.config.run import Batch
from warmup.errors import PlanError


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
