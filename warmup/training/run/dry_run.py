"""`--dry_run`: the plan, what the data holds and where a run would be written. Nothing is started or trained."""

from __future__ import annotations

from dataclasses import replace

from warmup.config import Config
from warmup.training.checkpoints import run_directory
from warmup.training.distributed import collectives
from warmup.training.reporting.console import plan_table, rows_text
from warmup.training.run.setup import Launched, RunSpec, plan_run


def as_dry_run(config: Config) -> Config:
    """The configuration without what only a real start needs: its device, trackers and the hub."""
    log = replace(config.log, trackers=(), push_to_hub=None)
    return replace(config, launch=replace(config.launch, device=None), log=log)


def run_dry(config: Config, launched: Launched) -> tuple[str, str]:
    """Print what would be done. A collective call.

    Returns:
        (outcome, message), as `exit_status.guard` takes them.

    Raises:
        UserError: what a real start would be refused for, as far as that shows before the model is built.
    """
    spec = plan_run(config, launched)
    accelerator = launched.accelerator
    folder = collectives.on_main(accelerator, lambda: _folder(spec))
    if accelerator.is_main_process:
        print(plan_table(spec.plan, spec.findings, _facts(spec, folder)), flush=True)
        print("dry run: nothing was trained, and nothing written but the tokenised data", flush=True)
    return "done", "dry run"


def _folder(spec: RunSpec) -> str:
    """Where the run would be written. Raises UserError if that place is taken."""
    if spec.resume_point.run_dir:
        return spec.resume_point.run_dir
    run_directory.check_unoccupied(spec.config.run_dir)
    return spec.config.run_dir or f"runs/{spec.config.task}-<UTC time>"


def _facts(spec: RunSpec, folder: str) -> dict[str, str]:
    data = spec.data
    facts = {
        "data": f"{data.amount} to train on, {len(data.validation)} held out ({data.folder})",
        "model": spec.config.model,
        "run directory": folder,
    }
    if spec.resume_point.checkpoint:
        facts["branches from" if spec.resume_point.branches else "resumes from"] = str(spec.resume_point.checkpoint)
    if data.bad_rows:
        facts["skipped"] = rows_text(data.bad_rows)
    return facts | dict(data.notes) | spec.task.notes(data.labels)
