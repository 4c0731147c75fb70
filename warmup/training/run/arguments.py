"""The options of train.py beside the configuration, and which of them go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from warmup import commandline
from warmup.config import Config
from warmup.errors import UserError

QUICKSTART = Path(__file__).parents[3] / "configs" / "quickstart_pretrain.yaml"


def parse(argv: Sequence[str]) -> tuple[Config, Namespace]:
    """Configuration and options. Without a word about what to train, it is the quickstart's pretraining."""
    parser = commandline.parser("train.py", "Pretrain or fine-tune BERT; the recipe is scaled to the ranks there are.")
    parser.add_argument("--as_world_size", type=int, metavar="N", help="train the N-rank job on the ranks there are")
    parser.add_argument(
        "--test", action="store_true", help="a few steps of the job, checked; ends with PASS or why not"
    )
    parser.add_argument(
        "--resume", metavar="auto|never|PATH", help="go on: from the newest valid checkpoint of run_dir, or of a path"
    )
    parser.add_argument(
        "--seeds", type=list[int], metavar="1,2,3", help="train once per seed, each into run_dir/seed-N, and compare"
    )
    parser.add_argument(
        "--predict", type=list[str], metavar="FILE", help="write a prediction of --model RUN for each row of the files"
    )
    parser.add_argument("--output", metavar="PATH", help="where --predict writes (default: FILE.predictions.jsonl)")
    parser.add_argument("--traceback", action="store_true", help="show Python's tracebacks with errors")
    if not commandline.names_a_job(argv):
        argv = ["--config", str(QUICKSTART), *argv]
    config, options = commandline.parse(parser, argv, prediction_defaults)
    check_options(config, options, argv)
    options.arguments = argv
    return config, options


def prediction_defaults(config: Config, options: Namespace) -> dict[str, Any]:
    """The fields that --predict takes from the run that made the model; none without it."""
    if options.predict is None:
        if options.output:
            raise UserError("--output: says where --predict writes; give that too")
        return {}
    if not options.predict:
        raise UserError("--predict: names no file")
    for name in ("test", "resume", "as_world_size", "seeds"):
        if getattr(options, name) not in (None, False, "never"):
            raise UserError(f"--predict: does not train; leave --{name} out")
    from warmup.training.predict import model_source  # which imports torch, as --help must not

    return model_source.config_defaults(config.model)


def check_options(config: Config, options: Namespace, argv: Sequence[str]) -> None:
    """Raise UserError where the options do not go together."""
    if options.as_world_size is not None and options.as_world_size < 1:
        raise UserError(f"as_world_size: {options.as_world_size} is not 1 or above")
    if options.test and options.resume not in (None, "never"):
        raise UserError("--test: tries a job from its start; leave --resume out")
    if options.seeds is None:
        return
    twice = [seed for seed in options.seeds if options.seeds.count(seed) > 1]
    if twice or not options.seeds:
        raise UserError(f"--seeds: {twice[0]} is named twice" if twice else "--seeds: names no seed")
    for seed in options.seeds:
        replace(config, seed=seed)  # refuses what is none
    if any(token.partition("=")[0] == "--seed" for token in argv):
        raise UserError("--seed and --seeds: give one")
    if options.test:
        raise UserError("--test: tries one run; leave --seeds out")
    if options.resume not in (None, "never", "auto"):
        raise UserError("--resume: seeds go on from the run directory of all of them: --resume auto")
    if config.log.push_to_hub:
        raise UserError("log.push_to_hub: one model is pushed; leave it out with --seeds, and push the one you choose")
