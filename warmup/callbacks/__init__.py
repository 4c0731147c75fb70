"""A plan in other training loops: what the callbacks in this folder have in common.

Import each callback from its own module, so that only its own library needs to be installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch.optim import Optimizer

from warmup.clock import require_same
from warmup.errors import UserError
from warmup.plan import Plan
from warmup.scheduler import WarmupScheduler


@dataclass(frozen=True)
class Start:
    """Where a loop began to train at its global batch. Checkpoints hold it: the loop itself counts only steps."""

    step: int
    """Applied steps before."""
    samples: int
    """Samples of those steps."""
    global_batch_size: int
    """Samples per step since then."""

    def samples_at(self, step: int) -> int:
        """The position, samples of applied steps, when `step` steps are done."""
        return self.samples + (step - self.step) * self.global_batch_size

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any] | None) -> Start | None:
        """What `to_dict` was called on; None for anything else, such as nothing."""
        names = cls.__dataclass_fields__
        if not isinstance(content, Mapping) or not all(isinstance(content.get(name), int) for name in names):
            return None
        return cls(**{name: content[name] for name in names})


def find_start(plan: Plan, step: int, saved: Start | None, resumed_samples: int | None) -> Start:
    """Where a loop begins that has done `step` steps.

    Args:
        plan: the plan to follow from here on.
        step: applied steps so far, according to the loop.
        saved: what the checkpoint holds; None if nothing.
        resumed_samples: the position according to the user, for a checkpoint that holds nothing.

    Raises:
        UserError: the position is not known.
    """
    samples = 0
    if step:
        known = resumed_samples if saved is None else saved.samples_at(step)
        if known is None:
            raise UserError(
                f"the checkpoint of step {step} was saved without PlanCallback's position, so its batch is not known; "
                f"give PlanCallback(plan, resumed_samples=...): {step} x the global batch that it was trained at"
            )
        samples = known
    return Start(step, samples, plan.global_batch_size)


def build_scheduler(
    plan: Plan, optimizer: Optimizer, global_batch_size: int, steps: float, start: Start
) -> WarmupScheduler:
    """The scheduler that sets the plan's rates, for a loop that is about to train. A collective call.

    How ranks and micro-batches split the batch changes no rate, so only its size is compared.

    Args:
        plan: the plan to follow.
        optimizer: the loop's optimizer.
        global_batch_size: samples per step over all ranks, according to the loop.
        steps: applied steps of the whole run, according to the loop.
        start: where the loop begins. The run takes as many more steps as the rest of the plan's duration needs.

    Returns:
        The scheduler, at the position of `start`.

    Raises:
        RanksDisagree: ranks have different plans or positions.
        UserError: the loop contradicts the plan.
    """
    if plan.batch_warmup_steps:
        raise UserError(
            "batch.warmup: this loop has one batch size for the whole run and makes its batches itself, so its batch "
            "cannot grow; plan without batch.warmup and batch.start_size, or train with train.py"
        )
    require_same(plan.to_dict(), "make the same plan on all ranks")
    require_same({"resumed samples": start.samples}, "resume all ranks from the same checkpoint")
    if global_batch_size != plan.global_batch_size:
        raise UserError(
            f"the plan is for {plan.global_batch_size} samples per step and this run has {global_batch_size} "
            "(ranks x samples per device x accumulation); make the plan from the topology of the run"
        )
    check_steps(plan, steps, start)
    check_optimizer(plan, optimizer)
    scheduler = WarmupScheduler(optimizer, plan)
    scheduler.seek(start.samples)
    return scheduler


def check_steps(plan: Plan, steps: float, start: Start) -> None:
    """Raise UserError unless a run of `steps` steps in all, from `start` on, takes the rest of the plan's duration."""
    total_steps = start.step + -(-max(plan.duration_samples - start.samples, 0) // plan.global_batch_size)
    if steps != total_steps:
        so_far = f" with the {start.step} before" if total_steps != plan.total_steps else ""
        raise UserError(
            f"max_steps: this run would take {steps} steps and the plan has {total_steps}{so_far}; "
            f"set max_steps={total_steps}, and no number of epochs"
        )


def check_optimizer(plan: Plan, optimizer: Optimizer) -> None:
    """Raise UserError if the optimizer differs from the plan in a number that the plan scales with the batch."""
    for name in ("betas", "eps", "momentum", "alpha", "weight_decay"):
        now, reference = getattr(plan, name), getattr(plan, f"reference_{name}")
        if reference is None or now == reference:
            continue
        for group in optimizer.param_groups:
            used = group.get(name, now)
            used = tuple(used) if isinstance(now, tuple) else used
            if used != now and not (name == "weight_decay" and used == 0):
                raise UserError(
                    f"{name}: the plan scales {reference} to {now}, and the optimizer has {used}; make it with "
                    f"{name}=plan.{name}, or make the plan without scaling it"
                )
