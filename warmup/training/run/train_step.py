"""One step of training, and the loop of them: exact on any cut of the global batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from operator import attrgetter
from typing import NoReturn

import numpy as np
import torch
from accelerate import Accelerator

from warmup.clock import StepClock
from warmup.errors import UserError
from warmup.noise_scale import NoiseScale, PartSums
from warmup.plan import Plan
from warmup.scheduler import WarmupScheduler
from warmup.training.checkpoints.saver import Saver, last_good
from warmup.training.data import order
from warmup.training.data.batching.memory import explain_out_of_memory
from warmup.training.data.batching.micro_batch import MicroBatch, to_device
from warmup.training.data.batching.prefetcher import BatchPrefetcher, RankBatch
from warmup.training.data.samples import StepSamples
from warmup.training.distributed import collectives
from warmup.training.distributed.preemption import PreemptionHandler
from warmup.training.distributed.watchdog import Watchdog
from warmup.training.engines import Engine
from warmup.training.engines.part_norms import PartNorms
from warmup.training.models.compile import eager
from warmup.training.reporting.throughput import ThroughputMeter
from warmup.training.tasks import Objective

BETWEEN = "the update, or what comes between two steps"


@dataclass(frozen=True)
class StepResult:
    """What a step did, and what ranks request after it."""

    lr: float
    """The rate that it used."""
    loss_sum: torch.Tensor
    """This rank's part of the sum over all targets."""
    targets: int
    """Of all ranks."""
    grad_norm: float
    applied: bool
    """False if it was skipped, because a gradient is not finite."""
    previous_loss: float | None
    """The mean loss of the step before, None for the first step."""
    stop: bool
    """Whether any rank requests to stop."""
    save: bool
    """Whether rank 0 requests a checkpoint."""
    save_failed: bool
    """Whether rank 0 could not write its last checkpoint."""
    step_samples: StepSamples
    """Of all ranks."""
    own_positions: np.ndarray
    """Positions in the step of the samples that this rank computed."""
    loss_scale: float | None = None
    """In fp16, what the loss was multiplied by."""

    @property
    def indices(self) -> np.ndarray:
        """Ids of the samples of all ranks."""
        return self.step_samples.indices

    @property
    def own_indices(self) -> np.ndarray:
        """Ids of the samples that this rank computed."""
        return self.indices[self.own_positions]


