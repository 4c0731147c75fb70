"""Going on where the batch or the recipe is not what it was: whose learning rate is followed. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from warmup.config.recipe import Recipe
from warmup.config.run import Elastic
from warmup.duration import Duration, round_half_up
from warmup.errors import PlanError
from warmup.plan import Plan, Topology
from warmup.planning import make_plan

_CUT = ("world_size", "per_device_batch_size", "accumulation")  # how a batch is cut changes no rate


@dataclass(frozen=True)
class LRSchedule:
    """The learning rate of a run: a plan's, and after a change, for `rewarm_samples`, on the way there.

    global_batch_size: samples per step from here on, 0 for the plan's. before: what was followed until the run had
    trained on `since` samples; None where nothing changed. WarmupScheduler takes a course in place of a plan.
    """

    plan: Plan
    global_batch_size: int = 0
    before: LRSchedule | None = None
    since: int = 0
    rewarm_samples: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "global_batch_size", self.global_batch_size or self.plan.global_batch_size)

    def lr_at(self, samples: int, ratio: float = 1.0) -> float:
        """Learning rate of the step that starts after `samples` samples of applied steps, as `Plan.lr_at`.

        After a change it goes linearly from the old rate to the new one: the first step is still at the old rate.
        """
        new = self.plan.lr_at(samples, ratio)
        passed = samples - self.since
        if self.before is None or passed >= self.rewarm_samples:
            return new
        old = self.before.lr_at(samples, ratio)
        return old + (new - old) * (passed / self.rewarm_samples)

    def settled(self, samples: int) -> LRSchedule:
        """The same from `samples` on, without what is over by then."""
        over = self.before is not None and samples >= self.since + self.rewarm_samples
        return LRSchedule(self.plan, self.global_batch_size) if over else self

    def to_dict(self) -> dict:
        """As JSON would have it."""
        numbers = {name: getattr(self, name) for name in ("global_batch_size", "since", "rewarm_samples")}
        return {"plan": self.plan.to_dict(), "before": self.before and self.before.to_dict(), **numbers}

    @classmethod
    def from_dict(cls, content: Mapping) -> LRSchedule:
        """What `to_dict` gave. Raises ValueError where it is something else."""
        try:
            before = content["before"] and cls.from_dict(content["before"])
            return cls(**{**content, "plan": Plan.from_dict(content["plan"]), "before": before})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a schedule of rates: {error}") from None

    def plans(self) -> list[Plan]:
        """All plans that it is made of, the newest first."""
        return [self.plan, *(self.before.plans() if self.before else ())]


def replan(
    course: LRSchedule,
    recipe: Recipe,
    topology: Topology,
    samples: int,
    num_samples: int | None,
    settings: Elastic,
    tokens_per_sample: Fraction | None = None,
) -> LRSchedule:
    """The course from `samples` on, of a run that goes on with this recipe on this topology.

    With the same recipe and global batch it is the same course, however the batch is cut. Another global batch is
    planned for as if from the start and entered at `samples` (settings.on_change rescale), or changes no rate (keep).

    Raises PlanError where on_change is error and the batch is another, or where there is no plan.
    """
    old, new = course.global_batch_size, topology.global_batch_size
    if old != new and settings.on_change == "error":
        raise PlanError(
            "batch-changed",
            f"elastic.on_change: the global batch was {old} and would be {new}; keep it with --batch.global_size "
            f"{old}, or allow it with rescale or keep",
        )
    planned = make_plan(recipe, topology, num_samples, tokens_per_sample)
    followed = planned
    if old == new or settings.on_change == "keep":  # a rate that was kept stays so
        cut = (getattr(course.plan, name) for name in _CUT)
        followed = make_plan(recipe, Topology(*cut, course.plan.global_batch_size), num_samples, tokens_per_sample)
    if _uncut(followed) == _uncut(course.plan):
        return replace(course, global_batch_size=new)
    whole = Fraction(planned.duration_samples)
    rewarm = Duration.parse(settings.rewarm, "elastic.rewarm")
    length = rewarm.samples(new, num_samples, whole, "elastic.rewarm", tokens_per_sample)
    if not length:
        return LRSchedule(followed, new)
    return LRSchedule(followed, new, course.settled(samples), samples, round_half_up(length))


def _uncut(plan: Plan) -> Plan:
    return replace(plan, **dict.fromkeys(_CUT, 1))
