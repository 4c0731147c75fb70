"""What a run is to be: the ranks that are there, where it starts, on which data, and by which plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction

from accelerate import Accelerator
from jsonargparse import Namespace

from warmup import commandline
from warmup.config import Config
from warmup.duration import DataSize
from warmup.elastic import LRSchedule, replan
from warmup.errors import UserError
from warmup.lint import Finding, examine
from warmup.plan import Plan, Topology
from warmup.training.checkpoints import branch, resume
from warmup.training.checkpoints.state import ResumePoint, RunState, config_fields
from warmup.training.data.key import PATH_FIELDS
from warmup.training.data.prepare import Prepared, open_training_stream, prepare_data
from warmup.training.data.samples import Samples
from warmup.training.distributed import collectives, launch
from warmup.training.distributed.preemption import PreemptionHandler
from warmup.training.models.compile import check_compile
from warmup.training.reporting.console import library_versions
from warmup.training.reporting.export import check_hub_access
from warmup.training.tasks import Task, create_task
from warmup.training.tasks.task import check_targets


@dataclass(frozen=True)
class Launched:
    """What all runs of this process share."""

    accelerator: Accelerator
    options: Namespace
    """Those of train.py besides the configuration."""
    world_size: int
    """Ranks to plan for: those that there are, or with --as_world_size those that are simulated."""
    preemption: PreemptionHandler


@dataclass(frozen=True)
class RunSpec:
    """What a run is to be: all of it is decided before a model is built, and is the same on every rank."""

    config: Config
    task: Task
    data: Prepared
    resume_point: ResumePoint
    plan: Plan
    lr_schedule: LRSchedule
    state: RunState
    findings: list[Finding]
    """The linter's warnings."""
    changes: list[str]
    """In words, what is not as it was when the run was interrupted."""


def start(config: Config, options: Namespace) -> Launched:
    """Accelerate on all ranks, which hold one configuration. Raises UserError where they cannot run it."""
    preemption = PreemptionHandler()
    tried = options.test or options.dry_run
    simulated = options.as_world_size or (config.launch.world_size if tried else None)
    expected = None if simulated else config.launch.world_size
    accelerator = launch.start_accelerator(
        expected, config.launch.device, config.launch.start_timeout, config.log.trackers
    )
    fields = {name: value for name, value in commandline.leaves(asdict(config)) if name not in PATH_FIELDS}
    given = {name: getattr(options, name) for name in ("test", "resume", "branch_from", "seeds")}
    collectives.require_same(fields | given | {"as_world_size": simulated})
    if options.base and not options.predict and accelerator.is_main_process:
        why = "" if options.branch_from else "no --config was given: "
        print(f"{why}{options.base[0].values[0]} is the base of this run", flush=True)
    repository = config.log.push_to_hub
    if not options.predict:
        if config.speed.compile:
            check_compile(accelerator)
        if repository:
            collectives.on_main(accelerator, lambda: check_hub_access(repository, create=not options.test))
    return Launched(accelerator, options, simulated or accelerator.num_processes, preemption)


def plan_run(config: Config, launched: Launched) -> RunSpec:
    """Decide what a run is: where it starts, on which data, and by which plan. A collective call.

    Raises:
        UserError: there is nothing to resume from, the data cannot be used, or the recipe cannot be run.
    """
    options = launched.options
    resume_point = collectives.on_main(
        launched.accelerator,
        lambda: resume.find_resume_point(None if options.test else options.resume, config.run_dir, options.branch_from),
    )
    requested = config_fields(config)
    config, changes = resume.reconcile_config(config, resume_point)
    check_recipe(config, launched.world_size)
    task = create_task(config)
    data = prepare_data(config, task)
    resume.check_same_data(resume_point, data.key)
    check_data(task, data)
    if config.data.streaming:
        data = open_training_stream(config, task, data, resume_point.state.get("stream"))
    plan, lr_schedule, findings = make_plan(config, launched.world_size, data, resume_point)
    branch.check_goes_on(resume_point, plan)
    if config.log.noise_scale:
        check_noise_scale(plan, launched.accelerator)
    state = resume.initial_state(resume_point, requested, data.key, lr_schedule, config.evaluation.metric)
    return RunSpec(config, task, data, resume_point, plan, lr_schedule, state, findings, changes)


def check_data(task: Task, data: Prepared) -> None:
    """Raise UserError where there is nothing to learn or to measure. Called before a stream is opened."""
    if isinstance(data.train, Samples):
        objective = task.objective(data.tokenizer, data.labels, data.train)
        unknown = data.notes.get("unknown tokens", "")
        check_targets(objective, data.train, "data.train_files", unknown)
        check_targets(objective, data.validation, "data: the held-out rows", unknown)


def check_recipe(config: Config, world_size: int) -> None:
    """Raise UserError for what is wrong with a recipe on any data, before the data is tokenised."""
    topology = Topology.from_batch(config.batch, world_size)
    _, findings = examine(config.recipe, topology)
    errors = [finding for finding in findings if finding.level == "error" and finding.code != "length-unknown"]
    if config.data.streaming:  # of which only the mean length of a sample will be known
        _, findings = examine(config.recipe, topology, None, Fraction(1))
        errors += [finding for finding in findings if finding.code == "length-unknown"]
    for finding in errors:
        raise UserError(finding.message)


def check_noise_scale(plan: Plan, accelerator: Accelerator) -> None:
    """Raise UserError where the gradient noise scale cannot be measured."""
    if accelerator.distributed_type.value == "FSDP":
        raise UserError(
            "log.noise_scale: under FSDP no rank has the whole gradient of a micro-batch; measure it under "
            "DistributedDataParallel or DeepSpeed, or leave it out"
        )
    if min(plan.world_size * plan.accumulation, plan.global_batch_size) < 2:
        raise UserError(
            "log.noise_scale: it is measured from how the micro-batches of a step differ, and a step of this run has "
            "one; use more ranks, or batch.accumulation 2 with half of batch.per_device, or leave it out"
        )


def make_plan(
    config: Config, world_size: int, data: Prepared, resume_point: ResumePoint
) -> tuple[Plan, LRSchedule, list[Finding]]:
    """The plan, the same on every rank.

    Args:
        config: of the run.
        world_size: ranks to plan for.
        data: the training data.
        resume_point: what the run starts from.

    Returns:
        The plan, the learning rate to follow, and the linter's warnings.

    Raises:
        UserError: for the linter's errors, or if the run cannot be resumed with this plan.
    """
    size = DataSize(data.train.size, data.train.mean_length)
    topology = Topology.from_batch(config.batch, world_size)
    plan, findings = examine(config.recipe, topology, size.num_samples, size.tokens_per_sample, config.data.max_length)
    errors = [finding.message for finding in findings if finding.level == "error"]
    if plan is None or errors:
        raise UserError("; ".join(errors))
    collectives.require_same({"data": data.key} | plan.to_dict() | library_versions())
    if not resume_point.checkpoint:
        return plan, LRSchedule(plan), findings
    samples = resume_point.state["clock"]["samples"]
    lr_schedule = replan(resume_point.lr_schedule, samples, config.recipe, topology, size, config.elastic)
    return plan, lr_schedule, findings
