"""PlanCallback for transformers' Trainer: each of its steps runs at the plan's learning rate."""

from __future__ import annotations

from typing import Any, cast

from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from warmup.callbacks import Start, build_scheduler, find_start
from warmup.errors import UserError
from warmup.plan import Plan

SAVED_AS = "warmup.PlanCallback"
"""The key of the callback's state in trainer_state.json. It is not the name of the class: Trainer's
restore_callback_states_from_checkpoint makes callbacks of such a name anew, which would bring back the old plan."""


class PlanCallback(TrainerCallback):
    """Sets the learning rate of each step of a Trainer to the plan's, and makes Trainer log it. It sets nothing else:
    betas, weight decay and clipping are those of the TrainingArguments, which must be the plan's where it scales them.

    Trainer must have no schedule of its own: lr_scheduler_type="constant" and no scheduler in `optimizers`. Its
    max_steps (or the steps that follow from num_train_epochs) must be plan.total_steps.

    The position is counted in samples, from Trainer's global_step: every step counts as a full one, even if it has
    fewer samples, like the last step of an epoch, or is skipped by a gradient scaler (fp16). Checkpoints hold it. After
    resume_from_checkpoint with a plan for another global batch, the plan is entered at the samples trained on, and
    max_steps must be the steps so far and those that are left. (Which samples Trainer itself skips in the data then, it
    counts in steps of the new batch; see its ignore_data_skip.)

    `train()` raises UserError if Trainer contradicts the plan, and RanksDisagree if ranks have different plans.
    """

    def __init__(self, plan: Plan, resumed_samples: int | None = None):
        """
        Args:
            plan: for Topology(args.world_size, args.per_device_train_batch_size, args.gradient_accumulation_steps), or
                any other topology with the same global batch.
            resumed_samples: the position of the checkpoint to resume, if it was saved without this callback's state.
        """
        self.plan = plan
        self.resumed_samples = resumed_samples

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _check_no_schedule(args, kwargs["lr_scheduler"])
        callbacks = cast("dict[str, Any]", state.stateful_callbacks)  # a list only before TrainerState is made
        saved = Start.from_dict(callbacks.get(SAVED_AS, {}).get("attributes"))
        self._start = find_start(self.plan, state.global_step, saved, self.resumed_samples)
        batch_size = _global_batch_size(args)
        self._scheduler = build_scheduler(self.plan, kwargs["optimizer"], batch_size, state.max_steps, self._start)
        callbacks[SAVED_AS] = {"args": {}, "attributes": self._start.to_dict()}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Before every step, because Trainer's constant schedule sets its own rate after each.
        self._scheduler.seek(self._start.samples_at(state.global_step))
        kwargs["lr_scheduler"]._last_lr = self._scheduler.get_last_lr()  # what Trainer logs as the rate of this step


def _check_no_schedule(args: TrainingArguments, lr_scheduler: LRScheduler) -> None:
    """Raise UserError if anything but the plan would set the rate or the batch."""
    if args.lr_scheduler_type != "constant":
        kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        raise UserError(
            f"lr_scheduler_type: {kind!r} would be a second schedule beside the plan's; "
            "set lr_scheduler_type='constant'"
        )
    if type(lr_scheduler) is not LambdaLR:  # which Trainer makes for "constant"
        raise UserError(
            f"optimizers: {type(lr_scheduler).__name__} would be a second schedule beside the plan's; "
            "give Trainer the optimizer alone: optimizers=(optimizer, None)"
        )
    if args.auto_find_batch_size:
        raise UserError("auto_find_batch_size: would change the batch that the plan is made for; set it to False")


def _global_batch_size(args: TrainingArguments) -> int:
    """Samples per step over all ranks."""
    config = cast(AcceleratorConfig, args.accelerator_config)  # TrainingArguments has parsed dicts and JSON files
    ranks = 1 if config.split_batches else args.world_size
    return ranks * args.train_batch_size * args.gradient_accumulation_steps
