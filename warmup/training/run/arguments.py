"""The options of train.py beside the configuration, and which of them go together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from warmup import commandline
from warmup.config import Config
from warmup.config.tasks import TASKS
from warmup.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"


def parse(argv: Sequence[str]) -> tuple[Config, Namespace]:
    """Configuration and options. Without a --config, the task's recipe is the base of what is given."""
    config, options = commandline.parse(_parser(), argv, base_arguments, prediction_defaults)
    check_options(config, options)
    return config, options


def default_options() -> Namespace:
    """The options of a command without any, for ranks that are started otherwise."""
    options = _parser().get_defaults()
    options.given = options.base = []
    return options


def _parser() -> commandline.ArgumentParser:
    description = (
        "Pretrain or fine-tune BERT; the recipe is scaled to the ranks there are. Without a --config, what is not "
        "given is as in the recipe of the task: configs/README.md lists them."
    )
    parser = commandline.parser("train.py", description)
    parser.add_argument(
        "--dry_run", action="store_true", help="print the plan, the data's counts and the run directory; start nothing"
    )
    parser.add_argument("--as_world_size", type=int, metavar="N", help="train the N-rank job on the ranks there are")
    parser.add_argument(
        "--test", action="store_true", help="a few steps of the job, checked; ends with PASS or why not"
    )
    parser.add_argument(
        "--resume", metavar="auto|never|PATH", help="go on: from the newest valid checkpoint of run_dir, or of a path"
    )
    parser.add_argument(
        "--branch_from", metavar="PATH", help="start a run of its own at a checkpoint, or at the newest one of a run"
    )
    parser.add_argument(
        "--seeds", type=list[int], metavar="1,2,3", help="train once per seed, each into run_dir/seed-N, and compare"
    )
    parser.add_argument(
        "--predict", type=list[str], metavar="FILE", help="write a prediction of --model RUN for each row of the files"
    )
    parser.add_argument("--output", metavar="PATH", help="where --predict writes (default: FILE.predictions.jsonl)")
    parser.add_argument("--traceback", action="store_true", help="show Python's tracebacks with errors")
    return parser


def base_arguments(given: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Arguments to put in front of those that were given: the configuration that they change.

    It is that of the run that is resumed, or that a branch leaves; or else the recipe of the task. With --predict it is
    the task of the model alone, and with --config only that of a branch, of which a file need not say more than what is
    to change.

    Args:
        given: the values of the options, by name.
    """
    if "predict" in given:
        return _task_of_model(given)
    if "config" in given and "branch_from" not in given:
        return []
    any_ranks = ["--launch.world_size", "null", "--launch.device", "null"]
    if of_run := _config_of_run(given):
        return ["--config", of_run, *any_ranks]
    if of_parent := _config_of_parent(given):
        return ["--config", of_parent, *any_ranks, "--log.push_to_hub", "null"]  # the repository is the parent's
    if "config" in given:
        return []
    (task,) = given.get("task", ("mlm",))[-1:] or ("",)
    facts = TASKS.get(task)
    if not facts or not facts.recipe:
        return []
    file = facts.recipe if given.get("data.train_files") else facts.recipe_on_docstrings or facts.recipe
    # Both would be an error, and only one of them was typed.
    unset = ["--batch.global_size", "null"] if "batch.accumulation" in given else []
    return ["--config", min(str(CONFIGS / file), os.path.relpath(CONFIGS / file), key=len), *unset]


def _task_of_model(given: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The task of the model that predicts, so that fields of its own can be given without it."""
    if "task" in given or "config" in given or not given.get("model"):
        return []
    from warmup.training.predict import model_source  # which imports torch, as --help must not

    try:
        task = model_source.config_defaults(given["model"][-1]).get("task")
    except UserError:  # raised once the options are known to go together
        return []
    return ["--task", task] if task else []


def _config_of_run(given: Mapping[str, tuple[str, ...]]) -> str | None:
    """The configuration of the run that --resume goes on with, by itself or with --run_dir; None if there is none."""
    (resume,) = given.get("resume", ())[-1:] or ("never",)
    if resume == "never":
        return None
    return _find_config(given.get("run_dir", ())[-1:] if resume == "auto" else _run_or_checkpoint(resume))


def _config_of_parent(given: Mapping[str, tuple[str, ...]]) -> str | None:
    """The configuration of the run that --branch_from names, by itself or by a checkpoint; None if there is none."""
    (parent,) = given.get("branch_from", ())[-1:] or (None,)
    return _find_config(_run_or_checkpoint(parent)) if parent else None


def _run_or_checkpoint(path: str) -> tuple[str, str]:
    """Where the run directory may be: a path itself, or two levels above a checkpoint."""
    return path, str(Path(path).parent.parent)


def _find_config(places: Sequence[str]) -> str | None:
    files = [Path(place).expanduser() / "config.yaml" for place in places]
    return next((str(file) for file in files if file.is_file()), None)


def prediction_defaults(config: Config, options: Namespace) -> dict[str, Any]:
    """The fields that --predict takes from the run that made the model; none without it."""
    if options.predict is None:
        if options.output:
            raise UserError("--output: says where --predict writes; a run is written to --run_dir")
        return {}
    if not options.predict:
        raise UserError("--predict: names no file")
    for name in ("test", "dry_run", "resume", "branch_from", "as_world_size", "seeds"):
        if getattr(options, name) not in (None, False, "never"):
            raise UserError(f"--predict: does not train; leave --{name} out")
    from warmup.training.predict import model_source  # which imports torch, as --help must not

    return model_source.config_defaults(config.model)


def _check_branch(options: Namespace) -> None:
    """Raise UserError where options do not go together with --branch_from."""
    if options.test or options.seeds is not None:
        raise UserError("--branch_from: goes on with one run and its seed; leave --test and --seeds out")
    if options.resume not in (None, "never", "auto"):
        raise UserError(
            "--branch_from: starts a run at a checkpoint; leave --resume out, or give --resume auto, which goes on "
            "with the branch once it is there"
        )


def check_options(config: Config, options: Namespace) -> None:
    """Raise UserError where the options do not go together."""
    if options.as_world_size is not None and options.as_world_size < 1:
        raise UserError(f"as_world_size: {options.as_world_size} is not 1 or above")
    if options.dry_run and (options.test or options.seeds is not None):
        raise UserError("--dry_run: starts nothing; leave --test and --seeds out")
    if options.test and options.resume not in (None, "never"):
        raise UserError("--test: tries a job from its start; leave --resume out")
    if options.branch_from is not None:
        _check_branch(options)
    if options.seeds is None:
        return
    twice = [seed for seed in options.seeds if options.seeds.count(seed) > 1]
    if twice or not options.seeds:
        raise UserError(f"--seeds: {twice[0]} is named twice" if twice else "--seeds: names no seed")
    for seed in options.seeds:
        replace(config, seed=seed)  # refuses what is none
    if any(option.name == "seed" for option in options.given):
        raise UserError("--seed and --seeds: give one")
    if options.test:
        raise UserError("--test: tries one run; leave --seeds out")
    if options.resume not in (None, "never", "auto"):
        raise UserError("--resume: seeds go on from the run directory of all of them: --resume auto")
    if config.log.push_to_hub:
        raise UserError("log.push_to_hub: one model is pushed; leave it out with --seeds, and push the one you choose")
