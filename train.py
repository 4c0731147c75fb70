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
from typing import TYPE_CHECKING, NamedTuple

from jsonargparse import Namespace

from warmup import commandline, training
from warmup.config import LANGUAGE_TASKS, Config, seconds
from warmup.elastic import Course, follow
from warmup.lint import Finding, examine
from warmup.plan import Plan, PlanError, Topology
from warmup.training import outcome
from warmup.training.options import parse

if TYPE_CHECKING:
    from accelerate import Accelerator

    from warmup.training.engine import Engine
    from warmup.training.job import Job
    from warmup.training.loop import Trainer
    from warmup.training.reading import Reading
    from warmup.training.resuming import Origin
    from warmup.training.stopping import StopWatch
    from warmup.training.tasks import Task
    from warmup.training.tokens import Prepared
    from warmup.training.zero import ZeRO


def main(argv: Sequence[str]) -> int:
    """Returns this rank's exit code."""
    return outcome.guard(lambda: run(*parse(argv)), show_traceback="--traceback" in argv)


def run(config: Config, options: Namespace) -> tuple[str, str]:
    """From the launcher to a model, one per seed, or to predictions. Returns (outcome, message)."""
    began = time.perf_counter()
    watch = training.stopping.StopWatch()
    accelerator, simulated = start(config, options)
    if options.predict:
        return training.predicting.predict(config, accelerator, options.predict, options.output)
    world_size = simulated or accelerator.num_processes
    if options.seeds:
        refuse_hopeless(config, world_size)
        training.tokens.prepare(config)  # so that what is wrong with it is said before there is a directory
        ended = training.seeds.sweep(
            accelerator,
            config,
            options,
            watch,
            lambda one: train(one, options, accelerator, world_size, watch, time.perf_counter()),
        )
    else:
        ended = train(config, options, accelerator, world_size, watch, began)
    training.ranks.stop()
    return ended


def train(
    config: Config, options: Namespace, accelerator: Accelerator, world_size: int, watch: StopWatch, began: float
) -> tuple[str, str]:
    """One run, from its configuration to the exported model. `began`: perf_counter then. Returns (outcome, message)."""
    origin = training.ranks.on_main(
        accelerator, lambda: training.resuming.find(None if options.test else options.resume, config.run_dir)
    )
    asked = training.resuming.fields(config)
    config, changes = training.resuming.fit(config, origin)
    refuse_hopeless(config, world_size)
    data = training.tokens.prepare(config)
    training.resuming.refuse_other_data(origin, data.key)
    if config.data.streaming:
        data = training.stream.follow(config, data, origin.state.get("stream"))
    plan, course, findings = make_plan(config, world_size, data, origin)
    task = training.tasks.build(config, data)
    built = build(config, accelerator, data, task, plan, course, origin)
    with tempfile.TemporaryDirectory(prefix="warmup-test-") as scratch:
        wanted = origin.run_dir or (str(Path(scratch) / "run") if options.test else None)
        folder = training.ranks.on_main(accelerator, lambda: training.run_directory.enter(wanted, config.task, origin))
        trackers = None if options.test else training.trackers.start(accelerator, folder, config, origin)
        job = training.job.Job(
            config=config,
            data=data,
            folder=folder,
            log=training.reporting.Log(folder, accelerator, config.log.samples, trackers),
            trainer=assemble(config, accelerator, data, task, built, plan, course, folder, watch),
            history=training.resuming.history(origin, asked, data.key, course, config.evaluation.metric),
            arguments=options.arguments,
        )
        try:
            describe(job, findings, built.new_weights, changes)
            begin(job, origin)
            if options.test:
                ended = training.selftest.run(job)
            else:
                stopped = training.job.train(job)
                ended = training.job.finish(job, stopped, began)
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
    launch = config.launch
    accelerator = training.starting.start(wanted, launch.device, launch.start_timeout, config.log.trackers)
    fields = {name: value for name, value in commandline.leaves(asdict(config)) if name not in training.tokens.PATHS}
    training.ranks.require_same(
        fields | {"test": options.test, "as_world_size": simulated, "resume": options.resume, "seeds": options.seeds}
    )
    if config.speed.compile and not options.predict:
        training.compiling.refuse(accelerator)
    if config.log.push_to_hub and not options.predict:
        training.ranks.on_main(
            accelerator, lambda: training.hub.refuse_unwritable(config.log.push_to_hub, make=not options.test)
        )
    return accelerator, simulated


def refuse_hopeless(config: Config, world_size: int) -> None:
    """What is wrong with a configuration whatever its data, said before the data is tokenised."""
    training.evaluation.refuse(config)
    streaming = config.data.streaming  # of which only the length of a sample will be known
    _, findings = examine_on(config, world_size, None, Fraction(1) if streaming else None)
    errors = [finding for finding in findings if finding.level == "error"]
    errors = [finding for finding in errors if streaming or finding.code != "length-unknown"]
    if errors:
        raise outcome.UserError(errors[0].message)


def examine_on(
    config: Config, world_size: int, num_samples: int | None, tokens_per_sample: Fraction | None
) -> tuple[Plan | None, list[Finding]]:
    try:
        return examine(config.recipe, Topology.cut(config.batch, world_size), num_samples, tokens_per_sample)
    except PlanError as error:  # the batch cannot be cut for so many ranks
        raise outcome.UserError(str(error)) from error


