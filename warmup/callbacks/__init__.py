"""A plan in other training loops: what the callbacks in this folder have in common.

Import each callback from its own module, so that only its own library needs to be installed.
"""

from __future__ import annotations

from torch.optim import Optimizer

from warmup.clock import require_same
from warmup.plan import Plan
from warmup.scheduler import WarmupScheduler


def build_scheduler(plan: Plan, optimizer: Optimizer, global_batch_size: int, steps: float) -> WarmupScheduler:
    """The scheduler that sets the plan's rates, for a loop that is about to train. A collective call.

    How ranks and micro-batches split the batch changes no rate, so only its size is compared.

    Args:
        plan: the plan to follow.
        optimizer: the loop's optimizer.
        global_batch_size: samples per step over all ranks, according to the loop.
        steps: applied steps of the whole run, according to the loop.

    Raises:
        RanksDisagree: ranks have different plans.
        ValueError: the loop contradicts the plan.
    """
    require_same(plan.to_dict(), "make the same plan on all ranks")
    if global_batch_size != plan.global_batch_size:
        raise ValueError(
            f"the plan is for {plan.global_batch_size} samples per step and this run has {global_batch_size} "
            "(ranks x samples per device x accumulation); make the plan from the topology of the run"
        )
    if steps != plan.total_steps:
        raise ValueError(
            f"max_steps: this run would take {steps} steps and the plan has {plan.total_steps}; "
            f"set max_steps={plan.total_steps}, and no number of epochs"
        )
    return WarmupScheduler(optimizer, plan)
