"""The end of a run: its last checkpoint and evaluation, the exported model with its card, and result.json."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from warmup.commandline.whole_command import COMMAND
from warmup.noise_scale import describe
from warmup.training.checkpoints import branch
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints.format import BrokenCheckpoint
from warmup.training.distributed import collectives
from warmup.training.files import write_json
from warmup.training.reporting import hardware
from warmup.training.reporting.console import library_versions, summary
from warmup.training.reporting.export import export_model, push_to_hub
from warmup.training.reporting.model_card import TrainedModel, model_card
from warmup.training.reporting.published import start_command
from warmup.training.reporting.report import loss_picture, report_pictures, write_report
from warmup.training.run.training_run import TrainingRun, evaluate, save, why_early

_PICTURE = "loss.png"  # beside the model card


def finish(run: TrainingRun, stopped: bool) -> tuple[str, str]:
    """Save, and at the end evaluate and export. A run that was stopped leaves its checkpoint.

    A run that is stopped in the evaluation at its end counts as stopped: the evaluation and the export are still to be
    made.

    Returns:
        (outcome, message), as `exit_status.guard` takes them.
    """
    train_step, clock, state = run.train_step, run.train_step.clock, run.state
    run.log.close_progress()
    if not stopped and state.evaluated.get("consumed_samples") != clock.consumed_samples:
        stopped = not evaluate(run)
    train_step.watchdog.stop()
    collectives.set_timeout(run.config.launch.start_timeout)  # for a disk that is slow
    if train_step.saver.saved_step != clock.step:
        save(run)
    train_step.saver.wait()
    train_step.saver.raise_failure()
    weights = {} if stopped else train_step.engine.weights()
    result: dict[str, Any] = {
        "outcome": "stopped" if stopped else "done",
        "metrics": {},
        "per_class": {},
        "exported_step": None,
        **clock.state_dict(),
        "total_steps": train_step.total_steps,
        "stopped_early": run.out_of_patience,
        "world_size": train_step.accelerator.num_processes,
        "data": run.data.key,
        "wall_seconds": round(time.perf_counter() - run.started_at, 2),
        "versions": library_versions(),
    }

    def write() -> None:
        if not stopped:
            result.update(export_final_model(run, weights))
        write_json(run.folder / "result.json", result)

    collectives.on_main(train_step.accelerator, write)
    if train_step.accelerator.is_main_process:  # the folder is on its machine
        run.log.print(summary(run.folder, result, run.task.facts, write_report(run.folder)))
        if train_step.noise_scale:
            plan = train_step.plan
            run.log.print(describe(train_step.noise_scale.estimate(), plan.global_batch_size, plan.world_size))
        run.log.pictures(clock, lambda: report_pictures(run.folder))
        if (repository := run.config.log.push_to_hub) and not stopped:
            run.log.print(push_to_hub(run.folder / "model", repository))
    more = f"; go on with {_resume_command(run.folder)}" if stopped else ""
    more = f"; {why_early(run)}" if run.out_of_patience else more
    return result["outcome"], f"after step {clock.step} of {train_step.total_steps}{more}"


def _resume_command(folder: Path) -> str:
    """What goes on with a run: it needs no more, as the run's own configuration is the base of what is typed."""
    script = os.environ.get(COMMAND, "")
    if "elastic.sh" in script:  # goes on with what is in the directory anyway
        return f"{script} --run_dir {folder}"
    return f"{script} --resume auto --run_dir {folder}".strip()


def export_final_model(run: TrainingRun, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Export these weights, or those of the best evaluation if the run is to. Call on rank 0.

    Returns:
        The exported step and its metrics, for result.json.
    """
    state, step = run.state, run.train_step.clock.step
    metrics, details, best_step = state.metrics, state.details, state.best_step
    if run.config.evaluation.export == "best" and best_step is not None and (best := best_weights(run)) is not None:
        step, metrics, details, weights = best_step, state.best_metrics, state.best_details, best
    per_class = details.get("per_class", {})
    picture = loss_picture(run.folder)
    pictures = {_PICTURE: picture} if picture else {}
    trained = replace(trained_model(run, metrics, step, weights), per_class=per_class, picture="".join(pictures))
    model, tokenizer = run.train_step.engine.unwrapped_model, run.data.tokenizer
    model.config.update(details.get("model_settings", {}))
    export_model(run.folder, model, tokenizer, model_card(trained), weights, pictures)
    return {"metrics": metrics, "per_class": per_class, "exported_step": step}


def trained_model(
    run: TrainingRun, metrics: Mapping[str, float], step: int, weights: Mapping[str, torch.Tensor]
) -> TrainedModel:
    """What the model card says. Call on rank 0.

    Args:
        run: the run.
        metrics: those of the exported weights.
        step: the step that they are of.
        weights: the exported weights by name, shared ones once.
    """
    accelerator, engine = run.train_step.accelerator, run.train_step.engine
    device, ranks = accelerator.device.type, run.train_step.plan.world_size
    learned = {name for name, _ in engine.unwrapped_model.named_parameters()}
    return TrainedModel(
        config=run.config,
        plan=run.train_step.plan,
        data=run.data,
        metrics=metrics,
        step=step,
        options=run.arguments,
        launcher=start_command(engine.name, device, accelerator.mixed_precision, ranks),
        hardware=f"{hardware.describe_device(accelerator)}, {engine.name}",
        parameters=sum(tensor.numel() for name, tensor in weights.items() if name in learned),
        origin=branch.read_origin(run.folder),
    )


def best_weights(run: TrainingRun) -> dict[str, torch.Tensor] | None:
    """The weights of the best evaluation's checkpoint; None if that is the last one, or cannot be read."""
    step = run.state.best_step
    if step is None or step == run.train_step.clock.step:
        return None
    folder = checkpoint_format.checkpoint_path(run.folder, step)
    try:
        checkpoint_format.verify(folder)
        checkpoint_format.check_step(folder)
        return load_file(folder / checkpoint_format.MODEL)
    except (BrokenCheckpoint, OSError) as error:
        run.log.print(f"warning: the best model, of step {step}, is lost, so the last one is exported: {error}")
        return None