@dataclass
class TrainStep:
    """What a step needs. `steps` runs them one after another."""

    accelerator: Accelerator
    engine: Engine
    scheduler: WarmupScheduler
    clock: StepClock
    plan: Plan
    prefetcher: BatchPrefetcher
    objective: Objective
    throughput: ThroughputMeter
    preemption: PreemptionHandler
    watchdog: Watchdog
    saver: Saver
    stream_state: Mapping[str, int] | None = None
    """Where a stream of data goes on, None without one."""
    noise_scale: NoiseScale | None = None
    """What was measured of it, None if it is not to be."""
    _previous: tuple[torch.Tensor, int] | None = None  # loss sum and targets of the step before

    def warm_up_passes(self) -> None:
        """Forward and backward passes that change nothing, for what the engine sets up in its first ones."""
        one = torch.ones((), device=self.accelerator.device)
        with self.engine.micro_batch_context(last=True), eager(self.prefetcher.layout):
            self.engine.warm_up_passes(lambda: self._forward_backward(self.prefetcher.dummy_batch(), one))

    def seek(self, position: Mapping[str, int], in_run_directory: bool) -> None:
        """Go to the position of a checkpoint.

        Args:
            position: as a clock's `state_dict` returned it.
            in_run_directory: whether the checkpoint is one of this run directory, so that it need not be saved there.
        """
        self.clock.load_state_dict(position)
        self.scheduler.seek(self.clock.samples)
        self.saver.record_saved(self.clock, in_run_directory)

    @property
    def epoch(self) -> float | None:
        """Passes over the training data so far; over a stream, only whole ones."""
        return self.stream_state["epoch"] if self.stream_state else self.clock.epoch

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, including those done before the batch size changed."""
        return self.clock.step + self.clock.steps_to(self.plan.duration_samples)

    def is_over(self) -> bool:
        return self.clock.samples >= self.plan.duration_samples

    def steps(self) -> Iterator[StepResult]:
        """Train until the duration is over or a rank requests to stop."""
        self.engine.model.train()
        while not self.is_over():
            step = self._step()
            yield step
            if step.stop:
                return

    def _step(self) -> StepResult:
        """Take samples, count targets over all ranks, forward and backward on sum / count, then update the weights
        unless a gradient is not finite.
        """
        position = self.clock.consumed_samples
        self.watchdog.heartbeat("the reading of its samples", position)
        with self.throughput.waiting_for_data():
            rank_batch = self.prefetcher.next(position, self.clock.samples)
        self.watchdog.heartbeat("the count of targets", waits=True)
        counts = self._count(rank_batch)
        part_norms = self._part_norms()
        loss_sum = self._accumulate(rank_batch, position, counts[0], part_norms)
        if part_norms:
            counts = torch.cat([counts, part_norms.over_ranks()])
        group = self.scheduler.optimizer.param_groups[0]
        lr = float(group["lr"]) / group["lr_multiplier"]
        numbers, grad_norm, applied = self.engine.update(counts)
        self.watchdog.heartbeat(BETWEEN)
        targets, tokens, padded_tokens, stop, save, save_failed, data_failed = map(int, numbers[:7])
        previous_sum, *part_sums = numbers[7:]
        if data_failed:
            self._raise_data_error(rank_batch)
        if applied and self.noise_scale:
            samples = len(rank_batch.step_samples.indices)
            self.noise_scale.add_step(grad_norm, samples, targets, self._as_part_sums(part_sums))
        self.clock.advance(tokens, applied)
        if not applied and (self.engine.loss_scale or 0) > 1:
            self.clock.skipped_in_a_row = 0  # perhaps the loss was only scaled too far
        self.scheduler.seek(self.clock.samples)
        previous_loss = previous_sum / max(self._previous[1], 1) if self._previous else None
        self._previous = loss_sum, targets
        self.stream_state = rank_batch.step_samples.stream_state
        self.throughput.add(rank_batch.step_samples.lengths, targets, padded_tokens)
        return StepResult(
            lr=lr,
            loss_sum=loss_sum,
            targets=targets,
            grad_norm=grad_norm,
            applied=applied,
            previous_loss=previous_loss,
            stop=bool(stop),
            save=bool(save),
            save_failed=bool(save_failed),
            step_samples=rank_batch.step_samples,
            own_positions=rank_batch.own_positions,
            loss_scale=self.engine.loss_scale,
        )

    def _count(self, rank_batch: RankBatch) -> torch.Tensor:
        """On the device: targets, tokens and padded tokens of the whole step; the number of ranks that request to stop,
        that request to save, that failed to save, and that failed to read; and the loss sum of the step before.
        """
        own = (
            rank_batch.total(attrgetter("target_count")),
            rank_batch.total(attrgetter("token_count")),
            rank_batch.total(attrgetter("padded_tokens")),
            self.preemption.stop_requested(),
            self.saver.save_requested(),
            self.saver.failed(),
            rank_batch.error is not None,
        )
        device = self.accelerator.device
        counts = torch.tensor(own, dtype=torch.float64, pin_memory=device.type == "cuda").to(device, non_blocking=True)
        previous_sum = self._previous[0] if self._previous else counts.new_zeros(())
        return collectives.sum_over_ranks(torch.cat([counts, previous_sum.reshape(1)]))

    def _part_norms(self) -> PartNorms | None:
        """What measures the micro-batches of the next step, if they are to be."""
        due = self.noise_scale is not None and self.noise_scale.is_due(self.clock.step)
        return PartNorms(self.engine.unwrapped_model) if due else None

    def _as_part_sums(self, sums: Sequence[float]) -> PartSums | None:
        """What `PartNorms` measured, for gradients that add up to the step's: those that it saw are to be averaged over
        ranks, and are multiplied by the loss scale. None if it measured nothing.
        """
        if not sums:
            return None
        factor = self.accelerator.num_processes * (self.engine.loss_scale or 1)
        return PartSums(sums[0] / factor**2, sums[1])

    def _accumulate(
        self, rank_batch: RankBatch, position: int, targets: torch.Tensor, part_norms: PartNorms | None
    ) -> torch.Tensor:
        """Forward and backward passes of this rank's micro-batches. Returns the sum of their losses, on the device."""
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        for number, (index, batch) in enumerate(rank_batch.micro_batches):
            # What is random about a micro-batch is keyed by its index, so that it does not matter which rank has it.
            torch.manual_seed(int(order.key(self.prefetcher.seed, position, index)) >> 1)
            measured = part_norms.part(batch.target_count) if part_norms else nullcontext()
            with self.engine.micro_batch_context(last=number == len(rank_batch.micro_batches) - 1), measured:
                with explain_out_of_memory(batch, "batch.per_device, or set speed.gradient_checkpointing"):
                    loss_sum += self._forward_backward(batch, targets)
            self.prefetcher.begin_next()  # a GPU has work now; on CPUs it was begun before
        self.engine.reduce_sparse_grads(rank_batch)
        return loss_sum

    def _forward_backward(self, batch: MicroBatch, targets: torch.Tensor) -> torch.Tensor:
        """The micro-batch's loss sum; its gradient is that of sum / (targets of all ranks and micro-batches)."""
        self.watchdog.heartbeat("the forward pass")
        inputs, expected = to_device(batch, self.accelerator.device)
        loss = self.objective.training_loss_sum(self.engine.model(**inputs).logits, expected)
        scale = (self.engine.grad_divisor / targets).to(loss.dtype)
        # A loss that is not finite can have a gradient that is; x - x makes that not finite too, on all ranks.
        self.watchdog.heartbeat("the sum of gradients", waits=True)
        self.engine.backward(loss * (scale + (loss.detach() - loss.detach())))
        return loss.detach().double()

    def loss(self, step: StepResult) -> float:
        """The step's exact mean loss over its targets. Also checks that all ranks agree. A collective call."""
        self.watchdog.heartbeat("the check of the clock", waits=True)
        parts = self.clock.check(step.lr, float(step.loss_sum))
        self.watchdog.heartbeat(BETWEEN)
        return sum(parts) / max(step.targets, 1)

    def computed_samples(self, step: StepResult) -> tuple[list[int], list[int]]:
        """Samples of the step just done as the ranks computed them, rank by rank. A collective call.

        Returns:
            Their positions in the data stream, and their ids.
        """
        start = self.clock.consumed_samples - len(step.indices)
        own = [(start + step.own_positions).tolist(), step.own_indices.tolist()]
        self.watchdog.heartbeat("the list of samples", waits=True)
        everyone = collectives.gather_objects(own)
        return [position for positions, _ in everyone for position in positions], [
            sample_id for _, ids in everyone for sample_id in ids
        ]

    def check_skipped(self, limit: int, step: StepResult) -> None:
        """Raise UserError on all ranks once `limit` steps in a row were skipped. A collective call then."""

        def fail() -> None:
            self.saver.wait()
            raise UserError(
                f"recipe.lr: {limit} steps in a row had a loss or gradient that is not finite, the last after step "
                f"{self.clock.step} at a rate of {step.lr:g}; use a lower rate, a longer warmup or clipping; "
                + last_good(self.saver.run)
            )

        if self.clock.skipped_in_a_row >= limit:
            collectives.on_main(self.accelerator, fail)

    def _raise_data_error(self, rank_batch: RankBatch) -> NoReturn:
        """Raise UserError on all ranks, for the first of them that could not read its samples. A collective call."""
        self.watchdog.heartbeat("the end for data that cannot be read", waits=True)
        reasons = [reason for reason in collectives.gather_objects(rank_batch.error) if reason]

        def fail() -> None:
            self.saver.wait()
            raise UserError(f"{reasons[0]}; {last_good(self.saver.run)}")

        collectives.on_main(self.accelerator, fail)
        raise AssertionError
