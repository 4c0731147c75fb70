"""Pretrain or fine-tune BERT: accelerate launch train.py [--config FILE] [--FIELD VALUE ...]

Config -> plan -> data, model, engine -> loop -> save. The plan (warmup/plan.py) is made of the recipe and of the
ranks that are there, so the training stays the same on any number of them. See README.md, or --help.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from jsonargparse import Namespace

from warmup import commandline
from warmup.config import Config
from warmup.config.checks import parse_seconds
from warmup.config.tasks import LANGUAGE_TASKS
from warmup.elastic import LRSchedule, replan
from warmup.errors import PlanError, UserError
from warmup.lint import Finding, examine
from warmup.plan import Plan, Topology
from warmup.training import tasks
from warmup.training.checkpoints import resume, run_directory
from warmup.training.checkpoints.saver import Saver
from warmup.training.checkpoints.state import ResumePoint, config_fields
from warmup.training.data.batching import prefetcher
from warmup.training.data.prepare import PATH_FIELDS, Prepared, prepare_data
from warmup.training.data.streaming import stream
from warmup.training.distributed import collectives, exit_status, launch, preemption, watchdog
from warmup.training.distributed.preemption import PreemptionHandler
from warmup.training.engines import ddp, fsdp
from warmup.training.engines import deepspeed as deepspeed_engine
from warmup.training.engines.ddp import DDPEngine
from warmup.training.engines.deepspeed import DeepSpeedEngine
from warmup.training.engines.optimizers import build_optimizer, describe_groups
from warmup.training.models import build as model_build
from warmup.training.models.compile import check_compile, compile_layers
from warmup.training.models.flops import peak_flops
from warmup.training.models.input_layout import InputLayout, choose_varlen, describe_attention
from warmup.training.models.partial_forward import install_partial_forward
from warmup.training.predict import predict
from warmup.training.reporting import log as reporting_log
from warmup.training.reporting import throughput
from warmup.training.reporting import trackers as trackers_module
from warmup.training.reporting.console import library_versions, plan_table
from warmup.training.reporting.export import check_hub_access
from warmup.training.run import seed_sweep
from warmup.training.run.arguments import parse
from warmup.training.run.evaluate import check_evaluation
from warmup.training.run.smoke_test import run_smoke_test
from warmup.training.run.train_step import TrainStep
from warmup.training.run.training_run import TrainingRun, finish, run_training, why_early
from warmup.training.tasks import Task


def main(argv: Sequence[str]) -> int:
    """Returns this rank's exit code."""
    return exit_status.guard(lambda: run(*parse(argv)), show_traceback="--traceback" in argv)


def run(config: Config, options: Namespace) -> tuple[str, str]:
    """From the launcher to a model, one per seed, or to predictions. Returns (outcome, message)."""
    began = time.perf_counter()
    watch = preemption.PreemptionHandler()
    accelerator, simulated = start(config, options)
    if options.predict:
        return predict.predict(config, accelerator, options.predict, options.output)
    world_size = simulated or accelerator.num_processes
    if options.seeds:
        refuse_hopeless(config, world_size)
        prepare_data(config)  # so that what is wrong with it is said before there is a directory
        ended = seed_sweep.run_seed_sweep(
            accelerator,
            config,
            options,
            watch,
            lambda one: train(one, options, accelerator, world_size, watch, time.perf_counter()),
        )
    else:
        ended = train(config, options, accelerator, world_size, watch, began)
    collectives.barrier()
    return ended


def train(
    config: Config,
    options: Namespace,
    accelerator: Accelerator,
    world_size: int,
    watch: PreemptionHandler,
    began: float,
) -> tuple[str, str]:
    """One run, from its configuration to the exported model. `began`: perf_counter then. Returns (outcome, message)."""
    origin = collectives.on_main(
        accelerator, lambda: resume.find_resume_point(None if options.test else options.resume, config.run_dir)
    )
    asked = config_fields(config)
    config, changes = resume.reconcile_config(config, origin)
    refuse_hopeless(config, world_size)
    data = prepare_data(config)
    resume.check_same_data(origin, data.key)
    if config.data.streaming:
        data = stream.open_stream(config, data, origin.state.get("stream"))
    plan, course, findings = make_plan(config, world_size, data, origin)
    task = tasks.build_task(config, data)
    built = build(config, accelerator, data, task, plan, course, origin)
    with tempfile.TemporaryDirectory(prefix="warmup-test-") as scratch:
        wanted = origin.run_dir or (str(Path(scratch) / "run") if options.test else None)
        folder = collectives.on_main(accelerator, lambda: run_directory.enter(wanted, config.task, origin))
        trackers = None if options.test else trackers_module.start(accelerator, folder, config, origin)
        job = TrainingRun(
            config=config,
            data=data,
            folder=folder,
            log=reporting_log.Log(folder, accelerator, config.log.samples, trackers),
            trainer=assemble(config, accelerator, data, task, built, plan, course, folder, watch),
            history=resume.initial_state(origin, asked, data.key, course, config.evaluation.metric),
            arguments=options.arguments,
        )
        try:
            describe(job, findings, built.new_weights, changes)
            begin(job, origin)
            if options.test:
                ended = run_smoke_test(job)
            else:
                stopped = run_training(job)
                ended = finish(job, stopped, began)
        finally:
            job.trainer.hang.stop()
            job.trainer.saver.wait(limit=20)  # what is being written gets whole, whatever went wrong
            job.log.close()
            if config.data.streaming:
                data.train.close()
    return ended


