"""One step of training, and the loop of them: exact on any cut of the global batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from accelerate import Accelerator

from warmup.clock import StepClock
from warmup.errors import UserError
from warmup.plan import Plan
from warmup.scheduler import WarmupScheduler
from warmup.training.checkpoints.saver import Saver, last_good
from warmup.training.data import order
from warmup.training.data.batching.micro_batch import MicroBatch, to_device
from warmup.training.data.batching.prefetcher import BatchPrefetcher, RankBatch
from warmup.training.data.samples import StepSamples
from warmup.training.distributed import collectives
from warmup.training.distributed.preemption import PreemptionHandler
from warmup.training.distributed.watchdog import Watchdog
from warmup.training.engines.ddp import DDPEngine
from warmup.training.engines.deepspeed import DeepSpeedEngine
from warmup.training.models.compile import eager
from warmup.training.reporting.throughput import ThroughputMeter

BETWEEN = "the update, or what comes between two steps"


@dataclass(frozen=True)
class StepResult:
    """What a step did, and what ranks want after it.

    lr: the rate it used. loss_sum: this rank's part. loss_before: the mean loss of the step before, None at the first.
    stop, save: whether any rank wants to. save_failed: whether rank 0 could not write its last checkpoint.
    drawn: the samples of all ranks. own_positions: places in the step of those that this rank computed.
    loss_scale: in fp16, what the loss was multiplied by.
    """

    lr: float
    loss_sum: torch.Tensor
    targets: int
    grad_norm: float
    applied: bool
    loss_before: float | None
    stop: bool
    save: bool
    save_failed: bool
    drawn: StepSamples
    own_positions: np.ndarray
    loss_scale: float | None = None

    @property
    def indices(self) -> np.ndarray:
        return self.drawn.indices

    @property
    def own_indices(self) -> np.ndarray:
        return self.indices[self.own_positions]


@dataclass
class TrainStep:
    """What a step needs. Built once by train.py. place: where in a stream of data it is, None without one."""

    accelerator: Accelerator
    engine: DDPEngine | DeepSpeedEngine
    scheduler: WarmupScheduler
    clock: StepClock
    plan: Plan
    shares: BatchPrefetcher
    meters: ThroughputMeter
    watch: PreemptionHandler
    hang: Watchdog
    saver: Saver
    place: Mapping[str, int] | None = None
    _before: tuple[torch.Tensor, int] | None = None  # loss sum and targets of the step before

    def settle(self) -> None:
        """Passes that change nothing, for what the engine sets up in its first ones."""
        one = torch.ones((), device=self.accelerator.device)
        with self.engine.turn(last=True), eager(self.shares.reading):
            self.engine.settle(lambda: self._forward_backward(self.shares.any(), one))

    def seek(self, position: Mapping[str, int]) -> None:
        """Go to where a clock's state says."""
        self.clock.load_state_dict(position)
        self.scheduler.seek(self.clock.samples)
        self.saver.mark(self.clock)

    @property
    def epoch(self) -> float | None:
        """Passes over the training data so far; of a stream whole ones alone."""
        return self.place["epoch"] if self.place else self.clock.epoch

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, those done before the batch changed included."""
        left = max(self.plan.duration_samples - self.clock.samples, 0)
        return self.clock.step + -(-left // self.plan.global_batch_size)

    def over(self) -> bool:
        return self.clock.samples >= self.plan.duration_samples

    def steps(self) -> Iterator[StepResult]:
        """Train until the duration is over or a rank wants to stop."""
        self.engine.model.train()
        while not self.over():
            step = self._step()
            yield step
            if step.stop:
                return

    def _step(self) -> StepResult:
        """Draw, deal, count, then forward and backward on sum / count, then update unless a gradient is not finite."""
        drawn = self.clock.drawn
        self.hang.mark("the reading of its samples", drawn)
        with self.meters.waiting_for_data():
            share = self.shares.take(drawn)
        self.hang.mark("the count of targets", waits=True)
        counts = self._count(share)
        losses = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        for turn, (slot, batch) in enumerate(share.slots):
            # What is random about a slot is keyed by it, so that it does not matter which rank computes it.
            torch.manual_seed(int(order.key(self.shares.seed, drawn, slot)) >> 1)
            with self.engine.turn(last=turn == len(share.slots) - 1):
                losses += self._forward_backward(batch, counts[0])
        self.engine.exchange(share)
        group = self.scheduler.optimizer.param_groups[0]
        lr = float(group["lr"]) / group["lr_ratio"]
        (*flags, before), grad_norm, applied = self.engine.update(counts)
        self.hang.mark(BETWEEN)
        targets, tokens, places, stop, save, failed, broken = map(int, flags)
        if broken:
            self._refuse_broken(share)
        self.clock.advance(tokens, applied)
        if not applied and (self.engine.loss_scale or 0) > 1:
            self.clock.skipped_in_a_row = 0  # it may be that the loss was only scaled up too far
        self.scheduler.seek(self.clock.samples)
        loss_before = before / max(self._before[1], 1) if self._before else None
        self._before = losses, targets
        self.place = share.drawn.place
        self.meters.add(share.drawn.lengths, targets, places)
        return StepResult(
            lr,
            losses,
            targets,
            grad_norm,
            applied,
            loss_before,
            bool(stop),
            bool(save),
            bool(failed),
            share.drawn,
            share.own_positions,
            self.engine.loss_scale,
        )

    def _count(self, share: RankBatch) -> torch.Tensor:
        """On the device: targets, tokens and places of the whole step; ranks that want to stop, to save, that failed to
        save, to read; and the loss sum of the step before, which rides along.
        """
        mine = (
            share.total("target_count"),
            share.total("token_count"),
            share.total("place_count"),
            self.watch.wanted(),
            self.saver.wanted(),
            self.saver.failed(),
            share.broken is not None,
        )
        counts = torch.tensor(mine, dtype=torch.float64).to(self.accelerator.device, non_blocking=True)
        before = self._before[0] if self._before else counts.new_zeros(())
        return collectives.sum_over_ranks(torch.cat([counts, before.reshape(1)]))

    def _forward_backward(self, batch: MicroBatch, targets: torch.Tensor) -> torch.Tensor:
        """The micro-batch's loss sum; its gradient is that of sum / (targets of all ranks and micro-batches)."""
        self.hang.mark("the forward pass")
        inputs, wanted = to_device(batch, self.accelerator.device)
        loss = self.shares.task.training_loss(self.engine.model(**inputs).logits, wanted)
        scale = (self.engine.gradient_parts / targets).to(loss.dtype)
        # A loss that is not finite can have a gradient that is; x - x makes that not finite too, on all ranks.
        self.hang.mark("the sum of gradients", waits=True)
        self.engine.backward(loss * (scale + (loss.detach() - loss.detach())))
        return loss.detach().double()

    def loss(self, step: StepResult) -> float:
        """The step's exact mean loss over its targets. Checks on the way that all ranks agree. A collective call."""
        self.hang.mark("the check of the clock", waits=True)
        parts = self.clock.check(step.lr, float(step.loss_sum))
        self.hang.mark(BETWEEN)
        return sum(parts) / max(step.targets, 1)

    def computed(self, step: StepResult) -> tuple[list[int], list[int]]:
        """Samples of the step just done as the ranks computed them, rank by rank: places in the data stream, and ids.
        A collective call.
        """
        start = self.clock.drawn - self.plan.global_batch_size
        mine = [(start + step.own_positions).tolist(), step.own_indices.tolist()]
        self.hang.mark("the list of samples", waits=True)
        everyone = collectives.gather_objects(mine)
        return [place for places, _ in everyone for place in places], [number for _, ids in everyone for number in ids]

    def refuse_skipping(self, limit: int, step: StepResult) -> None:
        """Raise UserError on all ranks once `limit` steps in a row were skipped. A collective call then."""

        def refuse() -> None:
            self.saver.wait()
            raise UserError(
                f"recipe.lr: {limit} steps in a row had a loss or gradient that is not finite, the last after step "
                f"{self.clock.step} at a rate of {step.lr:g}; use a lower rate, a longer warmup or clipping; "
                + last_good(self.saver.run)
            )

        if self.clock.skipped_in_a_row >= limit:
            collectives.on_main(self.accelerator, refuse)

    def _refuse_broken(self, share: RankBatch) -> NoReturn:
        """Raise UserError on all ranks, for the first of them that could not read its samples. A collective call."""
        self.hang.mark("the end for data that cannot be read", waits=True)
        reasons = [reason for reason in collectives.gather_objects(share.broken) if reason]

        def refuse() -> None:
            self.saver.wait()
            raise UserError(f"{reasons[0]}; {last_good(self.saver.run)}")

        collectives.on_main(self.accelerator, refuse)
        raise AssertionError
