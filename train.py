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
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from warmup import commandline, training
from warmup.config import Config, seconds
from warmup.lint import Finding, examine
from warmup.plan import Plan, PlanError, Topology
from warmup.training import outcome

if TYPE_CHECKING:
    from accelerate import Accelerator

    from warmup.training.loop import Trainer
    from warmup.training.reporting import Log
    from warmup.training.tokens import Prepared

QUICKSTART = Path(__file__).parent / "configs" / "quickstart_pretrain.yaml"


def main(argv: Sequence[str]) -> int:
    """Returns this rank's exit code."""
    return outcome.guard(lambda: run(*parse(argv)), show_traceback="--traceback" in argv)


def parse(argv: Sequence[str]) -> tuple[Config, Namespace]:
    """Configuration and options. Without a word about what to train, it is the quickstart's pretraining."""
    parser = commandline.parser("train.py", "Pretrain or fine-tune BERT; the recipe is scaled to the ranks there are.")
    parser.add_argument("--as_world_size", type=int, metavar="N", help="train the N-rank job on the ranks there are")
    parser.add_argument(
        "--test", action="store_true", help="a few steps of the job, checked; ends with PASS or why not"
    )
    parser.add_argument("--traceback", action="store_true", help="show Python's tracebacks with errors")
    if not commandline.names_a_job(argv):
        argv = ["--config", str(QUICKSTART), *argv]
    try:
        config, options = commandline.parse(parser, argv)
        if options.as_world_size is not None and options.as_world_size < 1:
            raise ValueError(f"as_world_size: {options.as_world_size} is not 1 or above")
    except ValueError as error:
        raise outcome.UserError(str(error)) from error
    return config, options


def run(config: Config, options: Namespace) -> tuple[str, str]:
    """One run, from the launcher to the exported model. Returns (outcome, message)."""
    began = time.perf_counter()
    accelerator, simulated = start(config, options)
    data = training.tokens.prepare(config)
    plan, findings = make_plan(config, simulated or accelerator.num_processes, data)
    trainer, new_weights = build(config, accelerator, data, plan, began)
    with tempfile.TemporaryDirectory(prefix="warmup-test-") as scratch:
        wanted = config.run_dir or (str(Path(scratch) / "run") if options.test else None)
        create = training.reporting.create_run_directory
        folder = training.engine.on_main(accelerator, lambda: create(wanted, config.task))
        log = training.reporting.Log(folder, plan.total_steps, accelerator)
        describe(log, folder, config, plan, findings, data, new_weights)
        try:
            if options.test:
                ended = test(trainer, data, config, folder, log)
            else:
                stopped = train(trainer, data, config, log)
                ended = finish(trainer, data, config, folder, log, stopped, began)
        finally:
            log.close()
    training.engine.stop()
    return ended


def start(config: Config, options: Namespace) -> tuple[Accelerator, int | None]:
    """Accelerate on all ranks, holding one configuration; and the world size to simulate, None for the real one."""
    simulated = options.as_world_size or (config.launch.world_size if options.test else None)
    wanted = None if simulated else config.launch.world_size
    accelerator = training.engine.start(wanted, config.launch.device, config.launch.timeout, config.log.trackers)
    training.engine.require_same(
        dict(commandline.leaves(asdict(config))) | {"test": options.test, "as_world_size": simulated}
    )
    training.engine.on_main(accelerator, lambda: training.reporting.refuse_occupied(config.run_dir))
    refuse_hopeless(config, simulated or accelerator.num_processes)
    return accelerator, simulated


def refuse_hopeless(config: Config, world_size: int) -> None:
    """What is wrong with a recipe whatever its data, said before the data is tokenised."""
    _, findings = examine_on(config, world_size, None)
    errors = [finding for finding in findings if finding.level == "error" and finding.code != "length-unknown"]
    if errors:
        raise outcome.UserError(errors[0].message)
    training.optimizer.refuse_unknown(config.recipe.optimizer)


def examine_on(config: Config, world_size: int, num_samples: int | None) -> tuple[Plan | None, list[Finding]]:
    try:
        return examine(config.recipe, Topology.cut(config.batch, world_size), num_samples)
    except PlanError as error:  # the batch cannot be cut for so many ranks
        raise outcome.UserError(str(error)) from error


def make_plan(config: Config, world_size: int, data: Prepared) -> tuple[Plan, list[Finding]]:
    """The plan, the same on every rank, and the linter's warnings. Its errors end the run here."""
    plan, findings = examine_on(config, world_size, len(data.train))
    errors = [finding.message for finding in findings if finding.level == "error"]
    if plan is None or errors:
        raise outcome.UserError("; ".join(errors))
    training.engine.require_same(plan.to_dict() | {"data": data.key, **training.reporting.versions()})
    return plan, findings


def build(
    config: Config, accelerator: Accelerator, data: Prepared, plan: Plan, began: float
) -> tuple[Trainer, list[str]]:
    """Model, optimizer, schedule and clock; and the names of the weights that are new. `began`: perf_counter then."""
    from warmup import StepClock, WarmupScheduler

    task = training.tasks.build(config.task, data, config.data.mask_rate)
    model, new_weights = training.model.build(
        config.model, task.auto_class, data.tokenizer, config.data.max_length, config.dropout, task.labels, config.seed
    )
    if config.task == "mlm":
        training.model.head_only_where_asked(model)
    wrapped, optimizer = accelerator.prepare(model, training.optimizer.build(model, plan))
    limit = None
    if config.launch.time_limit:
        limit = seconds(config.launch.time_limit, "launch.time_limit") - (time.perf_counter() - began)
    trainer = training.loop.Trainer(
        accelerator=accelerator,
        model=wrapped,
        optimizer=optimizer,
        scheduler=WarmupScheduler(optimizer, plan),
        clock=StepClock(plan.global_batch_size, len(data.train), accelerator.device),
        plan=plan,
        task=task,
        samples=data.train,
        seed=config.seed,
        watch=training.stopping.StopWatch(limit, accelerator.is_main_process),
    )
    return trainer, new_weights


