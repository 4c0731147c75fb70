"""One run, once all is in place: its steps with their log, evaluations and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from warmup.commandline.words import Option
from warmup.config import Config
from warmup.duration import Duration
from warmup.training.checkpoints.state import RunState
from warmup.training.data.prepare import Prepared
from warmup.training.distributed import collectives
from warmup.training.reporting import loss_spikes
from warmup.training.reporting.log import Log
from warmup.training.run import evaluation_record
from warmup.training.run.evaluate import Evaluation, Evaluator
from warmup.training.run.train_step import StepResult, TrainStep
from warmup.training.tasks import Task


@dataclass(frozen=True)
class TrainingRun:
    """What the parts of one run share."""

    config: Config
    task: Task
    data: Prepared
    folder: Path
    """The run directory."""
    log: Log
    train_step: TrainStep
    evaluator: Evaluator
    state: RunState
    arguments: Sequence[Option]
    """Those that the run was started with."""
    started_at: float
    """time.perf_counter() then."""

    @cached_property
    def _every(self) -> Duration | None:
        every = self.config.evaluation.every
        return Duration.parse(every, "evaluation.every") if every else None

    @property
    def evaluation_due(self) -> bool:
        """Whether the run has come to the next evaluation: the same on all ranks."""
        clock, run_samples = self.train_step.clock, self.train_step.plan.duration_samples
        return self._every is not None and clock.passed(self._every, self.state.evaluated, run_samples)

    @property
    def evaluation_pending(self) -> bool:
        """Whether an evaluation is due here and not made yet, before the one at the end: the same on all ranks."""
        return self.state.pending and self._every is not None and not self.train_step.is_over()

    @property
    def out_of_patience(self) -> bool:
        """Whether the run ends with the evaluation made here, before its plan does: the same on all ranks."""
        patience, state, train_step = self.config.evaluation.patience, self.state, self.train_step
        here = state.evaluated.get("consumed_samples") == train_step.clock.consumed_samples and not train_step.is_over()
        return here and patience is not None and state.without_improvement >= patience


def run_training(run: TrainingRun) -> bool:
    """Train all steps of the plan, or until a rank requests to stop. Returns whether the run was stopped."""
    train_step, log, config = run.train_step, run.log, run.config
    clock, saver = train_step.clock, train_step.saver
    detector = loss_spikes.SpikeDetector(config.log.spike_score)
    if run.out_of_patience:  # it was resumed where it ended early
        return False
    if run.evaluation_pending:  # it was resumed where it was to be evaluated
        if not evaluate(run):
            return True
        if run.out_of_patience:
            log.print(why_early(run))
            return False
    for number, step in enumerate(train_step.steps()):
        if number == 0:  # what may take very long is over
            watch_ranks(train_step, config)
        log.advance(clock, step.previous_loss, saver.next_save(clock))
        last = step.stop or train_step.is_over()
        report(run, step, detector, last)
        if step.save_failed:
            saver.raise_failure()
        if not step.applied:
            continue
        run.state.pending = run.evaluation_due
        if train_step.is_over():  # `finish` saves and evaluates
            continue
        if step.stop:  # `finish` saves; the evaluation is made after the resumption
            return True
        if run.evaluation_pending:
            if not evaluate(run):
                return True
            if run.out_of_patience:
                log.print(why_early(run))
                return False
        elif step.save or saver.is_due(clock):
            save(run)
    return not train_step.is_over()


def watch_ranks(train_step: TrainStep, config: Config) -> None:
    """From here on a rank that is late ends the run: by the watchdog, which can name it, before the timeout."""
    train_step.watchdog.start()
    collectives.set_timeout(config.launch.timeout + 30)


def report(run: TrainingRun, step: StepResult, detector: loss_spikes.SpikeDetector, last: bool) -> None:
    """Log what a step did, and end the run if too many were skipped. On some steps a collective call.

    Args:
        run: the run.
        step: what the step did.
        detector: scores its loss.
        last: whether it is the last one, which is always logged.
    """
    train_step, log, clock = run.train_step, run.log, run.train_step.clock
    if run.config.log.samples:
        log.computed(clock, *train_step.computed_samples(step), step.applied)
    if step.step_samples.skipped_rows:
        log.skipped_rows(clock, step.step_samples.skipped_rows)
    if step.previous_loss is not None and (score := detector.score(step.previous_loss)):
        log.spike(clock, step.previous_loss, score)
    if not step.applied:
        log.skipped(clock, step.indices.tolist(), step.grad_norm, step.loss_scale)
        train_step.check_skipped(run.config.recipe.max_skipped, step)
    elif last or clock.step % run.config.log.every == 0:
        figures = train_step.throughput.read(clock)
        if train_step.noise_scale:
            figures = figures | train_step.noise_scale.estimate()._asdict()
        log.train(clock, step.lr, train_step.loss(step), step.grad_norm, figures, train_step.epoch)


def save(run: TrainingRun) -> None:
    """Begin to write a checkpoint of where the run is; training goes on meanwhile. A collective call."""
    train_step = run.train_step
    tick = _writing_heartbeat(train_step)
    tick()
    state = run.state.state(train_step.clock, train_step.accelerator.num_processes) | train_step.engine.state()
    if train_step.stream_state:
        state["stream"] = dict(train_step.stream_state)
    if train_step.noise_scale:
        state["noise_scale"] = train_step.noise_scale.state_dict()
    waited = train_step.saver.save(train_step.clock, state, tick)
    run.log.saved(train_step.clock, waited)


def _writing_heartbeat(train_step: TrainStep) -> Callable[[], None]:
    """A function that tells the watchdog that the last checkpoint is still being written."""
    waits = not train_step.accelerator.is_main_process
    return lambda: train_step.watchdog.heartbeat("the writing of the last checkpoint", waits=waits)


def evaluate(run: TrainingRun) -> bool:
    """Save, evaluate on the held-out data, log it and add it to the checkpoint. A collective call.

    Returns:
        Whether the evaluation was made. False if a rank requested to stop on the way: it is to be made again.
    """
    train_step, saver = run.train_step, run.train_step.saver
    if saver.saved_step != train_step.clock.step:
        save(run)
    evaluation = evaluate_only(run)
    if evaluation is None:
        return False
    details = evaluation_record.export_details(evaluation, run.evaluator.objective)
    run.state.add(train_step.clock, evaluation.metrics, details)
    record_evaluation(run, evaluation)  # before the checkpoint says that it was made
    saver.add_evaluations(train_step.clock.step, run.state.evaluations(), _writing_heartbeat(train_step))
    return True


def record_evaluation(run: TrainingRun, evaluation: Evaluation) -> None:
    """Write what an evaluation found to evaluation.json. A collective call."""
    step, data = run.train_step.clock.step, run.data

    def write() -> None:
        record = evaluation_record.make_record(
            evaluation, run.evaluator.objective, data.validation, data.tokenizer, step
        )
        evaluation_record.add_record(run.folder, record, run.state.best_step)

    collectives.on_main(run.train_step.accelerator, write)


def evaluate_only(run: TrainingRun) -> Evaluation | None:
    """Evaluate on the held-out data and log it, without a checkpoint. None if a rank requested to stop on the way.

    A collective call.
    """
    train_step = run.train_step
    evaluation = run.evaluator.evaluate(run.data.validation)
    if evaluation is not None:
        run.log.evaluation(train_step.clock, evaluation.metrics)
    train_step.throughput.restart(train_step.clock)  # its time is not the training's
    return evaluation


def why_early(run: TrainingRun) -> str:
    """Why a run ends before its plan does, in words."""
    settings, state = run.config.evaluation, run.state
    return f"stopped early: {state.without_improvement} evaluations in a row without a better {settings.metric}" + (
        f" than that of step {state.best_step}" if state.best_step is not None else ""
    )
