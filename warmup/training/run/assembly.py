"""A run put together: model, engine, everything that a step needs, and the run directory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from transformers import PreTrainedModel

from warmup import commandline
from warmup.clock import StepClock
from warmup.config import Config
from warmup.config.checks import parse_seconds
from warmup.errors import UserError
from warmup.noise_scale import NoiseScale
from warmup.scheduler import WarmupScheduler
from warmup.training.checkpoints import branch, restore, resume, run_directory
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints.saver import Saver
from warmup.training.checkpoints.state import ResumePoint
from warmup.training.data.batching.prefetcher import BatchPrefetcher
from warmup.training.distributed import collectives, exit_status
from warmup.training.distributed.watchdog import Watchdog
from warmup.training.engines import Engine, build_engine
from warmup.training.engines.optimizers import build_optimizer, describe_groups
from warmup.training.files import write_json, write_text
from warmup.training.models import build as model_build
from warmup.training.models import probe
from warmup.training.models.compile import compile_layers
from warmup.training.models.dropout import apply_dropout
from warmup.training.models.flops import peak_flops
from warmup.training.models.heads import set_output_biases
from warmup.training.models.input_layout import InputLayout, choose_varlen, describe_attention
from warmup.training.models.partial_forward import install_partial_forward
from warmup.training.reporting import hardware, trackers
from warmup.training.reporting.console import library_versions, model_text, plan_table, rows_text
from warmup.training.reporting.log import Log
from warmup.training.reporting.throughput import ThroughputMeter
from warmup.training.run.evaluate import Evaluator
from warmup.training.run.setup import Launched, RunSpec
from warmup.training.run.train_step import TrainStep
from warmup.training.run.training_run import TrainingRun, why_early
from warmup.training.tasks import Objective


@dataclass(frozen=True)
class Built:
    """What computes."""

    engine: Engine
    layout: InputLayout
    notes: dict[str, str]
    """What a user should know of the model, by a word for it."""


def build(spec: RunSpec, accelerator: Accelerator) -> Built:
    """Model, optimizer and engine on all ranks, with the checkpoint's weights if there is one."""
    config, task, speed = spec.config, spec.task, spec.config.speed
    checkpoint, length = spec.resume_point.checkpoint, spec.config.data.max_length
    model_spec = replace(task.model_spec(config, spec.data.labels), name=str(checkpoint or config.model))
    model, new_weights = model_build.build_model(model_spec, spec.data.tokenizer)
    if checkpoint and new_weights:
        raise UserError(f"{spec.resume_point.flag}: {checkpoint} lacks the weights {', '.join(new_weights)}")
    if new_weights and (biases := task.output_biases(spec.data.labels, spec.data.train)):
        set_output_biases(model, new_weights, biases)
    notes = {"model": model_text(config.model, new_weights)} | prepare_model(model, config)
    if speed.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = build_optimizer(model, spec.lr_schedule.plan, config.recipe.layer_decay, config.recipe.lr_ratios)
    if checkpoint:
        restore.check_optimizer_state(model, checkpoint)
    engine = build_engine(accelerator, model, optimizer, spec.plan)
    device, precision = accelerator.device, accelerator.mixed_precision
    varlen = choose_varlen(model, speed.packing, speed.compile, speed.attention, device, precision)
    static_max_length = length if speed.compile else 0
    layout = install_partial_forward(model, task.head, speed.packing, speed.masked_only, varlen, static_max_length)
    if speed.compile:
        compile_layers(model, layout)
    return Built(engine, layout, notes)


def prepare_model(model: PreTrainedModel, config: Config) -> dict[str, str]:
    """Make a model fit to be trained on any number of ranks: freeze what gets no gradient, set what no config sets.

    Returns:
        What a user should know of it, by a word for it.

    Raises:
        UserError: Its results depend on the other samples of a micro-batch.
    """
    probe.check_padding(model, config.model)
    notes = {}
    if unused := probe.freeze_unused(model, config.model):
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        notes["frozen"] = f"{unused[0]}{more}, which get no gradient: the output does not depend on them"
    rate = config.dropout
    if rate is not None and (others := apply_dropout(model, rate)):
        notes["dropout"] = f"{rate:g}, except for {', '.join(others)}, which no option sets"
    return notes


