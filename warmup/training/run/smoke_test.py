"""The test mode: a few real steps, an evaluation and an export of the job as it would run, checked on the way."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from warmup.training.distributed import collectives
from warmup.training.reporting.export import export_model
from warmup.training.reporting.model_card import model_card
from warmup.training.run.train_step import StepResult, TrainStep
from warmup.training.run.training_run import TrainingRun, evaluate, watch_ranks

STEPS = 5


def run_smoke_test(job: TrainingRun) -> tuple[str, str]:
    """A few steps, an evaluation and an export, each checked. Ends with PASS, or what failed: (outcome, message)."""
    trainer, log = job.trainer, job.log
    probe, wrong = RateProbe(trainer), []
    steps = min(STEPS, trainer.plan.total_steps)
    number = 0
    for turn, step in enumerate(trainer.steps()):
        if turn == 0:
            watch_ranks(job)
        if not step.applied and (step.loss_scale or 0) > 1:
            log.tell(f"skipped at a loss scale of {step.loss_scale:g}, which is lowered")
            continue
        loss, ids = trainer.loss(step), sample_hash(step)
        log.advance(trainer.clock)
        log.train(trainer.clock, step.lr, loss, step.grad_norm, trainer.meters.read(trainer.clock), trainer.epoch)
        used = probe.rates[-1] if step.applied else float("nan")
        log.tell(f"step {number + 1}  lr {used:.17g}  loss {loss:.9g}  grad_norm {step.grad_norm:.9g}  samples {ids}")
        wrong += check_step(trainer, step, number, used, loss, ids)
        number += 1
        if number == steps:
            break
    evaluate(job)
    trainer.hang.stop()
    metrics = job.history.metrics
    log.tell("evaluation  " + "  ".join(f"{name} {value:.9g}" for name, value in metrics.items()))
    wrong += [] if metrics["targets"] > 0 else ["evaluation: no target"]
    model, weights = trainer.engine.bare, trainer.engine.weights()

    def save_and_load() -> list[str]:
        text = model_card(job.config, trainer.plan, job.data, metrics, trainer.clock.step, job.arguments)
        saved = export_model(job.folder, model, job.data.tokenizer, text, weights)
        return check_export(saved, weights, trainer.shares.task.auto_class)

    wrong += collectives.on_main(trainer.accelerator, save_and_load)
    for line in wrong:
        log.tell(f"FAIL  {line}")
    if wrong:
        return "failed", f"{len(wrong)} checks failed: {wrong[0]}"
    log.tell(f"PASS  {steps} steps of {trainer.plan.total_steps}, evaluation and export")
    return "done", "PASS"


class RateProbe:
    """Reads the rates that the optimizer holds inside its step, where they are used."""

    def __init__(self, trainer: TrainStep):
        self.rates: list[float] = []
        trainer.scheduler.optimizer.register_step_pre_hook(self._read)

    def _read(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        group = optimizer.param_groups[0]
        self.rates.append(float(group["lr"]) / group["lr_ratio"])


def sample_hash(step: StepResult) -> str:
    """SHA-256 of the ids of the samples that all ranks together computed, in ascending order. A collective call."""
    ids = np.sort(np.concatenate(collectives.gather_objects(step.own_indices)))
    return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()


def check_step(trainer: TrainStep, step: StepResult, number: int, used: float, loss: float, ids_hash: str) -> list[str]:
    """What is wrong with a step, in words: `number` counts from 0, `used` is the rate inside the optimizer's step."""
    expected = trainer.plan.lr_at_step(number)
    wrong = []
    if not abs(used - expected) <= 1e-12 * abs(expected):  # nor if it is none
        wrong.append(f"step {number + 1}: the optimizer used a rate of {used!r}, the plan says {expected!r}")
    if not np.isfinite(loss):
        wrong.append(f"step {number + 1}: the loss is {loss}")
    size, ids = trainer.plan.global_batch_size, np.sort(step.indices)
    if ids_hash != hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest():
        wrong.append(f"step {number + 1}: the ranks computed other samples than the stream's next {size}")
    if trainer.clock.step != number + 1:
        wrong.append(f"step {number + 1}: the clock says {trainer.clock.step}")
    return wrong


def check_export(folder: Path, weights: dict[str, torch.Tensor], auto_class: type) -> list[str]:
    """Whether the exported folder gives the model back, weight for weight."""
    loaded = auto_class.from_pretrained(folder).state_dict()
    for name, tensor in weights.items():
        if name not in loaded or not torch.equal(loaded[name], tensor):
            return [f"export: {name} is not what was trained"]
    return []