def start(config: Config, options: Namespace) -> tuple[Accelerator, int | None]:
    """Accelerate on all ranks, holding one configuration; and the world size to simulate, None for the real one."""
    simulated = options.as_world_size or (config.launch.world_size if options.test else None)
    wanted = None if simulated else config.launch.world_size
    accelerator = launch.start_accelerator(
        wanted, config.launch.device, config.launch.start_timeout, config.log.trackers
    )
    fields = {name: value for name, value in commandline.leaves(asdict(config)) if name not in PATH_FIELDS}
    collectives.require_same(
        fields | {"test": options.test, "as_world_size": simulated, "resume": options.resume, "seeds": options.seeds}
    )
    if config.speed.compile and not options.predict:
        check_compile(accelerator)
    if config.log.push_to_hub and not options.predict:
        collectives.on_main(accelerator, lambda: check_hub_access(config.log.push_to_hub, make=not options.test))
    return accelerator, simulated


def refuse_hopeless(config: Config, world_size: int) -> None:
    """What is wrong with a configuration whatever its data, said before the data is tokenised."""
    check_evaluation(config)
    streaming = config.data.streaming  # of which only the length of a sample will be known
    _, findings = examine_on(config, world_size, None, Fraction(1) if streaming else None)
    errors = [finding for finding in findings if finding.level == "error"]
    errors = [finding for finding in errors if streaming or finding.code != "length-unknown"]
    if errors:
        raise UserError(errors[0].message)


def examine_on(
    config: Config, world_size: int, num_samples: int | None, tokens_per_sample: Fraction | None
) -> tuple[Plan | None, list[Finding]]:
    try:
        return examine(config.recipe, Topology.cut(config.batch, world_size), num_samples, tokens_per_sample)
    except PlanError as error:  # the batch cannot be cut for so many ranks
        raise UserError(str(error)) from error


def make_plan(
    config: Config, world_size: int, data: Prepared, origin: ResumePoint
) -> tuple[Plan, LRSchedule, list[Finding]]:
    """The plan, the same on every rank; the learning rate to follow; the linter's warnings. Its errors end the run."""
    size, tokens = data.train.size, data.train.mean_length
    plan, findings = examine_on(config, world_size, size, tokens)
    errors = [finding.message for finding in findings if finding.level == "error"]
    if plan is None or errors:
        raise UserError("; ".join(errors))
    collectives.require_same({"data": data.key} | plan.to_dict() | library_versions())
    if not origin.checkpoint:
        return plan, LRSchedule(plan), findings
    topology, samples = Topology.cut(config.batch, world_size), origin.state["clock"]["samples"]
    try:
        course = replan(origin.course, config.recipe, topology, samples, size, config.elastic, tokens)
    except ValueError as error:
        raise UserError(str(error)) from error
    return plan, course, findings


class Built(NamedTuple):
    """What holds the weights, what the model can be asked for, and which weights are new."""

    engine: DDPEngine | DeepSpeedEngine
    reading: InputLayout
    new_weights: list[str]


def build(
    config: Config,
    accelerator: Accelerator,
    data: Prepared,
    task: Task,
    plan: Plan,
    course: LRSchedule,
    origin: ResumePoint,
) -> Built:
    """Model and optimizer on all ranks, with the checkpoint's weights if there is one."""
    source, length, speed = str(origin.checkpoint or config.model), config.data.max_length, config.speed
    model, new_weights = model_build.build_model(
        source, task.auto_class, data.tokenizer, length, config.dropout, task.labels, config.seed
    )
    if origin.checkpoint and new_weights:
        raise UserError(f"--resume: {source} lacks the weights {', '.join(new_weights)}")
    if speed.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    recipe = config.recipe
    optimizer = build_optimizer(model, course.plan, recipe.layer_decay, recipe.lr_ratios)
    kinds = {"DEEPSPEED": deepspeed_engine.DeepSpeedEngine, "FSDP": fsdp.FSDPEngine}
    engine = kinds.get(accelerator.distributed_type.value, ddp.DDPEngine)(accelerator, model, optimizer, plan)
    device, precision = accelerator.device, accelerator.mixed_precision
    varlen = choose_varlen(model, speed.packing, speed.compile, speed.attention, device, precision)
    steady = length if speed.compile else 0
    reads_tokens = config.task in (*LANGUAGE_TASKS, "token-classification")
    reading = install_partial_forward(model, reads_tokens, speed.packing, speed.masked_only, varlen, steady)
    if speed.compile:
        compile_layers(model, reading)
    return Built(engine, reading, new_weights)


