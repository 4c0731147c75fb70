"""PlanCallback for Lightning: each step of its Trainer runs at the plan's learning rate."""

from __future__ import annotations

from typing import Any

from warmup.callbacks import Start, build_scheduler, check_steps, find_start
from warmup.errors import UserError
from warmup.plan import Plan

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import GradientAccumulationScheduler
except ModuleNotFoundError as error:
    raise ImportError(f"warmup.callbacks.lightning needs Lightning ({error}): pip install lightning") from None


class PlanCallback(Callback):
    """Sets the learning rate of each step of a Lightning Trainer to the plan's. It sets nothing else.

    For automatic optimization, with any accumulate_grad_batches. configure_optimizers must return the optimizer without
    a scheduler, and Trainer needs max_steps=plan.total_steps.

    The position is counted in samples, from Lightning's global_step: every step counts as a full one, even if it has
    fewer samples, like the last step of an epoch, or is skipped by a gradient scaler (16-mixed). Checkpoints hold it.
    After fit(ckpt_path=...) with a plan for another global batch, the plan is entered at the samples trained on, and
    max_steps must be the steps so far and those that are left.

    `fit()` raises UserError if the Trainer contradicts the plan, and RanksDisagree if ranks have different plans.
    """

    def __init__(self, plan: Plan, resumed_samples: int | None = None):
        """
        Args:
            plan: for Topology(devices x nodes, batch size of the data loader, accumulate_grad_batches), or any other
                topology with the same global batch. A data loader without a single batch size is assumed to have the
                plan's.
            resumed_samples: the position of the checkpoint to resume, if it was saved without this callback's state.
        """
        self.plan = plan
        self.resumed_samples = resumed_samples
        self._start: Start | None = None

    def state_dict(self) -> dict[str, Any]:
        return self._start.to_dict() if self._start else {}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._start = None  # that of an earlier fit; Lightning calls load_state_dict only if the checkpoint has a state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start = Start.from_dict(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _check_no_schedule(trainer, pl_module)
        steps = trainer.estimated_stepping_batches
        start = find_start(self.plan, trainer.global_step, self._start, self.resumed_samples)
        batch_size = self._global_batch_size(trainer)
        self._scheduler = build_scheduler(self.plan, trainer.optimizers[0], batch_size, steps, start)
        self._start = start

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step >= trainer.max_steps > 0:  # perhaps from the start, where Lightning trains nothing
            start = find_start(self.plan, trainer.global_step, self._start, self.resumed_samples)
            check_steps(self.plan, trainer.max_steps, start)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._start:
            self._scheduler.seek(self._start.samples_at(trainer.global_step))

    def _global_batch_size(self, trainer: Trainer) -> int:
        """Samples per step over all ranks."""
        data_parallel_ranks = (trainer.distributed_sampler_kwargs or {"num_replicas": 1})["num_replicas"]
        batch_sampler = getattr(trainer.train_dataloader, "batch_sampler", None)
        batch_size = getattr(batch_sampler, "batch_size", None) or self.plan.per_device_batch_size
        return data_parallel_ranks * batch_size * trainer.accumulate_grad_batches


def _check_no_schedule(trainer: Trainer, pl_module: LightningModule) -> None:
    """Raise UserError if anything but the plan would set the rate, the steps or the batch."""
    if not pl_module.automatic_optimization:
        raise UserError("automatic_optimization: this module takes steps itself; use WarmupScheduler in it instead")
    if trainer.lr_scheduler_configs:
        raise UserError("configure_optimizers: returns a second schedule beside the plan's; return the optimizer alone")
    callbacks: list[Callback] = trainer.callbacks  # pyrefly: ignore[missing-attribute]  # a connector sets it
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        raise UserError("GradientAccumulationScheduler: changes the batch that the plan is made for; remove it")
