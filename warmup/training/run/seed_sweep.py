"""A sweep of seeds: one configuration trained once per seed, one run after the other, and what came of all of them."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from jsonargparse import Namespace

from warmup.commandline import leaves
from warmup.config import Config
from warmup.errors import UserError
from warmup.training.checkpoints import resume, run_directory
from warmup.training.checkpoints.state import config_fields
from warmup.training.data.prepare import prepare_data
from warmup.training.distributed import collectives, exit_status
from warmup.training.distributed.preemption import PreemptionHandler

RESULTS = run_directory.SWEEP_FILE
Metrics = dict[str, float]


def run_seed_sweep(
    accelerator: Accelerator,
    config: Config,
    options: Namespace,
    watch: PreemptionHandler,
    train: Callable[[Config], Any],
) -> tuple[str, str]:
    """`train` with each seed, into a directory of its own in the one of the sweep, unless it is done there already.
    Where one is stopped, so is the sweep. Returns (outcome, message). A collective call.
    """
    seeds: list[int] = options.seeds
    folder = collectives.on_main(accelerator, lambda: enter(config, options.resume))
    results: dict[int, Metrics] = {}
    scaler = accelerator.scaler.state_dict() if accelerator.scaler else None
    stopped = ""
    for seed in seeds:
        one = replace(config, seed=seed, run_dir=str(folder / f"seed-{seed}"))
        with exit_status.error_context(f"seed {seed}: "):
            result = collectives.on_main(accelerator, lambda one=one: done(one))
            if result is None:
                if any(collectives.gather_objects(watch.wanted())):
                    stopped = f"before seed {seed}"
                    break
                train(one)
                forget(accelerator, scaler)
                result = collectives.on_main(accelerator, lambda one=one: leave(one))
                if result["outcome"] != "done":
                    stopped = f"seed {seed} after step {result['step']} of {result['total_steps']}"
                    break
        results[seed] = result["metrics"]
        collectives.on_main(accelerator, lambda: write(folder, seeds, results))
    if stopped:
        numbers = ",".join(map(str, seeds))
        return "stopped", f"{stopped}; go on with --resume auto --run_dir {folder} --seeds {numbers}"
    if accelerator.is_main_process:
        print(table(results), flush=True)
    return "done", f"{len(seeds)} seeds, compared in {folder / RESULTS}"


def forget(accelerator: Accelerator, scaler: dict[str, Any] | None) -> None:
    """Free what there is left of a run that has ended. scaler: fp16's, as it was before the first one."""
    if scaler:
        accelerator.scaler.load_state_dict(scaler)
    accelerator.free_memory()  # what Accelerate has kept of it,
    gc.collect()  # and what refers to itself: a run's model does
    if accelerator.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(accelerator.device)


def enter(config: Config, resume: str | None) -> Path:
    """The directory of the sweep, for this process: a new one, or one to go on with."""
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
    write(folder, [], {})  # by which it is known
    return folder


def done(config: Config) -> dict[str, Any] | None:
    """The result of a run that is done in its directory. Raises UserError where that was another training."""
    folder = Path(config.run_dir)
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        was = dict(leaves(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if result["outcome"] != "done":
        return None
    text = f"{folder} is of a run that is done"
    for name in changed(was, config_fields(config)):
        raise UserError(f"{name}: {text}, with another one; give the same, or start another sweep")
    if prepare_data(config).key != result["data"]:
        raise UserError(f"data: {text}, on other data; give the same, or start another sweep")
    return result


def changed(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Fields that make it another training. The reference batch size may be the one that the run began with."""
    fixed = [name for name in now if name in resume.FIXED_FIELDS or name.startswith(("recipe.", "evaluation."))]
    taken = ["recipe.reference_batch_size"] if now["recipe.reference_batch_size"] is None else []
    return [name for name in fixed if name not in taken and was.get(name) != now[name]]


def leave(config: Config) -> dict[str, Any]:
    """The result of the run that has just ended, whose directory is given back."""
    folder = Path(config.run_dir)
    run_directory.release(folder)
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def write(folder: Path, seeds: Sequence[int], results: dict[int, Metrics]) -> None:
    """seeds.json: the metrics of each seed that is done, their mean and standard deviation."""
    mean, deviation = statistics(results)
    content = {"seeds": list(seeds), "metrics": results, "mean": mean, "standard_deviation": deviation}
    run_directory.write_json(folder / RESULTS, content)


def statistics(results: dict[int, Metrics]) -> tuple[Metrics, dict[str, float | None]]:
    """Each metric's mean over the seeds, and its sample standard deviation: None for one seed."""
    names = next(iter(results.values()), {})
    values = {name: [metrics[name] for metrics in results.values()] for name in names}
    mean = {name: float(np.mean(found)) for name, found in values.items()}
    deviation = {name: float(np.std(found, ddof=1)) if len(found) > 1 else None for name, found in values.items()}
    return mean, deviation


def table(results: dict[int, Metrics]) -> str:
    """A line per metric: its value for each seed, mean and standard deviation."""
    mean, deviation = statistics(results)
    rows = [["metric", *(f"seed {seed}" for seed in results), "mean", "standard deviation"]]
    for name in mean:
        found = [*(metrics[name] for metrics in results.values()), mean[name], deviation[name]]
        rows.append([name, *("-" if value is None else f"{value:.6g}" for value in found)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
