"""One step of training, and the loop of them: exact on any cut of the global batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from warmup.clock import StepClock
from warmup.plan import Plan
from warmup.scheduler import WarmupScheduler
from warmup.training import engine, order, tasks
from warmup.training.outcome import UserError
from warmup.training.stopping import StopWatch
from warmup.training.tokens import Samples


@dataclass(frozen=True)
class Step:
    """What a step did. `lr` is the rate it used; `loss_sum` this rank's part; `indices` the samples of all ranks."""

    lr: float
    loss_sum: torch.Tensor
    targets: int
    grad_norm: float
    applied: bool
    stop: bool
    indices: np.ndarray
    own_indices: np.ndarray


@dataclass(frozen=True)
class Trainer:
    """What a step needs. Built once by train.py."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    scheduler: WarmupScheduler
    clock: StepClock
    plan: Plan
    task: tasks.Task
    samples: Samples
    seed: int
    watch: StopWatch

    def steps(self) -> Iterator[Step]:
        """Train until the duration is over or a rank wants to stop. Raises UserError where too many are skipped."""
        self.model.train()
        while self.clock.samples < self.plan.duration_samples:
            step = self._step()
            yield step
            if step.stop:
                return

    def _step(self) -> Step:
        """Draw, deal, count, then forward and backward on sum / count, then update unless a gradient is not finite."""
        drawn, size = self.clock.drawn, self.plan.global_batch_size
        indices, epochs = order.draw(drawn, size, len(self.samples), self.seed)
        dealt = order.deal(self.samples.lengths[indices], self.plan.world_size * self.plan.accumulation)
        own = order.own_slots(dealt, self.accelerator.process_index, self.accelerator.num_processes)
        batches = [self._collate(indices, epochs, members) for _, members in own]
        counts = self._count(batches)
        losses = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        for turn, ((slot, _), batch) in enumerate(zip(own, batches, strict=True)):
            # What is random about a slot is keyed by it, so that it does not matter which rank computes it.
            torch.manual_seed(int(order.key(self.seed, drawn, slot)) >> 1)
            with nullcontext() if turn == len(own) - 1 else self.accelerator.no_sync(self.model):
                losses += self._forward_backward(batch, counts[0])
        norm = self._clip()
        # The one read of the device per step: everything before it was only enqueued.
        targets, tokens, stop, grad_norm = torch.cat([counts, norm.double().reshape(1)]).tolist()
        lr = float(self.scheduler.optimizer.param_groups[0]["lr"])
        applied = self._update(grad_norm, int(tokens))
        own_indices = indices[np.concatenate([members for _, members in own])]
        return Step(lr, losses, int(targets), grad_norm, applied, bool(stop), indices, own_indices)

    def _collate(self, indices: np.ndarray, epochs: np.ndarray, members: np.ndarray) -> tasks.MicroBatch:
        chosen = members if len(members) else np.zeros(1, np.int64)
        batch = self.task.collate(self.samples, indices[chosen], epochs[chosen], self.seed)
        return batch if len(members) else tasks.weightless(batch)

    def _count(self, batches: list[tasks.MicroBatch]) -> torch.Tensor:
        """(targets, tokens, ranks that want to stop) of the whole step, on the device."""
        mine = (
            sum(batch.target_count for batch in batches),
            sum(batch.token_count for batch in batches),
            self.watch.wanted(),
        )
        return engine.total(torch.tensor(mine, dtype=torch.float64, device=self.accelerator.device))

    def _forward_backward(self, batch: tasks.MicroBatch, targets: torch.Tensor) -> torch.Tensor:
        """The micro-batch's loss sum; its gradient is that of sum / (targets of all ranks and micro-batches)."""
        inputs, wanted = tasks.on_device(batch, self.accelerator.device)
        loss = tasks.loss_sum(self.model(**inputs).logits, wanted)
        # DistributedDataParallel takes the mean over ranks; times their number it is the sum.
        self.accelerator.backward(loss * (self.accelerator.num_processes / targets).to(loss.dtype))
        return loss.detach().double()

    def _clip(self) -> torch.Tensor:
        """The global gradient norm, before clipping."""
        limit = self.plan.max_grad_norm or float("inf")
        return self.accelerator.clip_grad_norm_(self.model.parameters(), limit)

    def _update(self, grad_norm: float, tokens: int) -> bool:
        applied = bool(np.isfinite(grad_norm))
        if applied:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.clock.advance(tokens, applied)
        self.scheduler.seek(self.clock.samples)
        return applied

    def loss(self, step: Step) -> float:
        """The step's exact mean loss over its targets. Checks on the way that all ranks agree. A collective call."""
        parts = self.clock.check(step.lr, float(step.loss_sum))
        return sum(parts) / max(step.targets, 1)

    def refuse_skipping(self, limit: int, step: Step) -> None:
        """Raise UserError once `limit` steps in a row were skipped."""
        if self.clock.skipped_in_a_row >= limit:
            raise UserError(
                f"recipe.lr: {limit} steps in a row had a gradient that is not finite, the last after step "
                f"{self.clock.step} at a rate of {step.lr:g}; use a lower rate, a longer warmup or clipping"
            )
