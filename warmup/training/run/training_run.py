"""One run, once all is in place: its steps with their log, evaluations and checkpoints, and its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from warmup.config import Config
from warmup.duration import Duration
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import run_directory
from warmup.training.checkpoints.format import BrokenCheckpoint
from warmup.training.checkpoints.state import RunState
from warmup.training.data.prepare import Prepared
from warmup.training.distributed import collectives
from warmup.training.reporting import loss_spikes
from warmup.training.reporting.console import library_versions, summary
from warmup.training.reporting.export import export_model, push_to_hub
from warmup.training.reporting.log import Log
from warmup.training.reporting.model_card import model_card
from warmup.training.run.evaluate import evaluate_model
from warmup.training.run.train_step import StepResult, TrainStep


@dataclass(frozen=True)
class TrainingRun:
    """What the parts of a run share. arguments: those that it was started with."""

    config: Config
    data: Prepared
    folder: Path
    log: Log
    trainer: TrainStep
    history: RunState
    arguments: Sequence[str]

    @cached_property
    def _every(self) -> Duration | None:
        every = self.config.evaluation.every
        return Duration.parse(every, "evaluation.every") if every else None

    @property
    def evaluation_due(self) -> bool:
        """Whether the run has come to the next evaluation: the same on all ranks."""
        clock, run_samples = self.trainer.clock, self.trainer.plan.duration_samples
        return self._every is not None and clock.passed(self._every, self.history.evaluated, run_samples)

    @property
    def out_of_patience(self) -> bool:
        """Whether the run ends with the evaluation made here, before its plan does: the same on all ranks."""
        patience, history, trainer = self.config.evaluation.patience, self.history, self.trainer
        here = history.evaluated.get("drawn") == trainer.clock.drawn and not trainer.over()
        return here and patience is not None and history.without_improvement >= patience


def run_training(job: TrainingRun) -> bool:
    """All steps of the plan, or those until a rank wants to stop. Returns whether the run was stopped."""
    trainer, log, config = job.trainer, job.log, job.config
    clock, saver = trainer.clock, trainer.saver
    detector = loss_spikes.SpikeDetector(config.log.spike_score)
    if job.out_of_patience:  # it goes on from where it ended
        return False
    for number, step in enumerate(trainer.steps()):
        if number == 0:  # what may take long is over
            watch_ranks(job)
        log.advance(clock)
        last = step.stop or trainer.over()
        report(job, step, detector, last)
        if step.save_failed:
            saver.refuse_failure()
        if not step.applied or trainer.over():  # `finish` evaluates and saves
            continue
        improved = job.evaluation_due and evaluate(job)
        if job.out_of_patience:
            log.say(why_early(job))
            return False
        if not step.stop and (improved or step.save or saver.due(clock)):
            save(job)
    return not trainer.over()


def watch_ranks(job: TrainingRun) -> None:
    """From here on a rank that is late ends the job: by the hang watch, which can name it, before the timeout."""
    job.trainer.hang.start()
    collectives.set_timeout(job.config.launch.timeout + 30)


def report(job: TrainingRun, step: StepResult, detector: loss_spikes.SpikeDetector, last: bool) -> None:
    """Log what a step did, and end the run where too many were skipped. On some steps a collective call."""
    trainer, log, clock = job.trainer, job.log, job.trainer.clock
    if job.config.log.samples:
        log.computed(clock, *trainer.computed(step), step.applied)
    if step.drawn.left_out:
        log.left_out(clock, step.drawn.left_out)
    if step.loss_before is not None and (score := detector.score(step.loss_before)):
        log.spike(clock, step.loss_before, score)
    if not step.applied:
        log.skipped(clock, step)
        trainer.refuse_skipping(job.config.recipe.max_skipped, step)
    elif last or clock.step % job.config.log.every == 0:
        log.train(clock, step.lr, trainer.loss(step), step.grad_norm, trainer.meters.read(clock), trainer.epoch)


def save(job: TrainingRun) -> None:
    """Write a checkpoint of where the run is, behind its back."""
    trainer, history = job.trainer, job.history

    def tick() -> None:
        waits = not trainer.accelerator.is_main_process
        trainer.hang.mark("the writing of the last checkpoint", waits=waits)

    tick()
    state = history.state(trainer.clock, trainer.accelerator.num_processes) | trainer.engine.state()
    if trainer.place:
        state["stream"] = dict(trainer.place)
    waited = trainer.saver.save(trainer.clock, state, tick)
    job.log.saved(trainer.clock, waited)


def evaluate(job: TrainingRun) -> bool:
    """Evaluate on the held-out data, and log it. Returns whether it is the best evaluation so far."""
    trainer = job.trainer
    metrics = evaluate_model(
        trainer.engine.bare,
        trainer.shares.task,
        trainer.shares.reading,
        job.data.validation,
        job.config.batch.evaluation,
        trainer.accelerator,
        trainer.hang.mark,
        trainer.engine.together,
    )
    job.log.evaluation(trainer.clock, metrics)
    trainer.meters.restart(trainer.clock)  # its time is not the training's
    return job.history.add(trainer.clock, metrics)


def finish(job: TrainingRun, stopped: bool, began: float) -> tuple[str, str]:
    """Save, and at the end evaluate and export. A run that was asked to stop leaves its checkpoint."""
    trainer, clock, history = job.trainer, job.trainer.clock, job.history
    if not stopped and history.evaluated.get("drawn") != clock.drawn:
        evaluate(job)
    trainer.hang.stop()
    collectives.set_timeout(job.config.launch.start_timeout)  # for a disk that is slow
    if trainer.saver.saved_step != clock.step:
        save(job)
    trainer.saver.wait()
    trainer.saver.refuse_failure()
    weights = {} if stopped else trainer.engine.weights()
    result = {
        "outcome": "stopped" if stopped else "done",
        "metrics": {},
        "exported_step": None,
        **clock.state_dict(),
        "total_steps": trainer.total_steps,
        "stopped_early": job.out_of_patience,
        "world_size": trainer.accelerator.num_processes,
        "data": job.data.key,
        "wall_seconds": round(time.perf_counter() - began, 2),
        "versions": library_versions(),
    }

    def write() -> None:
        if not stopped:
            result.update(export_final_model(job, weights))
        run_directory.write_json(job.folder / "result.json", result)

    collectives.on_main(trainer.accelerator, write)
    if trainer.accelerator.is_main_process:  # the folder is on its machine
        job.log.say(summary(job.folder, result))
        if (repository := job.config.log.push_to_hub) and not stopped:
            job.log.say(push_to_hub(job.folder / "model", repository))
    more = f"; go on with --resume auto --run_dir {job.folder}" if stopped else ""
    more = f"; {why_early(job)}" if job.out_of_patience else more
    return result["outcome"], f"after step {clock.step} of {trainer.total_steps}{more}"


def why_early(job: TrainingRun) -> str:
    """Why a run ends before its plan does."""
    settings, history = job.config.evaluation, job.history
    return f"stopped early: {history.without_improvement} evaluations in a row without a better {settings.metric}" + (
        f" than that of step {history.best_step}" if history.best_step is not None else ""
    )


def export_final_model(job: TrainingRun, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Export these weights, or those of the best evaluation where they are wanted; its step and metrics. For rank 0."""
    step, metrics = job.trainer.clock.step, job.history.metrics
    if job.config.evaluation.export == "best" and (best := best_weights(job)) is not None:
        step, metrics, weights = job.history.best_step, job.history.best_metrics, best
    text = model_card(job.config, job.trainer.plan, job.data, metrics, step, job.arguments)
    export_model(job.folder, job.trainer.engine.bare, job.data.tokenizer, text, weights)
    return {"metrics": metrics, "exported_step": step}


def best_weights(job: TrainingRun) -> dict[str, torch.Tensor] | None:
    """Those of the best evaluation's checkpoint; None where it is the last one, or there is none to be read."""
    step = job.history.best_step
    if step in (None, job.trainer.clock.step):
        return None
    folder = checkpoint_format.checkpoint_path(job.folder, step)
    try:
        checkpoint_format.verify(folder)
        return load_file(folder / checkpoint_format.MODEL)
    except (BrokenCheckpoint, OSError) as error:
        job.log.say(f"warning: the best model, of step {step}, is lost, so the last one is exported: {error}")
        return None
