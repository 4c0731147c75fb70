"""A plan in other people's training loops: what the callbacks in this folder have in common.

Each is imported from its own file, because none of the loops need be installed for the others.
"""

from __future__ import annotations

from torch.optim import Optimizer

from warmup.clock import require_same
from warmup.plan import Plan
from warmup.scheduler import WarmupScheduler


def schedule(plan: Plan, optimizer: Optimizer, batch: int, steps: float) -> WarmupScheduler:
    """The scheduler that puts `plan` on `optimizer`, for a loop that is about to take `steps` steps. A collective call.

    Args:
        batch: samples per step over all ranks, as the loop has it.
        steps: applied steps from the first to the last one of the whole run, as the loop has it.

    Raises RanksDisagree where ranks have different plans, ValueError where the loop contradicts the plan. How a batch
    is cut into ranks and micro-batches changes no rate, so only its size is compared.
    """
    require_same(plan.to_dict(), "make the plan of all ranks alike")
    if batch != plan.global_batch_size:
        raise ValueError(
            f"the plan is for {plan.global_batch_size} samples per step and this run has {batch} "
            "(ranks x samples per device x accumulation); make the plan from the topology of the run"
        )
    if steps != plan.total_steps:
        raise ValueError(
            f"max_steps: this run would take {steps} steps and the plan has {plan.total_steps}; "
            f"set max_steps={plan.total_steps}, and no number of epochs"
        )
    return WarmupScheduler(optimizer, plan)
