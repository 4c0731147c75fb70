"""Search the rate and the warmup of a run with Optuna: each trial is a run of the command with other options.

Usage:  python launch/sweeps/optuna_sweep.py [--trials N] [--metric NAME] [--folder DIR] -- COMMAND
  e.g.  python launch/sweeps/optuna_sweep.py -- bash launch/cpu.sh 2 --config configs/quickstart_finetune.yaml
Writes: DIR/trial-N, the run directory of each trial, and DIR/study.log, with which the same command goes on.
Needs Optuna: pip install optuna
To edit: `suggest`, for other fields of train.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from warmup.config.tasks import TASKS


def suggest(trial: optuna.Trial) -> dict[str, object]:
    """The options of one trial, by the names of fields."""
    return {
        "recipe.lr": trial.suggest_float("recipe.lr", 1e-5, 1e-3, log=True),
        "recipe.warmup": trial.suggest_categorical("recipe.warmup", ["0%", "6%", "20%"]),
    }


def run(command: list[str], folder: Path, trial: optuna.Trial, metric: str) -> float:
    """Train once. Returns the held-out metric; a run that fails is a failed trial, and the search goes on."""
    run_dir = folder / f"trial-{trial.number}"
    options = {**suggest(trial), "run_dir": run_dir}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    ended = subprocess.run([*command, *words])
    if ended.returncode == 75:  # stopped, as by Ctrl-C
        raise KeyboardInterrupt
    if ended.returncode:
        raise RuntimeError(f"exit code {ended.returncode}")
    return json.loads((run_dir / "result.json").read_text())["metrics"][metric]


def main() -> None:
    parser = argparse.ArgumentParser(description="Search the rate and the warmup of a run with Optuna.")
    parser.add_argument("--trials", type=int, default=20, help="trials to add (default: 20)")
    parser.add_argument("--metric", default="accuracy", help="the held-out metric (default: accuracy)")
    parser.add_argument("--folder", type=Path, default=Path("runs/optuna"), help="default: runs/optuna")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command of one run")
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("give the command of one run after --")
    options.folder.mkdir(parents=True, exist_ok=True)
    lower = any(options.metric in facts.lower_is_better for facts in TASKS.values())
    study = optuna.create_study(
        study_name="bert-warmup",
        direction="minimize" if lower else "maximize",
        storage=JournalStorage(JournalFileBackend(str(options.folder / "study.log"))),
        load_if_exists=True,
    )
    study.optimize(
        lambda trial: run(command, options.folder, trial, options.metric), n_trials=options.trials, catch=RuntimeError
    )
    print(f"best: {study.best_value:.6g} with {study.best_params} in {options.folder}/trial-{study.best_trial.number}")


if __name__ == "__main__":
    main()
