"""Fine-tuning by train.py against transformers' Trainer: what it comes to, and how long it takes.

    python tests/benchmarks/finetuning.py --model FOLDER --squad xquad_en.json --emotions goemotions.tsv
        --entities wnut17_train.conll wnut17_dev.conll [--seeds 1,2,3] [--epochs 2] [--lr 2e-4] [--threads 2]

Sets, as far as their files are given: `squad`, questions in SQuAD's format, the last 8 articles held out; `emotions`,
GoEmotions, the last tenth of the comments held out; `entities`, words and tags, in two files. Contenders, one process
each, on CPU, one after the other for each seed:

    ours      train.py with the preset of the task
    trainer   transformers' Trainer with the usual preprocessing: question answering is padded to the maximum length,
              the others to the longest of each batch

Both have the preset's maximum length, stride, batch (32; questions in four passes), weight decay and schedule, the same
epochs, rate, threads and allocator settings, and are evaluated once, at the end. The rate is that of a small encoder,
above the presets'. Predictions of both are scored by the same code (tuning_sets.py). Times are those of the training
steps alone, and of the whole process: imports, tokenisation, training, evaluation (for the Trainer the prediction,
which for ours is one more process that is not counted) and saving; seconds, and processor time, which depends less on
what else runs.

Each finished run is a line of OUT/runs.jsonl, and is not repeated: a command that was stopped goes on where it is given
again. OUT/finetuning.json has conditions and results, OUT/finetuning.md the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from tuners import Job, predict_ours  # noqa: E402
from tuning_sets import SETS  # noqa: E402

CONTENDERS = ("ours", "trainer")
TIMES = ("training_seconds", "training_processor", "total_seconds", "total_processor")
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_MAX_": "0"}  # as launch/cpu.sh has it


def run(job: Job, threads: int) -> dict[str, Any]:
    """One run in a process of its own. Returns its times and scores."""
    job.folder.mkdir(parents=True)
    log = job.folder / "log"
    env = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    began, used = time.perf_counter(), _processor()
    with open(log, "w") as file:
        ended = subprocess.run(job.command(), env=env, stdout=file, stderr=file)
    seconds, processor = time.perf_counter() - began, _processor() - used
    if ended.returncode:
        raise SystemExit(f"{job.contender} did not come through:\n{log.read_text()[-3000:]}")
    if job.contender == "ours":
        predict_ours(job)
    training = json.loads((job.folder / "training.json").read_text())
    return {
        "set": job.work,
        "contender": job.contender,
        "seed": job.seed,
        "scores": job.set.score(job.set.held_out_file(job.data), job.predictions),
        **{f"training_{name}": value for name, value in training.items()},
        "total_seconds": seconds,
        "total_processor": processor,
    }


def _processor() -> float:
    """Seconds of processor time of all processes that were started and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def all_runs(options: argparse.Namespace, folder: Path) -> Iterator[Job]:
    """Seed by seed, so that one that is stopped early has compared something of each set."""
    for seed, work, contender in product(options.seeds, SETS, options.contenders):
        if getattr(options, work):
            yield Job(contender, work, seed, folder / work, options.model, options.epochs, options.lr)


def split(options: argparse.Namespace, job: Job) -> None:
    if not job.data.exists():
        job.data.mkdir(parents=True)
        job.set.split(getattr(options, job.work), job.set.train_file(job.data), job.set.held_out_file(job.data))


def of(results: list[dict], work: str, contender: str, name: str) -> list[float]:
    """What the runs of a contender have, seed by seed."""
    mine = sorted((run for run in results if (run["set"], run["contender"]) == (work, contender)), key=_seed)
    return [run[name] if name in run else run["scores"][name] for run in mine]


def _seed(run: dict) -> int:
    return run["seed"]


def tables(results: list[dict]) -> str:
    """Markdown: scores of both, and how many times as fast ours is, over the seeds that both have."""
    both = [run for run in results if all(_has(results, run, contender) for contender in CONTENDERS)]
    lines = ["| set | score | seeds | train.py | Trainer |", "|---|---|---|---|---|"]
    for work in SETS:
        for score in next((run["scores"] for run in both if run["set"] == work), ()):
            cells = [_spread(of(both, work, contender, score)) for contender in CONTENDERS]
            lines.append(f"| {work} | {score} | {len(of(both, work, 'ours', score))} | {' | '.join(cells)} |")
    lines += ["", "| set | time | train.py | Trainer | ratio |", "|---|---|---|---|---|"]
    for work, name in product(SETS, TIMES):
        if ours := of(both, work, "ours", name):
            other = of(both, work, "trainer", name)
            ratios = [slow / fast for slow, fast in zip(other, ours, strict=True)]
            middle = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            means = [f"{statistics.mean(values):.1f} s" for values in (ours, other)]
            lines.append(f"| {work} | {name.replace('_', ', ')} | {' | '.join(means)} | {middle} |")
    return "\n".join(lines)


def _has(results: list[dict], run: dict, contender: str) -> bool:
    return any(
        (other["set"], other["seed"], other["contender"]) == (run["set"], run["seed"], contender) for other in results
    )


def _spread(values: list[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """What the results depend on. Results of others are not mixed with them."""
    from warmup.training.reporting import hardware

    return {
        "threads": options.threads,
        "epochs": options.epochs,
        "lr": options.lr,
        "cores": os.cpu_count(),
        "processor": hardware.processor(),
        "instructions": hardware.instructions(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a folder with a small pretrained encoder")
    for work, count in (("squad", 1), ("emotions", 1), ("entities", 2)):
        parser.add_argument(f"--{work}", type=Path, nargs=count, metavar="FILE")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmark"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "runs.jsonl"
    found = conditions(options)
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    results = [run for run in known if run["conditions"] == found]
    with tempfile.TemporaryDirectory() as folder:
        for job in all_runs(options, Path(folder)):
            if any(
                (job.work, job.contender, job.seed) == (run["set"], run["contender"], run["seed"]) for run in results
            ):
                continue
            split(options, job)
            results.append(run(job, options.threads))
            with open(file, "a") as lines:
                lines.write(json.dumps({**results[-1], "conditions": found}) + "\n")
            print(json.dumps(results[-1]), flush=True)
    (options.out / "finetuning.json").write_text(json.dumps({"conditions": found, "runs": results}, indent=1) + "\n")
    (options.out / "finetuning.md").write_text(tables(results) + "\n")
    print(tables(results))


if __name__ == "__main__":
    main()