def train(trainer: Trainer, data: Prepared, config: Config, log: Log) -> bool:
    """All steps of the plan, or those until a rank wants to stop. Returns whether the run was stopped."""
    clock = trainer.clock
    for step in trainer.steps():
        log.advance()
        last = step.stop or clock.samples >= trainer.plan.duration_samples
        if not step.applied:
            log.skipped(clock, step)
            trainer.refuse_skipping(config.recipe.max_skipped, step)
        elif last or clock.step % config.log.every == 0:
            log.train(clock, step.lr, trainer.loss(step), step.grad_norm)
        if step.applied and not last and config.log.evaluate_every and clock.step % config.log.evaluate_every == 0:
            log.evaluation(clock, evaluate(trainer, data, config))
    return clock.samples < trainer.plan.duration_samples


def evaluate(trainer: Trainer, data: Prepared, config: Config) -> dict[str, float]:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return training.evaluation.evaluate(
        model, trainer.task, data.validation, config.batch.evaluation, trainer.accelerator
    )


def describe(
    log: Log, folder: Path, config: Config, plan: Plan, findings: list[Finding], data: Prepared, new_weights: list[str]
) -> None:
    """Write config.yaml and plan.json, and print the plan as a table, before the first step."""
    facts = {
        "data": f"{len(data.train)} samples to train on, {len(data.validation)} held out ({data.folder})",
        "model": config.model + (f", new: {', '.join(new_weights)}" if new_weights else ""),
        "run directory": str(folder),
    }
    if data.bad_rows:
        facts["left out"] = f"{len(data.bad_rows)} rows: " + "; ".join(data.bad_rows[:3])

    def write() -> None:
        training.reporting.write(folder / "config.yaml", commandline.to_yaml(replace(config, run_dir=None)))
        training.reporting.write_json(folder / "plan.json", plan.to_dict())

    training.engine.on_main(log.accelerator, write)
    log.say(training.reporting.plan_table(plan, findings, facts))


def finish(
    trainer: Trainer, data: Prepared, config: Config, folder: Path, log: Log, stopped: bool, began: float
) -> tuple[str, str]:
    """Evaluate, export, and sum up. A run that was asked to stop exports what it has, without an evaluation."""
    metrics = {} if stopped else evaluate(trainer, data, config)
    if metrics:
        log.evaluation(trainer.clock, metrics)
    result = {
        "outcome": "stopped" if stopped else "done",
        "metrics": metrics,
        **trainer.clock.state_dict(),
        "total_steps": trainer.plan.total_steps,
        "world_size": trainer.accelerator.num_processes,
        "wall_seconds": round(time.perf_counter() - began, 2),
        "versions": training.reporting.versions(),
    }
    model = trainer.accelerator.unwrap_model(trainer.model)

    def save() -> None:
        training.export.export(folder, model, data.tokenizer, config.task, trainer.plan, metrics)
        training.reporting.write_json(folder / "result.json", result)

    training.engine.on_main(trainer.accelerator, save)
    if trainer.accelerator.is_main_process:  # the folder is on its machine
        log.say(training.reporting.summary(folder, result))
    return result["outcome"], f"after step {trainer.clock.step} of {trainer.plan.total_steps}"


def test(trainer: Trainer, data: Prepared, config: Config, folder: Path, log: Log) -> tuple[str, str]:
    """A few steps, an evaluation and an export, each checked. Ends with PASS, or what failed."""
    selftest = training.selftest
    probe, wrong = selftest.RateProbe(trainer), []
    steps = min(selftest.STEPS, trainer.plan.total_steps)
    for number, step in zip(range(steps), trainer.steps(), strict=False):
        loss, ids = trainer.loss(step), selftest.sample_hash(step)
        log.advance()
        log.train(trainer.clock, step.lr, loss, step.grad_norm)
        used = probe.rates[-1] if step.applied else float("nan")
        log.tell(f"step {number + 1}  lr {used:.17g}  loss {loss:.9g}  grad_norm {step.grad_norm:.9g}  samples {ids}")
        wrong += selftest.check_step(trainer, step, number, used, loss, ids)
    metrics = evaluate(trainer, data, config)
    log.tell("evaluation  " + "  ".join(f"{name} {value:.9g}" for name, value in metrics.items()))
    wrong += [] if metrics["targets"] > 0 else ["evaluation: no target"]
    model = trainer.accelerator.unwrap_model(trainer.model)

    def save_and_load() -> list[str]:
        saved = training.export.export(folder, model, data.tokenizer, config.task, trainer.plan, metrics)
        return selftest.check_export(saved, model, trainer.task.auto_class)

    wrong += training.engine.on_main(trainer.accelerator, save_and_load)
    for line in wrong:
        log.tell(f"FAIL  {line}")
    if wrong:
        return "failed", f"{len(wrong)} checks failed: {wrong[0]}"
    log.tell(f"PASS  {steps} steps of {trainer.plan.total_steps}, evaluation and export")
    return "done", "PASS"


if __name__ == "__main__":
    outcome.leave(main(sys.argv[1:]))