@contextmanager
def open_run(spec: RunSpec, built: Built, launched: Launched, started_at: float) -> Iterator[TrainingRun]:
    """A run in its directory, at the position that training starts from. A collective call.

    Args:
        spec: what the run is to be.
        built: what computes.
        launched: what it shares with other runs.
        started_at: time.perf_counter() when the run, or the process, was started.
    """
    accelerator, options, config = launched.accelerator, launched.options, spec.config
    with tempfile.TemporaryDirectory(prefix="warmup-test-") as scratch:
        run_dir = spec.resume_point.run_dir or (str(Path(scratch) / "run") if options.test else None)
        folder = collectives.on_main(accelerator, lambda: run_directory.enter(run_dir, config.task, spec.resume_point))
        tracking = None if options.test else trackers.start(accelerator, folder, config, spec.resume_point)
        objective = spec.task.objective(spec.data.tokenizer, spec.data.labels, spec.data.train)
        train_step = assemble(spec, built, objective, launched, folder)
        run = TrainingRun(
            config=config,
            task=spec.task,
            data=spec.data,
            folder=folder,
            log=Log(folder, accelerator, config.log.samples, tracking),
            train_step=train_step,
            evaluator=build_evaluator(spec, built, objective, train_step),
            state=spec.state,
            arguments=[*options.base, *options.given],
            started_at=started_at,
        )
        try:
            describe(run, spec, built)
            begin(run, spec.resume_point)
            yield run
        finally:
            train_step.watchdog.stop()
            train_step.saver.wait(limit=20)  # what is being written is finished, whatever went wrong
            run.log.close()
            spec.data.train.close()


def assemble(spec: RunSpec, built: Built, objective: Objective, launched: Launched, folder: Path) -> TrainStep:
    """All that a step needs, at the start of the data stream.

    Args:
        spec: what the run is to be.
        built: what computes.
        objective: what is minimised.
        launched: the ranks.
        folder: the run directory.
    """
    config, accelerator, engine, plan = spec.config, launched.accelerator, built.engine, spec.plan
    prefetcher = BatchPrefetcher(
        samples=spec.data.train,
        collate=objective.collate,
        layout=built.layout,
        seed=config.seed,
        plan=plan,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        by_length=not config.log.noise_scale,  # which is measured from micro-batches that differ by chance alone
        for_gpu=accelerator.device.type == "cuda",
    )
    classes = len(spec.data.labels) or engine.unwrapped_model.config.vocab_size
    peak = peak_flops(accelerator.device, accelerator.mixed_precision)
    return TrainStep(
        accelerator=accelerator,
        engine=engine,
        scheduler=WarmupScheduler(engine.optimizer, spec.lr_schedule, counts=False),
        clock=StepClock(plan.batch_schedule, spec.data.train.size, accelerator.device),
        plan=plan,
        prefetcher=prefetcher,
        objective=objective,
        throughput=ThroughputMeter(
            engine.model, engine.unwrapped_model.config, classes, accelerator.num_processes, peak
        ),
        preemption=launched.preemption,
        watchdog=Watchdog(config.launch.timeout, exit_status.fail),
        saver=Saver(folder, accelerator, engine, spec.data.tokenizer, config.checkpoint, plan.duration_samples),
        noise_scale=NoiseScale() if config.log.noise_scale else None,
    )


def build_evaluator(spec: RunSpec, built: Built, objective: Objective, train_step: TrainStep) -> Evaluator:
    """What evaluates the model that `train_step` trains.

    Args:
        spec: what the run is to be.
        built: what computes.
        objective: what is minimised.
        train_step: is told of each phase of an evaluation, and knows whether to stop.
    """
    return Evaluator(
        model=built.engine.unwrapped_model,
        objective=objective,
        layout=built.layout,
        batch_size=spec.config.batch.evaluation,
        accelerator=train_step.accelerator,
        heartbeat=train_step.watchdog.heartbeat,
        stop_requested=train_step.preemption.stop_requested,
        lockstep=built.engine.lockstep,
    )


