"""Evaluation: every sample exactly once, and the same number on any world size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from warmup.config import Config
from warmup.errors import UserError
from warmup.training import tasks
from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import to_device
from warmup.training.data.samples import Samples
from warmup.training.distributed import collectives
from warmup.training.models.compile import eager
from warmup.training.models.input_layout import InputLayout
from warmup.training.tasks.metrics import METRICS


def check_evaluation(config: Config) -> None:
    """Raise UserError where a configuration asks for what evaluations cannot give."""
    asked, names = config.evaluation, METRICS[config.task]
    if asked.metric not in names:
        raise UserError(f"evaluation.metric: {asked.metric!r} is none of those of {config.task}: {', '.join(names)}")
    for flag, wanted in (("patience", asked.patience is not None), ("export", asked.export == "best")):
        if wanted and asked.every is None:
            raise UserError(
                f"evaluation.{flag}: {getattr(asked, flag)} needs evaluations on the way: give evaluation.every, "
                'e.g. "500 steps"'
            )


@torch.no_grad()  # in inference mode, ZeRO 3 would gather weights that the next pass cannot be trained with
def evaluate_model(
    model: nn.Module,
    task: tasks.Task,
    reading: InputLayout,
    samples: Samples,
    batch_size: int,
    accelerator: Accelerator,
    mark: Callable[..., None] = lambda place, waits=False: None,
    together: bool = False,
) -> dict[str, float]:
    """The task's metrics over all samples. A collective call. `mark` is told of each place that it comes to; with
    `together` all ranks call the model equally often.

    The micro-batches are the same for any world size. Ranks fill in the rows of their own, the others stay 0, and a
    sum over ranks makes the tables whole without rounding; so what is made of them is the same to the last bit on any
    number of ranks that have as many threads each. Rank 0 makes it, so that all ranks decide by the same numbers.
    """
    by_length = np.argsort(samples.lengths, kind="stable")
    groups = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    rows = groups if task.per_sample else [[number] for number in range(len(groups))]
    losses = torch.zeros(len(groups), dtype=torch.float64, device=accelerator.device)
    results = losses.new_zeros(sum(map(len, rows)), task.width)
    shaped, reading = reading, replace(reading, steady=0)
    model.eval()
    for first in range(0, len(groups), accelerator.num_processes):
        number = first + accelerator.process_index
        mine = number < len(groups)
        if not mine and not together:
            break
        mark("the evaluation")
        batch = lay_out(tasks.evaluation_batch(task, samples, groups[number if mine else -1]), reading)
        inputs, targets = to_device(batch, accelerator.device)
        with eager(shaped):
            logits = model(**inputs).logits
        if mine:
            losses[number] = task.loss_sum(logits, targets)
            owners = batch.owners.to(accelerator.device, non_blocking=True)
            results[rows[number]] = task.results(logits, targets, owners).double()
    model.train()
    mark("the sum of the evaluation", waits=True)
    losses, results = collectives.sum_over_ranks(losses), collectives.sum_over_ranks(results)
    return collectives.on_main(accelerator, lambda: task.metrics(float(losses.sum()), results.cpu()))
