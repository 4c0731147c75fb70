"""Resuming with another global batch or recipe: which learning rate the run follows then. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from warmup.config.recipe import Recipe
from warmup.config.run import Elastic
from warmup.duration import DataSize, Duration, round_half_up
from warmup.errors import PlanError
from warmup.plan import Plan, Topology
from warmup.planning import make_plan


@dataclass(frozen=True)
class LRSchedule:
    """The learning rate of a run: a plan's, with a transition from the previous schedule after a change.

    WarmupScheduler takes it in place of a plan.
    """

    plan: Plan
    """The plan to follow."""
    global_batch_size: int = 0
    """Samples per step from here on; 0: the plan's."""
    before: LRSchedule | None = None
    """The schedule that was followed before the change; None if nothing changed, or if the transition is over."""
    since: int = 0
    """The position of the change: samples that the run had trained on."""
    rewarm_samples: int = 0
    """Length of the transition."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "global_batch_size", self.global_batch_size or self.plan.global_batch_size)

    def lr_at(self, samples: int, lr_multiplier: float = 1.0) -> float:
        """The learning rate of the step that starts at a position, as `Plan.lr_at`.

        After a change it moves linearly from the old rate to the new one: the first step still runs at the old rate.

        Args:
            samples: the position: samples of the steps applied so far.
            lr_multiplier: a parameter group's learning rate relative to the schedule's.
        """
        new = self.plan.lr_at(samples, lr_multiplier)
        elapsed = samples - self.since
        if self.before is None or elapsed >= self.rewarm_samples:
            return new
        old = self.before.lr_at(samples, lr_multiplier)
        return old + (new - old) * (elapsed / self.rewarm_samples)

    @property
    def batch_warmup_steps(self) -> int:
        """As `Plan.batch_warmup_steps`, of the plan to follow."""
        return self.plan.batch_warmup_steps

    def simplified(self, samples: int) -> LRSchedule:
        """The same schedule from `samples` on, without the previous one if the transition from it is over by then."""
        over = self.before is not None and samples >= self.since + self.rewarm_samples
        return LRSchedule(self.plan, self.global_batch_size) if over else self

    def to_dict(self) -> dict[str, Any]:
        """The schedule as JSON types."""
        numbers = {name: getattr(self, name) for name in ("global_batch_size", "since", "rewarm_samples")}
        return {"plan": self.plan.to_dict(), "before": self.before and self.before.to_dict(), **numbers}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LRSchedule:
        """The schedule that `to_dict` was called on. Raises ValueError if `content` is anything else."""
        try:
            before = content["before"] and cls.from_dict(content["before"])
            fields: dict[str, Any] = {**content, "plan": Plan.from_dict(content["plan"]), "before": before}
            return cls(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a learning-rate schedule: {error}") from None

    def plans(self) -> list[Plan]:
        """All plans that the rate depends on, the newest first."""
        return [self.plan, *(self.before.plans() if self.before else ())]


def replan(
    lr_schedule: LRSchedule,
    samples: int,
    recipe: Recipe,
    topology: Topology,
    data_size: DataSize,
    settings: Elastic,
) -> LRSchedule:
    """The schedule of a run that resumes, possibly with another recipe or global batch.

    With the same recipe and global batch it is the same schedule, however ranks split the batch. For another global
    batch the recipe is planned as if from the start and entered at `samples` (on_change: rescale), or the rate stays
    what it was (keep).

    Args:
        lr_schedule: the schedule that the run followed so far.
        samples: the position that it resumes at: samples of the steps applied so far.
        recipe: the recipe from here on.
        topology: the topology from here on.
        data_size: the size of the training set.
        settings: the `elastic` section of the configuration.

    Raises:
        PlanError: on_change is error and the global batch is another, or the recipe has no plan.
    """
    old_size, new_size = lr_schedule.global_batch_size, topology.global_batch_size
    if old_size != new_size and settings.on_change == "error":
        raise PlanError(
            "batch-changed",
            f"elastic.on_change: the global batch was {old_size} and would be {new_size}; keep it with "
            f"--batch.global_size {old_size}, or allow the change with rescale or keep",
        )
    plan = rescaled = make_plan(recipe, topology, data_size.num_samples, data_size.tokens_per_sample)
    kept = old_size == new_size or settings.on_change == "keep"  # a rate that was kept once stays kept
    if kept and lr_schedule.plan.global_batch_size != new_size:
        plan = make_plan(recipe, _topology(lr_schedule.plan), data_size.num_samples, data_size.tokens_per_sample)
    if _resulting(plan) == _resulting(lr_schedule.plan):
        return replace(lr_schedule, global_batch_size=new_size)
    run_samples = Fraction(rescaled.duration_samples)
    rewarm = Duration.parse(settings.rewarm, "elastic.rewarm")
    rewarm_samples = rewarm.samples(new_size, data_size, run_samples, "elastic.rewarm")
    if not rewarm_samples:
        return LRSchedule(plan, new_size)
    return LRSchedule(plan, new_size, lr_schedule.simplified(samples), samples, round_half_up(rewarm_samples))


def _topology(plan: Plan) -> Topology:
    split = (plan.world_size, plan.per_device_batch_size, plan.accumulation, plan.global_batch_size)
    return Topology(*split, f"{plan.batch_warmup_samples} samples", plan.batch_start_size, plan.batch_warmup_lr)


def _resulting(plan: Plan) -> Plan:
    """The plan without what changes no number that trains: how ranks split a batch, and where numbers come from."""
    sources: dict[str, Any] = {name: None for name in vars(plan) if name.startswith("reference_")}
    used = plan.scaling == "noise" and plan.batch_start_size is not None  # at each smaller step
    sources |= {"reference_batch_size": plan.reference_batch_size, "noise_scale": plan.noise_scale if used else None}
    sources |= {"beta_scaling": "none", "beta_floor": 0.0, "weight_decay_scaling": "none"}
    return replace(plan, world_size=1, per_device_batch_size=1, accumulation=1, **sources)
