"""One run, once all is in place: its steps with their log, evaluations and checkpoints, and its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from warmup.config import Config
from warmup.training import card, evaluation, export, ranks, reporting, run_directory, spikes
from warmup.training.loop import Step, Trainer
from warmup.training.reporting import Log
from warmup.training.resuming import History
from warmup.training.tokens import Prepared


@dataclass(frozen=True)
class Job:
    """What the parts of a run share. arguments: those that it was started with."""

    config: Config
    data: Prepared
    folder: Path
    log: Log
    trainer: Trainer
    history: History
    arguments: Sequence[str]


def train(job: Job) -> bool:
    """All steps of the plan, or those until a rank wants to stop. Returns whether the run was stopped."""
    trainer, log, config = job.trainer, job.log, job.config
    clock, saver = trainer.clock, trainer.saver
    detector = spikes.SpikeDetector(config.log.spike_score)
    for number, step in enumerate(trainer.steps()):
        if number == 0:  # what may take long is over
            watch_ranks(job)
        log.advance(clock)
        last = step.stop or trainer.over()
        report(job, step, detector, last)
        if step.save_failed:
            saver.refuse_failure()
        if not step.applied or last:
            continue
        every = config.log.evaluate_every
        improved = bool(every) and clock.step % every == 0 and evaluate(job)
        if improved or step.save or saver.due(clock):
            save(job)
    return not trainer.over()


def watch_ranks(job: Job) -> None:
    """From here on a rank that is late ends the job: by the hang watch, which can name it, before the timeout."""
    job.trainer.hang.start()
    ranks.set_timeout(job.config.launch.timeout + 30)


def report(job: Job, step: Step, detector: spikes.SpikeDetector, last: bool) -> None:
    """Log what a step did, and end the run where too many were skipped. On some steps a collective call."""
    trainer, log, clock = job.trainer, job.log, job.trainer.clock
    if job.config.log.samples:
        log.computed(clock, *trainer.computed(step), step.applied)
    if step.loss_before is not None and (score := detector.score(step.loss_before)):
        log.spike(clock, step.loss_before, score)
    if not step.applied:
        log.skipped(clock, step)
        trainer.refuse_skipping(job.config.recipe.max_skipped, step)
    elif last or clock.step % job.config.log.every == 0:
        log.train(clock, step.lr, trainer.loss(step), step.grad_norm, trainer.meters.read(clock))


def save(job: Job) -> None:
    """Write a checkpoint of where the run is, behind its back."""
    trainer, history = job.trainer, job.history

    def tick() -> None:
        waits = not trainer.accelerator.is_main_process
        trainer.hang.mark("the writing of the last checkpoint", waits=waits)

    tick()
    state = history.state(trainer.clock, trainer.accelerator.num_processes)
    waited = trainer.saver.save(trainer.clock, state, history.best_step, tick)
    job.log.saved(trainer.clock, waited)


def evaluate(job: Job) -> bool:
    """Evaluate on the held-out data, and log it. Returns whether the loss is the lowest so far."""
    trainer = job.trainer
    metrics = evaluation.evaluate(
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


def finish(job: Job, stopped: bool, began: float) -> tuple[str, str]:
    """Save, and at the end of the plan evaluate and export. A run that was asked to stop leaves its checkpoint."""
    trainer, clock, history = job.trainer, job.trainer.clock, job.history
    if not stopped and history.evaluated_at != clock.drawn:
        evaluate(job)
    trainer.hang.stop()
    ranks.set_timeout(job.config.launch.start_timeout)  # for a disk that is slow
    if trainer.saver.saved_step != clock.step:
        save(job)
    trainer.saver.wait()
    trainer.saver.refuse_failure()
    result = {
        "outcome": "stopped" if stopped else "done",
        "metrics": {} if stopped else history.metrics,
        **clock.state_dict(),
        "total_steps": trainer.total_steps,
        "world_size": trainer.accelerator.num_processes,
        "wall_seconds": round(time.perf_counter() - began, 2),
        "versions": reporting.versions(),
    }

    weights = {} if stopped else trainer.engine.weights()

    def write() -> None:
        if not stopped:
            text = card.card(job.config, trainer.plan, job.data, history.metrics, clock.step, job.arguments)
            export.export(job.folder, trainer.engine.bare, job.data.tokenizer, text, weights)
        run_directory.write_json(job.folder / "result.json", result)

    ranks.on_main(trainer.accelerator, write)
    if trainer.accelerator.is_main_process:  # the folder is on its machine
        job.log.say(reporting.summary(job.folder, result))
    more = f"; go on with --resume auto --run_dir {job.folder}" if stopped else ""
    return result["outcome"], f"after step {clock.step} of {trainer.total_steps}{more}"