def assemble(
    config: Config,
    accelerator: Accelerator,
    data: Prepared,
    task: Task,
    built: Built,
    plan: Plan,
    course: LRSchedule,
    folder: Path,
    watch: PreemptionHandler,
) -> TrainStep:
    """All that a step needs, at the start of the data stream."""
    from warmup import StepClock, WarmupScheduler

    engine, size, device = built.engine, accelerator.num_processes, accelerator.device
    shares = prefetcher.BatchPrefetcher(
        samples=data.train,
        task=task,
        reading=built.reading,
        seed=config.seed,
        global_batch_size=plan.global_batch_size,
        slots=plan.world_size * plan.accumulation,
        rank=accelerator.process_index,
        world_size=size,
        pinned=device.type == "cuda",
    )
    classes = len(task.labels) or engine.bare.config.vocab_size
    peak = peak_flops(device, accelerator.mixed_precision)
    return TrainStep(
        accelerator=accelerator,
        engine=engine,
        scheduler=WarmupScheduler(engine.optimizer, course, counts=False),
        clock=StepClock(plan.global_batch_size, data.train.size, device),
        plan=plan,
        shares=shares,
        meters=throughput.ThroughputMeter(engine.model, engine.bare.config, classes, size, peak),
        watch=watch,
        hang=watchdog.Watchdog(config.launch.timeout, exit_status.fail),
        saver=Saver(
            run=folder,
            accelerator=accelerator,
            engine=engine,
            tokenizer=data.tokenizer,
            every=config.checkpoint.every,
            keep=config.checkpoint.keep,
            duration_samples=plan.duration_samples,
        ),
    )


def begin(job: TrainingRun, origin: ResumePoint) -> None:
    """Go to the position that training goes on from."""
    trainer, config, log = job.trainer, job.config, job.log
    trainer.settle()
    if origin.checkpoint:
        trainer.engine.restore(origin.checkpoint)
    for note in origin.notes:
        log.say(f"--resume: {note}")
    if origin.checkpoint:
        trainer.seek(origin.state["clock"])
        trainer.place = origin.state.get("stream")
        if trainer.over() or job.out_of_patience:
            why = f"; {why_early(job)}" if job.out_of_patience else ""
            log.say(f"--resume: {origin.checkpoint} is of the run's end{why}")
        else:
            facts = resume.describe_changes(origin, job.history.course, trainer.accelerator.num_processes)
            log.resumed(trainer.clock, trainer.total_steps, facts)
    log.begin(trainer.total_steps)
    trainer.meters.restart(trainer.clock)
    limit = None
    if config.time_limit:
        limit = parse_seconds(config.time_limit, "time_limit") - trainer.watch.age()
    trainer.watch.start(limit, trainer.accelerator.is_main_process)


def describe(job: TrainingRun, findings: list[Finding], new_weights: list[str], changes: list[str]) -> None:
    """Write config.yaml and plan.json, and print the plan as a table, before the first step."""
    config, data, plan, folder = job.config, job.data, job.trainer.plan, job.folder
    facts = {
        "data": f"{data.amount} to train on, {len(data.validation)} held out ({data.folder})",
        "model": config.model + (f", new: {', '.join(new_weights)}" if new_weights else ""),
        "engine": job.trainer.engine.name,
        "attention": describe_attention(job.trainer.engine.bare, job.trainer.shares.reading),
        "run directory": str(folder),
    }
    if groups := describe_groups(job.trainer.engine.bare, job.trainer.engine.optimizer):
        facts["weights"] = groups
    if config.speed.compile:
        facts["compiled"] = "the encoder's layers, over few shapes; evaluation is not"
    if data.bad_rows:
        facts["left out"] = f"{len(data.bad_rows)} rows: " + "; ".join(data.bad_rows[:3])
    if changes:
        facts["changed since"] = "; ".join(changes)

    def write() -> None:
        run_directory.write(folder / "config.yaml", commandline.to_yaml(replace(config, run_dir=None)))
        run_directory.write_json(folder / "plan.json", plan.to_dict())

    collectives.on_main(job.trainer.accelerator, write)
    job.log.say(plan_table(plan, findings, facts))


if __name__ == "__main__":
    exit_status.exit_now(main(sys.argv[1:]))
