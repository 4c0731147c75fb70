"""PlanCallback for Lightning: the learning rate of each step of its Trainer is the plan's."""

from __future__ import annotations

from typing import Any

from warmup.callbacks import schedule
from warmup.plan import Plan

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import GradientAccumulationScheduler
except ModuleNotFoundError as error:
    raise ImportError(f"warmup.callbacks.lightning needs Lightning ({error}): pip install lightning") from None


class PlanCallback(Callback):
    """Sets the learning rate of each step of a Lightning Trainer to the plan's.

    For automatic optimization, with any accumulate_grad_batches. configure_optimizers returns the optimizer without a
    scheduler, and Trainer(max_steps=plan.total_steps) takes the plan's steps. The rate is all that it sets.

    The position is Lightning's global_step x plan.global_batch_size samples, also after fit(ckpt_path=...). So a step
    counts as whole that Lightning makes of fewer samples, as the last of an epoch may be, or that a gradient scaler
    skips (16-mixed).

    Args:
        plan: of Topology(devices x nodes, batch size of the data loader, accumulate_grad_batches), or another of the
            same global batch. A loader that has no one batch size is taken to be the plan's.

    `fit()` raises ValueError where the Trainer contradicts the plan, RanksDisagree where ranks have different plans.
    """

    def __init__(self, plan: Plan):
        self.plan = plan

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _require_no_schedule(trainer, pl_module)
        steps = trainer.estimated_stepping_batches
        self._scheduler = schedule(self.plan, trainer.optimizers[0], self._global_batch(trainer), steps)
        self._seek(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._seek(trainer)

    def _seek(self, trainer: Trainer) -> None:
        self._scheduler.seek(trainer.global_step * self.plan.global_batch_size)

    def _global_batch(self, trainer: Trainer) -> int:
        """Samples per step over all ranks."""
        ranks = (trainer.distributed_sampler_kwargs or {"num_replicas": 1})["num_replicas"]  # those of data parallelism
        loader = trainer.train_dataloader
        sampler = getattr(loader, "batch_sampler", None)
        size = getattr(sampler, "batch_size", None) or self.plan.per_device_batch_size
        return ranks * size * trainer.accumulate_grad_batches


def _require_no_schedule(trainer: Trainer, pl_module: LightningModule) -> None:
    """Raise ValueError unless the rate, the steps and the batch are the plan's to say."""
    if not pl_module.automatic_optimization:
        raise ValueError("automatic_optimization: of a module that steps by itself; use WarmupScheduler in it instead")
    if trainer.lr_scheduler_configs:
        raise ValueError(
            "configure_optimizers: would be a second schedule beside the plan's; return the optimizer alone"
        )
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):
        raise ValueError("GradientAccumulationScheduler: changes the batch that the plan is made for; leave it out")