def describe(run: TrainingRun, spec: RunSpec, built: Built) -> None:
    """Print the plan as a table, before the first step, and write what it says to run.json. A collective call."""
    accelerator, model = run.train_step.accelerator, built.engine.unwrapped_model
    facts = describe_facts(run, spec, built)
    run.log.print(plan_table(spec.plan, spec.findings, facts))
    record = {
        "command": ["train.py", *(word for option in run.arguments for word in (f"--{option.name}", *option.values))],
        "facts": facts,
        "findings": [finding.to_dict() for finding in spec.findings],
        "parameters": hardware.count_parameters(model),
        "hardware": hardware.hardware_facts(accelerator),
        "versions": library_versions(),
        **spec.resume_point.record,
    }
    collectives.on_main(accelerator, lambda: write_json(run.folder / "run.json", record))


def describe_facts(run: TrainingRun, spec: RunSpec, built: Built) -> dict[str, str]:
    """Rows of the table besides the plan's: value by name."""
    config, data, model = run.config, run.data, built.engine.unwrapped_model
    accelerator = run.train_step.accelerator
    facts = {
        "data": f"{data.amount} to train on, {len(data.validation)} held out ({data.folder})",
        **built.notes,
        "parameters": f"{hardware.count_parameters(model):,}",
        "device": hardware.describe_device(accelerator),
        "precision": hardware.describe_precision(accelerator),
        "engine": built.engine.name,
        "attention": describe_attention(model, built.layout),
        "run directory": str(run.folder),
    }
    if groups := describe_groups(model, built.engine.optimizer):
        facts["weights"] = groups
    if config.speed.compile:
        facts["compiled"] = "the encoder's layers, over few shapes; evaluation is not"
    if data.bad_rows:
        facts["skipped"] = rows_text(data.bad_rows)
    facts |= dict(data.notes) | spec.task.notes(data.labels)
    if spec.resume_point.origin:
        facts["branched from"] = branch.describe(spec.resume_point.origin)
    if spec.changes:
        facts["changed since"] = "; ".join(spec.changes)
    return facts


def begin(run: TrainingRun, resume_point: ResumePoint) -> None:
    """Go to the position that training starts from; then the run is accepted, so write config.yaml and plan.json.

    A collective call.
    """
    train_step, log, checkpoint = run.train_step, run.log, resume_point.checkpoint
    train_step.warm_up_passes()
    if checkpoint:
        restore.restore_engine(train_step.engine, checkpoint)

    def write() -> None:
        write_text(run.folder / "config.yaml", commandline.to_yaml(replace(run.config, run_dir=None)))
        write_json(run.folder / "plan.json", train_step.plan.to_dict())

    collectives.on_main(train_step.accelerator, write)
    for note in resume_point.notes:
        log.print(f"{resume_point.flag}: {note}")
    if checkpoint:
        own = checkpoint_format.checkpoint_path(run.folder, resume_point.state["clock"]["step"])
        in_run_directory = collectives.on_main(
            train_step.accelerator, lambda: checkpoint.name == own.name and checkpoint_format.is_complete(own)
        )
        train_step.seek(resume_point.state["clock"], in_run_directory)
        train_step.stream_state = resume_point.state.get("stream")
        if train_step.noise_scale and (measured := resume_point.state.get("noise_scale")):
            train_step.noise_scale = NoiseScale.from_state_dict(measured)
        if train_step.is_over() or run.out_of_patience:
            why = f"; {why_early(run)}" if run.out_of_patience else ""
            log.print(f"--resume: {checkpoint} is of the run's end{why}")
        else:
            world_size = train_step.accelerator.num_processes
            facts = resume.describe_changes(resume_point, run.state.lr_schedule, world_size)
            log.resumed(train_step.clock, train_step.total_steps, facts, branched=resume_point.branches)
    log.begin(train_step.total_steps, train_step.plan.duration_samples)
    train_step.throughput.restart(train_step.clock)
    limit, preemption = None, train_step.preemption
    if run.config.time_limit:
        limit = parse_seconds(run.config.time_limit, "time_limit") - preemption.elapsed_seconds()
    preemption.start(limit, train_step.accelerator.is_main_process)
