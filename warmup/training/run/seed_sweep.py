"""A sweep of seeds: one configuration trained once per seed, one run after the other, and what came of all of them."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator

from warmup.commandline import leaves
from warmup.config import Config
from warmup.errors import UserError
from warmup.training.checkpoints import resume, run_directory
from warmup.training.checkpoints.state import config_fields
from warmup.training.data.prepare import prepare_data
from warmup.training.distributed import collectives, exit_status
from warmup.training.files import write_json
from warmup.training.reporting.report import write_report
from warmup.training.run.setup import Launched, check_recipe
from warmup.training.tasks import create_task

RESULTS = run_directory.SWEEP_FILE
Metrics = dict[str, float]


def run_seed_sweep(config: Config, launched: Launched, train: Callable[..., tuple[str, str]]) -> tuple[str, str]:
    """Train once with each seed, unless that is done already. A collective call.

    Each run has a directory of its own in the one of the sweep. If one is stopped, so is the sweep.

    Args:
        config: of all runs; its seed is not used.
        launched: the ranks, and the options with the seeds.
        train: called with (configuration, launched, time.perf_counter()) for each run.

    Returns:
        (outcome, message), as `exit_status.guard` takes them.
    """
    accelerator, seeds = launched.accelerator, launched.options.seeds
    check_recipe(config, launched.world_size)
    prepare_data(config, create_task(config))  # so that what is wrong with it is said before there is a directory
    folder = collectives.on_main(accelerator, lambda: enter(config, launched.options.resume))
    results: dict[int, Metrics] = {}
    scaler_state = accelerator.scaler.state_dict() if accelerator.scaler else None
    stopped = ""
    for seed in seeds:
        seed_config = replace(config, seed=seed, run_dir=str(folder / f"seed-{seed}"))
        with exit_status.error_context(f"seed {seed}: "):
            result = collectives.on_main(accelerator, lambda seed_config=seed_config: finished_result(seed_config))
            if result is None:
                if any(collectives.gather_objects(launched.preemption.stop_requested())):
                    stopped = f"before seed {seed}"
                    break
                train(seed_config, launched, time.perf_counter())
                free_memory(accelerator, scaler_state)
                result = collectives.on_main(accelerator, lambda seed_config=seed_config: release_run(seed_config))
                if result["outcome"] != "done":
                    stopped = f"seed {seed} after step {result['step']} of {result['total_steps']}"
                    break
        results[seed] = result["metrics"]
        collectives.on_main(accelerator, lambda: write_results(folder, seeds, results))
    if stopped:
        numbers = ",".join(map(str, seeds))
        return "stopped", f"{stopped}; go on with --resume auto --run_dir {folder} --seeds {numbers}"
    if accelerator.is_main_process:
        print(results_table(results), flush=True)
        print(f"  {write_report(folder)}", file=sys.stderr)
    return "done", f"{len(seeds)} seeds, compared in {folder / RESULTS}"


def free_memory(accelerator: Accelerator, scaler_state: dict[str, Any] | None) -> None:
    """Free what is left of a run that has ended. `scaler_state`: of fp16, as it was before the first run."""
    if scaler_state:
        accelerator.scaler.load_state_dict(scaler_state)
    accelerator.free_memory()  # what Accelerate has kept of it,
    gc.collect()  # and what refers to itself: a run's model does
    if accelerator.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(accelerator.device)


def enter(config: Config, resume: str | None) -> Path:
    """The directory of the sweep, claimed for this process: a new one, or one to continue."""
    path = config.run_dir
    if resume == "auto":
        if path is None:
            raise UserError("--resume: auto needs a run directory to look in; give --run_dir")
        if run_directory.is_occupied(Path(path)):
            if not (Path(path) / RESULTS).is_file():
                raise UserError(f"run_dir: {path} is occupied, and not by a sweep of seeds; give another one")
            run_directory.claim(Path(path))
            return Path(path)
    folder = run_directory.make(path, config.task)
    write_results(folder, [], {})  # by which it is known
    return folder


def finished_result(config: Config) -> dict[str, Any] | None:
    """The result of a run that its directory says is done, else None. Raises UserError if it was another training."""
    folder = Path(config.run_dir or "")
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        was = dict(leaves(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if result["outcome"] != "done":
        return None
    text = f"{folder} is of a run that is done"
    for name in changed_fields(was, config_fields(config)):
        raise UserError(f"{name}: {text}, with another one; give the same, or start another sweep")
    if prepare_data(config, create_task(config)).key != result["data"]:
        raise UserError(f"data: {text}, on other data; give the same, or start another sweep")
    return result


def changed_fields(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Fields that make it another training. The reference batch size may be the one that the run began with."""
    trained = (*resume.FIXED_FIELDS, "batch.warmup", "batch.start_size", "batch.warmup_lr")
    fixed = [name for name in now if name in trained or name.startswith(("recipe.", "evaluation."))]
    defaults = config_fields(Config())  # for fields that the version before did not have
    taken = ["recipe.reference_batch_size"] if now["recipe.reference_batch_size"] is None else []
    return [name for name in fixed if name not in taken and was.get(name, defaults[name]) != now[name]]


def release_run(config: Config) -> dict[str, Any]:
    """The result of the run that has just ended, whose directory is no longer claimed."""
    folder = Path(config.run_dir or "")
    run_directory.release(folder)
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def write_results(folder: Path, seeds: Sequence[int], results: dict[int, Metrics]) -> None:
    """seeds.json: the metrics of each seed that is done, their mean and standard deviation."""
    mean, deviation = statistics(results)
    content = {"seeds": list(seeds), "metrics": results, "mean": mean, "standard_deviation": deviation}
    write_json(folder / RESULTS, content)


def statistics(results: dict[int, Metrics]) -> tuple[Metrics, dict[str, float | None]]:
    """Each metric's mean over the seeds, and its sample standard deviation: None for one seed."""
    names = next(iter(results.values()), {})
    values = {name: [metrics[name] for metrics in results.values()] for name in names}
    mean = {name: float(np.mean(found)) for name, found in values.items()}
    deviation = {name: float(np.std(found, ddof=1)) if len(found) > 1 else None for name, found in values.items()}
    return mean, deviation


def results_table(results: dict[int, Metrics]) -> str:
    """A line per metric: its value for each seed, mean and standard deviation."""
    mean, deviation = statistics(results)
    rows = [["metric", *(f"seed {seed}" for seed in results), "mean", "standard deviation"]]
    for name in mean:
        found = [*(metrics[name] for metrics in results.values()), mean[name], deviation[name]]
        rows.append([name, *("-" if value is None else f"{value:.6g}" for value in found)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
