"""Evaluation: every sample exactly once, and the same number on any world size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.memory import explain_out_of_memory
from warmup.training.data.batching.micro_batch import MicroBatch, to_device
from warmup.training.data.batching.prefetcher import build_ahead
from warmup.training.data.samples import Samples
from warmup.training.distributed import collectives
from warmup.training.models.compile import eager
from warmup.training.models.input_layout import InputLayout
from warmup.training.reporting.progress import track
from warmup.training.tasks import Objective
from warmup.training.tasks.metrics import sum_by_sample
from warmup.training.tasks.task import evaluation_batch

STOP_CHECK_EVERY = {"cpu": 4, "cuda": 32}
"""Micro-batches of a rank between two exchanges of whether a rank requests to stop, by the type of its device. A GPU is
faster, and each exchange waits until it has nothing left to do.
"""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, the same on all ranks."""

    metrics: dict[str, float]
    results_SW: torch.Tensor
    """What the task keeps of each sample, as `Objective.results`."""
    combined: torch.Tensor
    """The same of what metrics count, as `Objective.combine`."""
    losses_S: torch.Tensor
    """The mean loss of each sample's targets."""


@dataclass(frozen=True)
class Evaluator:
    """What evaluates a model on this rank."""

    model: nn.Module
    objective: Objective
    layout: InputLayout
    batch_size: int
    accelerator: Accelerator
    heartbeat: Callable[..., None] = lambda phase, waits=False: None
    """Is told of each phase that this rank comes to."""
    stop_requested: Callable[[], bool] = lambda: False
    """Whether this rank wants the run to stop."""
    lockstep: bool = False
    """All ranks call the model equally often, because each holds a part of it."""

    @torch.no_grad()  # in inference mode, ZeRO 3 would gather weights that the next pass cannot be trained with
    def evaluate(self, samples: Samples) -> Evaluation | None:
        """The task's metrics over all samples; None if a rank requested to stop on the way. A collective call.

        The micro-batches are the same for any world size. Ranks fill in the rows of their own, those of the others stay
        0, and a sum over ranks makes the tables whole without rounding; so what is made of them is the same to the
        last bit on any number of ranks that have as many threads each. Rank 0 makes it, so that all ranks decide by
        the same numbers.
        """
        by_length = np.argsort(samples.lengths, kind="stable")
        groups = [by_length[start : start + self.batch_size] for start in range(0, len(by_length), self.batch_size)]
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        own = groups[rank::ranks]
        turns, check_every = range(0, len(groups), ranks), STOP_CHECK_EVERY[self.accelerator.device.type]
        computed = [*own, groups[-1]] if self.lockstep and len(own) < len(turns) else own
        batches = build_ahead(computed, lambda indices: self._batch(samples, indices), self.accelerator.device)
        found = []
        self.model.eval()
        for turn, _ in enumerate(track(turns, "evaluating", self.accelerator.is_main_process)):
            if turn % check_every == 0 and self._any_stop_requested():
                self.model.train()
                return None
            if turn < len(computed):
                self.heartbeat("the evaluation")
                found.append(self._compute(next(batches)))
        self.model.train()
        losses = torch.zeros(len(groups), dtype=torch.float64, device=self.accelerator.device)
        results = losses.new_zeros(len(samples), self.objective.width + 1)  # the last is the sample's mean loss
        if own:  # written at once: an index for each micro-batch would have to wait for the device
            losses[rank::ranks] = torch.stack([loss for loss, _ in found[: len(own)]])
            indices = torch.from_numpy(np.concatenate(own)).to(losses.device)
            results[indices] = torch.cat([of_samples for _, of_samples in found[: len(own)]])
        self.heartbeat("the sum of the evaluation", waits=True)
        losses, results = collectives.sum_over_ranks(losses), collectives.sum_over_ranks(results)
        losses, results = losses.cpu(), results.cpu()
        results_SW, losses_S = results[:, :-1], results[:, -1]
        combined = self.objective.combine(results_SW.contiguous(), samples)
        metrics = collectives.on_main(self.accelerator, lambda: self.objective.metrics(float(losses.sum()), combined))
        return Evaluation(metrics, results_SW, combined, losses_S)

    def _any_stop_requested(self) -> bool:
        """Whether any rank requests to stop. A collective call, so that all ranks stop at the same micro-batch."""
        self.heartbeat("the check for a stop in the evaluation", waits=True)
        if not collectives.is_distributed():
            return self.stop_requested()
        own = torch.tensor(float(self.stop_requested()), device=self.accelerator.device)
        return float(collectives.sum_over_ranks(own)) > 0

    def _batch(self, samples: Samples, indices: np.ndarray) -> MicroBatch:
        layout = replace(self.layout, static_max_length=0)
        return lay_out(evaluation_batch(self.objective, samples, indices), layout)

    def _compute(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss sum of one micro-batch, and of each sample its results and the mean loss of its targets."""
        inputs, targets = to_device(batch, self.accelerator.device)
        with eager(self.layout), explain_out_of_memory(batch, "batch.evaluation"):
            logits = self.model(**inputs).logits
        losses_N, counts_N = self.objective.losses(logits, targets).double(), self.objective.target_counts(targets)
        sums_S2 = sum_by_sample(torch.stack([losses_N, counts_N], 1), targets)
        mean_S1 = sums_S2[:, :1] / sums_S2[:, 1:].clamp_min(1)
        return losses_N.sum(), torch.cat([self.objective.results(logits, targets).double(), mean_S1], 1)