def make_plan(config: Config, world_size: int, data: Prepared, origin: Origin) -> tuple[Plan, Course, list[Finding]]:
    """The plan, the same on every rank; the learning rate to follow; the linter's warnings. Its errors end the run."""
    size, tokens = data.train.size, data.train.mean_length
    plan, findings = examine_on(config, world_size, size, tokens)
    errors = [finding.message for finding in findings if finding.level == "error"]
    if plan is None or errors:
        raise outcome.UserError("; ".join(errors))
    training.ranks.require_same({"data": data.key} | plan.to_dict() | training.reporting.versions())
    if not origin.checkpoint:
        return plan, Course(plan), findings
    topology, samples = Topology.cut(config.batch, world_size), origin.state["clock"]["samples"]
    try:
        course = follow(origin.course, config.recipe, topology, samples, size, config.elastic, tokens)
    except ValueError as error:
        raise outcome.UserError(str(error)) from error
    return plan, course, findings


class Built(NamedTuple):
    """What holds the weights, what the model can be asked for, and which weights are new."""

    engine: Engine | ZeRO
    reading: Reading
    new_weights: list[str]


def build(
    config: Config, accelerator: Accelerator, data: Prepared, task: Task, plan: Plan, course: Course, origin: Origin
) -> Built:
    """Model and optimizer on all ranks, with the checkpoint's weights if there is one."""
    source, length, speed = str(origin.checkpoint or config.model), config.data.max_length, config.speed
    model, new_weights = training.model.build(
        source, task.auto_class, data.tokenizer, length, config.dropout, task.labels, config.seed
    )
    if origin.checkpoint and new_weights:
        raise outcome.UserError(f"--resume: {source} lacks the weights {', '.join(new_weights)}")
    if speed.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    recipe = config.recipe
    optimizer = training.optimizer.build(model, course.plan, recipe.layer_decay, recipe.lr_ratios)
    kinds = {"DEEPSPEED": training.zero.ZeRO, "FSDP": training.fsdp.FSDP2}
    engine = kinds.get(accelerator.distributed_type.value, training.engine.Engine)(accelerator, model, optimizer, plan)
    device, precision = accelerator.device, accelerator.mixed_precision
    varlen = training.reading.fits_varlen(model, speed.packing, speed.compile, speed.attention, device, precision)
    steady = length if speed.compile else 0
    reads_tokens = config.task in (*LANGUAGE_TASKS, "token-classification")
    reading = training.reading.read_only_where_asked(
        model, reads_tokens, speed.packing, speed.masked_only, varlen, steady
    )
    if speed.compile:
        training.compiling.layers(model, reading)
    return Built(engine, reading, new_weights)


def assemble(
    config: Config,
    accelerator: Accelerator,
    data: Prepared,
    task: Task,
    built: Built,
    plan: Plan,
    course: Course,
    folder: Path,
    watch: StopWatch,
) -> Trainer:
    """All that a step needs, at the start of the data stream."""
    from warmup import StepClock, WarmupScheduler

    engine, size, device = built.engine, accelerator.num_processes, accelerator.device
    shares = training.shares.Shares(
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
    peak = training.meters.peak_flops(device, accelerator.mixed_precision)
    return training.loop.Trainer(
        accelerator=accelerator,
        engine=engine,
        scheduler=WarmupScheduler(engine.optimizer, course, counts=False),
        clock=StepClock(plan.global_batch_size, data.train.size, device),
        plan=plan,
        shares=shares,
        meters=training.meters.Meters(engine.model, engine.bare.config, classes, size, peak),
        watch=watch,
        hang=training.hang.HangWatch(config.launch.timeout, outcome.fail),
        saver=training.saving.Saver(
            run=folder,
            accelerator=accelerator,
            engine=engine,
            tokenizer=data.tokenizer,
            every=config.checkpoint.every,
            keep=config.checkpoint.keep,
            duration_samples=plan.duration_samples,
        ),
    )


def begin(job: Job, origin: Origin) -> None:
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
            why = f"; {training.job.why_early(job)}" if job.out_of_patience else ""
            log.say(f"--resume: {origin.checkpoint} is of the run's end{why}")
        else:
            facts = training.resuming.changes(origin, job.history.course, trainer.accelerator.num_processes)
            log.resumed(trainer.clock, trainer.total_steps, facts)
    log.begin(trainer.total_steps)
    trainer.meters.restart(trainer.clock)
    limit = None
    if config.time_limit:
        limit = seconds(config.time_limit, "time_limit") - trainer.watch.age()
    trainer.watch.start(limit, trainer.accelerator.is_main_process)


def describe(job: Job, findings: list[Finding], new_weights: list[str], changes: list[str]) -> None:
    """Write config.yaml and plan.json, and print the plan as a table, before the first step."""
    config, data, plan, folder = job.config, job.data, job.trainer.plan, job.folder
    facts = {
        "data": f"{data.amount} to train on, {len(data.validation)} held out ({data.folder})",
        "model": config.model + (f", new: {', '.join(new_weights)}" if new_weights else ""),
        "engine": job.trainer.engine.name,
        "attention": training.reading.attention(job.trainer.engine.bare, job.trainer.shares.reading),
        "run directory": str(folder),
    }
    if groups := training.optimizer.describe(job.trainer.engine.bare, job.trainer.engine.optimizer):
        facts["weights"] = groups
    if config.speed.compile:
        facts["compiled"] = "the encoder's layers, over few shapes; evaluation is not"
    if data.bad_rows:
        facts["left out"] = f"{len(data.bad_rows)} rows: " + "; ".join(data.bad_rows[:3])
    if changes:
        facts["changed since"] = "; ".join(changes)

    def write() -> None:
        training.run_directory.write(folder / "config.yaml", commandline.to_yaml(replace(config, run_dir=None)))
        training.run_directory.write_json(folder / "plan.json", plan.to_dict())

    training.ranks.on_main(job.trainer.accelerator, write)
    job.log.say(training.reporting.plan_table(plan, findings, facts))


if __name__ == "__main__":
    outcome.leave(main(sys.argv[1:]))
