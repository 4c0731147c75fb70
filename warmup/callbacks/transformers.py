"""PlanCallback for transformers' Trainer: each of its steps runs at the plan's learning rate."""

from __future__ import annotations

from typing import Any, cast

from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from warmup.callbacks import build_scheduler
from warmup.plan import Plan


class PlanCallback(TrainerCallback):
    """Sets the learning rate of each step of a Trainer to the plan's, and makes Trainer log it. It sets nothing else:
    betas, weight decay and clipping are those of the TrainingArguments.

    Trainer must have no schedule of its own: lr_scheduler_type="constant" and no scheduler in `optimizers`. Its
    max_steps (or the steps that follow from num_train_epochs) must be plan.total_steps.

    The position is Trainer's global_step x plan.global_batch_size samples, also after resume_from_checkpoint. So every
    step counts as a full one, even if it has fewer samples, like the last step of an epoch, or is skipped by a gradient
    scaler (fp16).

    `train()` raises ValueError if Trainer contradicts the plan, and RanksDisagree if ranks have different plans.
    """

    def __init__(self, plan: Plan):
        """
        Args:
            plan: for Topology(args.world_size, args.per_device_train_batch_size, args.gradient_accumulation_steps), or
                any other topology with the same global batch.
        """
        self.plan = plan

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _check_no_schedule(args, kwargs["lr_scheduler"])
        self._scheduler = build_scheduler(self.plan, kwargs["optimizer"], _global_batch_size(args), state.max_steps)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Before every step, because Trainer's constant schedule sets its own rate after each.
        self._scheduler.seek(state.global_step * self.plan.global_batch_size)
        kwargs["lr_scheduler"]._last_lr = self._scheduler.get_last_lr()  # what Trainer logs as the rate of this step


def _check_no_schedule(args: TrainingArguments, lr_scheduler: LRScheduler) -> None:
    """Raise ValueError if anything but the plan would set the rate or the batch."""
    if args.lr_scheduler_type != "constant":
        kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        raise ValueError(
            f"lr_scheduler_type: {kind!r} would be a second schedule beside the plan's; "
            "set lr_scheduler_type='constant'"
        )
    if type(lr_scheduler) is not LambdaLR:  # which Trainer makes for "constant"
        raise ValueError(
            f"optimizers: {type(lr_scheduler).__name__} would be a second schedule beside the plan's; "
            "give Trainer the optimizer alone: optimizers=(optimizer, None)"
        )
    if args.auto_find_batch_size:
        raise ValueError("auto_find_batch_size: would change the batch that the plan is made for; set it to False")


def _global_batch_size(args: TrainingArguments) -> int:
    """Samples per step over all ranks."""
    config = cast(AcceleratorConfig, args.accelerator_config)  # TrainingArguments has parsed dicts and JSON files
    ranks = 1 if config.split_batches else args.world_size
    return ranks * args.train_batch_size * args.gradient_accumulation_steps
