"""The test mode: a few real steps, an evaluation and an export of the job as it would run, checked on the way."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from warmup.training import engine, order
from warmup.training.loop import Step, Trainer

STEPS = 5


class RateProbe:
    """Reads the rates that the optimizer holds inside its step, where they are used."""

    def __init__(self, trainer: Trainer):
        self.rates: list[float] = []
        trainer.scheduler.optimizer.register_step_pre_hook(self._read)

    def _read(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        self.rates.append(float(optimizer.param_groups[0]["lr"]))


def sample_hash(step: Step) -> str:
    """SHA-256 of the ids of the samples that all ranks together computed, in ascending order. A collective call."""
    everyone: list[list[int]] = [step.own_indices.tolist()]
    if engine.distributed():
        everyone = [[] for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(everyone, step.own_indices.tolist())
    ids = np.sort(np.concatenate([np.array(part, np.int64) for part in everyone]))
    return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()


def check_step(trainer: Trainer, step: Step, number: int, used: float, loss: float, ids_hash: str) -> list[str]:
    """What is wrong with a step, in words: `number` counts from 0, `used` is the rate inside the optimizer's step."""
    expected = trainer.plan.lr_at_step(number)
    wrong = []
    if abs(used - expected) > 1e-12 * abs(expected):
        wrong.append(f"step {number + 1}: the optimizer used a rate of {used!r}, the plan says {expected!r}")
    if not np.isfinite(loss):
        wrong.append(f"step {number + 1}: the loss is {loss}")
    size, count = trainer.plan.global_batch_size, len(trainer.samples)
    ids = np.sort(order.draw(number * size, size, count, trainer.seed)[0])
    if ids_hash != hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest():
        wrong.append(f"step {number + 1}: the ranks computed other samples than the stream's next {size}")
    if trainer.clock.step != number + 1:
        wrong.append(f"step {number + 1}: the clock says {trainer.clock.step}")
    return wrong


def check_export(folder: Path, model: PreTrainedModel, auto_class: type) -> list[str]:
    """Whether the exported folder gives the model back, weight for weight."""
    loaded = auto_class.from_pretrained(folder).state_dict()
    for name, tensor in model.state_dict().items():
        if name not in loaded or not torch.equal(loaded[name], tensor.cpu()):
            return [f"export: {name} is not what was trained"]
    return []
