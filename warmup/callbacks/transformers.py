"""PlanCallback for transformers' Trainer: the learning rate of each of its steps is the plan's."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from warmup.callbacks import schedule
from warmup.plan import Plan


class PlanCallback(TrainerCallback):
    """Sets the learning rate of each step of a Trainer to the plan's, and has it logged.

    Trainer's own schedule must be absent: lr_scheduler_type="constant" and no scheduler in `optimizers`; and
    max_steps (or what follows from num_train_epochs) must be plan.total_steps. The rate is all that it sets: betas,
    weight decay and clipping are those of the TrainingArguments.

    The position is Trainer's global_step x plan.global_batch_size samples, also after resume_from_checkpoint. So a
    step counts as whole that Trainer makes of fewer samples, as the last of an epoch may be, or that a gradient
    scaler skips (fp16).

    Args:
        plan: of Topology(args.world_size, args.per_device_train_batch_size, args.gradient_accumulation_steps), or
            another of the same global batch.

    `train()` raises ValueError where Trainer contradicts the plan, RanksDisagree where ranks have different plans.
    """

    def __init__(self, plan: Plan):
        self.plan = plan

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        **kwargs: Any,
    ) -> None:
        _require_no_schedule(args, lr_scheduler)
        self._scheduler = schedule(self.plan, optimizer, _global_batch(args), state.max_steps)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        lr_scheduler: LRScheduler,
        **kwargs: Any,
    ) -> None:
        # Here and not once: after each step Trainer's constant schedule writes its own rate.
        self._scheduler.seek(state.global_step * self.plan.global_batch_size)
        lr_scheduler._last_lr = self._scheduler.get_last_lr()  # what Trainer logs as the rate of this step


def _require_no_schedule(args: TrainingArguments, lr_scheduler: LRScheduler) -> None:
    """Raise ValueError unless the rate and the batch are the plan's to say."""
    if args.lr_scheduler_type != "constant":
        kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        raise ValueError(
            f"lr_scheduler_type: {kind!r} would be a second schedule beside the plan's; "
            "set lr_scheduler_type='constant'"
        )
    if type(lr_scheduler) is not LambdaLR:  # what Trainer makes of "constant"
        raise ValueError(
            f"optimizers: {type(lr_scheduler).__name__} would be a second schedule beside the plan's; "
            "give Trainer the optimizer alone: optimizers=(optimizer, None)"
        )
    if args.auto_find_batch_size:
        raise ValueError("auto_find_batch_size: would change the batch that the plan is made for; set it to False")


def _global_batch(args: TrainingArguments) -> int:
    """Samples per step over all ranks."""
    ranks = 1 if args.accelerator_config.split_batches else args.world_size
    return ranks * args.train_batch_size * args.gradient_accumulation_steps
