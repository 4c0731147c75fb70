"""PlanCallback for Lightning: each step of its Trainer runs at the plan's learning rate."""

from __future__ import annotations

from typing import Any

from warmup.callbacks import build_scheduler
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

    The position is Lightning's global_step x plan.global_batch_size samples, also after fit(ckpt_path=...). So every
    step counts as a full one, even if it has fewer samples, like the last step of an epoch, or is skipped by a
    gradient scaler (16-mixed).

    `fit()` raises ValueError if the Trainer contradicts the plan, and RanksDisagree if ranks have different plans.
    """

    def __init__(self, plan: Plan):
        """
        Args:
            plan: for Topology(devices x nodes, batch size of the data loader, accumulate_grad_batches), or any other
                topology with the same global batch. A data loader without a single batch size is assumed to have the
                plan's.
        """
        self.plan = plan

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _check_no_schedule(trainer, pl_module)
        steps = trainer.estimated_stepping_batches
        self._scheduler = build_scheduler(self.plan, trainer.optimizers[0], self._global_batch_size(trainer), steps)
        self._seek(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._seek(trainer)

    def _seek(self, trainer: Trainer) -> None:
        self._scheduler.seek(trainer.global_step * self.plan.global_batch_size)

    def _global_batch_size(self, trainer: Trainer) -> int:
        """Samples per step over all ranks."""
        data_parallel_ranks = (trainer.distributed_sampler_kwargs or {"num_replicas": 1})["num_replicas"]
        batch_sampler = getattr(trainer.train_dataloader, "batch_sampler", None)
        batch_size = getattr(batch_sampler, "batch_size", None) or self.plan.per_device_batch_size
        return data_parallel_ranks * batch_size * trainer.accumulate_grad_batches


def _check_no_schedule(trainer: Trainer, pl_module: LightningModule) -> None:
    """Raise ValueError if anything but the plan would set the rate, the steps or the batch."""
    if not pl_module.automatic_optimization:
        raise ValueError("automatic_optimization: this module takes steps itself; use WarmupScheduler in it instead")
    if trainer.lr_scheduler_configs:
        raise ValueError(
            "configure_optimizers: returns a second schedule beside the plan's; return the optimizer alone"
        )
    callbacks: list[Callback] = trainer.callbacks  # pyrefly: ignore[missing-attribute]  # a connector sets it
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        raise ValueError("GradientAccumulationScheduler: changes the batch that the plan is made for; remove it")
