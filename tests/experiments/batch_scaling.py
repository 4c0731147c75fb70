"""What the scaling rules keep the same, and what they do not: one small BERT at a quarter to 16 times its batch size.

    python tests/experiments/batch_scaling.py --out runs/batch-scaling

Masked language modelling on the docstrings of the installed packages (or on --text FILE) with SGD and with AdamW, by a
BERT of 2 layers, 64 wide, on windows of 16 tokens. The learning rate of each optimizer is first tuned at the reference
batch of 32, by doubling and halving it until neither is better (seed 0, with warmup); SGD is also run at a quarter of
that. Then every rule of RULES is run at k = 1/4, 1, 4 and 16 with three seeds, over the same 24,576 samples: a seed
fixes the initial weights, the order of samples and the masks, so that runs of one seed differ by nothing else. Every
number of a run comes from its plan, and it is trained by the code of train.py.

Everything goes to the folder --out: a file per run, the table and the picture. A command that was killed goes on from
the runs that are there. It takes about half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import torch  # noqa: E402
from batch_scaling_report import Experiment, read_runs, write_report  # noqa: E402
from transformers import BertConfig, BertForMaskedLM  # noqa: E402

from warmup.config import Batch, Config, Data, Recipe  # noqa: E402
from warmup.plan import Topology  # noqa: E402
from warmup.planning import make_plan  # noqa: E402
from warmup.training.data.prepare import prepare_data  # noqa: E402
from warmup.training.files import write_json  # noqa: E402
from warmup.training.run import setup  # noqa: E402
from warmup.training.run.arguments import default_options  # noqa: E402
from warmup.training.run.seed_sweep import free_memory  # noqa: E402
from warmup.training.run.setup import Launched  # noqa: E402
from warmup.training.run.trial import run_trial  # noqa: E402
from warmup.training.tasks import create_task  # noqa: E402

REFERENCE, SAMPLES, EVALUATIONS = 32, 24_576, 8
SCALES = (Fraction(1), Fraction(1, 4), Fraction(4), Fraction(16))
SEEDS = (0, 1, 2)
CAUTIOUS = "sgd at a quarter of the rate"
"""A recipe that is not at the edge of what trains, as a tuned one of SGD is."""
START_LR = {"sgd": 0.125, "adamw": 2e-3}
"""Where the search for the learning rate at the reference batch begins."""
RULES: dict[str, dict[str, Any]] = {
    "unscaled": {"scaling": "none"},
    "linear, no warmup": {"scaling": "linear", "warmup": "0 steps"},
    "linear": {"scaling": "linear"},
    "sqrt": {"scaling": "sqrt"},
    "scaled: all": {"scaled": "all"},
}
PLANNED = (
    "optimizer", "global_batch_size", "peak_lr", "warmup_steps", "total_steps", "betas", "eps", "momentum",
    "weight_decay",
)  # fmt: skip
"""The numbers of a plan in which runs differ."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where everything is written")
    parser.add_argument("--text", metavar="FILE", help="train on this file (.txt: a document per line)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = base_config(options.out, options.text)
    launched = setup.start(base, default_options())
    torch.set_num_threads(1)  # the matrices are too small for more
    tuned = {optimizer: tune(optimizer, base, launched, options.out) for optimizer in START_LR}
    rates = {"sgd": tuned["sgd"], CAUTIOUS: tuned["sgd"] / 4, "adamw": tuned["adamw"]}
    runs = list(all_runs(rates))
    for number, (name, change) in enumerate(runs, start=1):
        result = run_once(name, changed(base, options.out, **change), launched, options.out)
        print(f"{number}/{len(runs)} {name}: {summary(result)}", flush=True)
    found = read_runs(options.out / "runs")
    write_report(options.out, Experiment(found, run_name, rates, SEEDS, tuple(RULES), SCALES))


def base_config(out: Path, text: str | None) -> Config:
    """What all runs share. Makes the models with their initial weights, one per seed, unless they are there."""
    new = Config(
        model="tiny",
        dropout=0.0,
        data=Data(train_files=(text,) if text else (), max_length=16, vocab_size=1000),
        batch=Batch(evaluation=512),
        recipe=Recipe(
            reference_batch_size=REFERENCE, duration=f"{SAMPLES} samples", warmup="10%", max_grad_norm=0
        ),
    )  # fmt: skip
    tokenizer = prepare_data(new, create_task(new)).tokenizer
    shape = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256,
        max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    for seed in SEEDS:
        if not (model_folder(out, seed) / "tokenizer.json").is_file():
            torch.manual_seed(seed)
            BertForMaskedLM(shape).save_pretrained(model_folder(out, seed))
            tokenizer.save_pretrained(model_folder(out, seed))
    return new


def model_folder(out: Path, seed: int) -> Path:
    return out / "initial" / f"seed-{seed}"


def changed(base: Config, out: Path, seed: int, scale: Fraction, **recipe: Any) -> Config:
    """A run's configuration.

    Args:
        base: what all runs share.
        out: the folder of the initial weights.
        seed: of this run.
        scale: k, of which the batch follows.
        recipe: fields of the recipe that differ.
    """
    size = int(REFERENCE * scale)
    batch = replace(base.batch, per_device=min(size, 128), global_size=size)
    return replace(
        base, seed=seed, model=str(model_folder(out, seed)), batch=batch, recipe=replace(base.recipe, **recipe)
    )


def all_runs(rates: dict[str, float]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and change of every run. `rates`: the learning rate at the reference batch of each optimizer."""
    for seed in SEEDS:
        for scale in SCALES:
            for tuned, lr in rates.items():
                for rule, recipe in RULES.items():
                    change = {"seed": seed, "scale": scale, "optimizer": tuned.split()[0], "lr": lr, **recipe}
                    yield run_name(tuned, scale, rule, seed), change


def run_name(tuned: str, scale: Fraction, rule: str, seed: int) -> str:
    return f"{tuned} k={str(scale).replace('/', 'over')} {rule} seed {seed}".replace(":", "").replace(",", "")


def tune(optimizer: str, base: Config, launched: Launched, out: Path) -> float:
    """The learning rate at the reference batch: the best of a factor-2 grid, which is walked to its minimum."""

    def loss(lr: float) -> float:
        config = changed(base, out, 0, Fraction(1), optimizer=optimizer, lr=lr)
        result = run_once(f"tune {optimizer} {lr:.4g}", config, launched, out)
        print(f"tuning {optimizer}: lr {lr:.4g}: {summary(result)}", flush=True)
        return float("inf") if result["diverged"] else result["loss"]

    best = START_LR[optimizer]
    while True:
        better = min((best / 2, best, 2 * best), key=loss)
        if better == best:
            return best
        best = better


def run_once(name: str, config: Config, launched: Launched, out: Path) -> dict[str, Any]:
    """The result of a run, which is made unless there is one of the same plan and seed."""
    path = out / "runs" / f"{name}.json"
    if not path.is_file():
        began = time.perf_counter()
        plan = make_plan(config.recipe, Topology.from_batch(config.batch, 1))
        numbers = {"seed": config.seed, **{field: getattr(plan, field) for field in PLANNED}}
        numbers = json.loads(json.dumps(numbers))
        result = next((run for run in read_runs(path.parent).values() if run["plan"] == numbers), None)
        if result is None:
            every = SAMPLES // EVALUATIONS
            trial = run_trial(config, launched, range(every, SAMPLES, every))
            free_memory(launched.accelerator, None)
            loss = None if trial.diverged else trial.loss
            result = {"plan": numbers, "held_out": trial.held_out, "diverged": trial.diverged, "loss": loss}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**result, "seconds": round(time.perf_counter() - began, 2)})
    return json.loads(path.read_text(encoding="utf-8"))


def summary(result: dict[str, Any]) -> str:
    return f"{result['diverged'] or format(result['loss'], '.3f')} ({result['seconds']:.0f} s)"


if __name__ == "__main__":
    main()
