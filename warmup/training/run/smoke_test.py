"""The test mode: a few real steps, an evaluation and an export of the run as it would run, checked on the way."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from warmup.training.distributed import collectives
from warmup.training.reporting.export import export_model
from warmup.training.reporting.model_card import model_card
from warmup.training.run.finish import trained_model
from warmup.training.run.train_step import StepResult, TrainStep
from warmup.training.run.training_run import TrainingRun, evaluate_only, watch_ranks

STEPS = 5


def run_smoke_test(run: TrainingRun) -> tuple[str, str]:
    """Run a few steps, an evaluation and an export, and check each. A collective call.

    Returns:
        (outcome, message), as `exit_status.guard` takes them; also prints PASS, or what failed.
    """
    train_step, log = run.train_step, run.log
    probe, failures = RateProbe(train_step), []
    steps = min(STEPS, train_step.plan.total_steps)
    log.begin(steps, train_step.plan.batch_schedule.position(steps))
    number = 0
    for turn, step in enumerate(train_step.steps()):
        if turn == 0:
            watch_ranks(train_step, run.config)
        if not step.applied and (step.loss_scale or 0) > 1:
            log.print_result(f"skipped at a loss scale of {step.loss_scale:g}, which is lowered")
            continue
        loss, ids = train_step.loss(step), sample_hash(step)
        log.advance(train_step.clock)
        log.train(
            train_step.clock,
            step.lr,
            loss,
            step.grad_norm,
            train_step.throughput.read(train_step.clock),
            train_step.epoch,
        )
        used = probe.rates[-1] if step.applied else float("nan")
        log.print_result(
            f"step {number + 1}  lr {used:.17g}  loss {loss:.9g}  grad_norm {step.grad_norm:.9g}  samples {ids}"
        )
        failures += check_step(train_step, step, number, used, loss, ids)
        number += 1
        if number == steps:
            break
    evaluation = evaluate_only(run)
    train_step.watchdog.stop()
    if evaluation is None:
        return "stopped", "in the evaluation"
    metrics = evaluation.metrics
    log.print_result("evaluation  " + "  ".join(f"{name} {value:.9g}" for name, value in metrics.items()))
    failures += [] if metrics["targets"] > 0 else ["evaluation: no target"]
    model, weights = train_step.engine.unwrapped_model, train_step.engine.weights()

    def save_and_load() -> list[str]:
        model.config.update(run.evaluator.objective.model_settings(evaluation.combined))
        text = model_card(trained_model(run, metrics, train_step.clock.step, weights))
        saved = export_model(run.folder, model, run.data.tokenizer, text, weights)
        return check_export(saved, weights, run.task.auto_class)

    failures += collectives.on_main(train_step.accelerator, save_and_load)
    for line in failures:
        log.print_result(f"FAIL  {line}")
    if failures:
        return "failed", f"{len(failures)} checks failed: {failures[0]}"
    log.print_result(f"PASS  {steps} steps of {train_step.plan.total_steps}, evaluation and export")
    return "done", "PASS"


class RateProbe:
    """Reads the rates that the optimizer holds inside its step, where they are used."""

    def __init__(self, train_step: TrainStep):
        self.rates: list[float] = []
        train_step.scheduler.optimizer.register_step_pre_hook(self._read)

    def _read(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        group = optimizer.param_groups[0]
        self.rates.append(float(group["lr"]) / group["lr_multiplier"])


def sample_hash(step: StepResult) -> str:
    """SHA-256 of the ids of the samples that all ranks together computed, in ascending order. A collective call."""
    ids = np.sort(np.concatenate(collectives.gather_objects(step.own_indices)))
    return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()


def check_step(
    train_step: TrainStep, step: StepResult, number: int, used_lr: float, loss: float, ids_hash: str
) -> list[str]:
    """Check a step.

    Args:
        train_step: what ran it.
        step: what it did.
        number: counted from 0.
        used_lr: the rate that the optimizer had inside its step.
        loss: its mean loss.
        ids_hash: as `sample_hash`.

    Returns:
        What is wrong, in words.
    """
    expected = train_step.plan.lr_at_step(number)
    failures = []
    if not abs(used_lr - expected) <= 1e-12 * abs(expected):  # nor if it is none
        failures.append(f"step {number + 1}: the optimizer used a rate of {used_lr!r}, the plan says {expected!r}")
    if not np.isfinite(loss):
        failures.append(f"step {number + 1}: the loss is {loss}")
    plan, ids = train_step.plan, np.sort(step.indices)
    size = plan.batch_at(plan.batch_schedule.position(number))
    if len(ids) != size or ids_hash != hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest():
        failures.append(f"step {number + 1}: the ranks computed other samples than the stream's next {size}")
    if train_step.clock.step != number + 1:
        failures.append(f"step {number + 1}: the clock says {train_step.clock.step}")
    return failures


def check_export(folder: Path, weights: dict[str, torch.Tensor], auto_class: type) -> list[str]:
    """Whether the exported folder gives the model back, weight for weight."""
    loaded = auto_class.from_pretrained(folder).state_dict()
    for name, tensor in weights.items():
        if name not in loaded or not torch.equal(loaded[name], tensor):
            return [f"export: {name} is not what was trained"]
    return []
