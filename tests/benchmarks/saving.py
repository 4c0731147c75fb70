"""What a checkpoint costs the training: the wait for its copy, and the steps that its writing slows down.

    python tests/benchmarks/saving.py [--model small] [--ranks 2] [--steps 48] [--every 12]

Trains on the docstrings of the installed packages with --checkpoint.every, and reads the times of the steps from
metrics.jsonl. The cost of a save is the time of the run beyond that of as many steps of median length, over the saves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    for name, default in (("ranks", 2), ("steps", 48), ("every", 12), ("batch", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = run(Path(folder) / "run", options)
    print(report(lines, options.batch, options.every))


def run(folder: Path, options: argparse.Namespace) -> list[dict]:
    """The log of a training."""
    job = {
        "task": "mlm",
        "model": options.model,
        "data.max_length": 128,
        "batch.global_size": options.batch,
        "batch.per_device": options.batch,
        "recipe.reference_batch_size": options.batch,
        "recipe.duration": f"{options.steps} steps",
        "log.every": 1,
        "checkpoint.every": f"{options.every} steps",
        "run_dir": folder,
    }
    arguments = [str(part) for name, value in job.items() for part in (f"--{name}", value)]
    subprocess.run(["bash", ROOT / "launch" / "cpu.sh", str(options.ranks), *arguments], check=True)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def report(lines: list[dict], batch: int, every: int) -> str:
    """The costs in words, of all saves but the one at the end, which nothing trains behind."""
    seconds = {line["step"]: batch / line["samples_per_second"] for line in lines if line["kind"] == "train"}
    waits = {line["step"]: line["seconds_waited"] for line in lines if line["kind"] == "checkpoint"}
    waits.pop(max(seconds))
    # The first interval warms up; a save's wait falls into the time of the step after it, so do its slower steps.
    counted = [step for step in seconds if step > every]
    median = statistics.median(seconds[step] for step in counted)
    beyond = sum(seconds[step] for step in counted) - median * len(counted)
    after = [seconds[step + 1] / median for step in waits]
    wait = statistics.median(waits.values())
    spread = statistics.quantiles([seconds[step] for step in counted], n=4)
    return "\n".join(
        (
            f"step: median {median:.3f} s, quartiles {spread[0]:.3f} to {spread[2]:.3f} s, {len(counted)} steps",
            f"wait for the copy: median {wait:.3f} s, longest {max(waits.values()):.3f} s, {len(waits)} saves: "
            f"{wait / median:.2f} steps",
            f"step after a save: median {statistics.median(after):.2f} steps",
            f"whole cost of a save, its writing beside the training included: {beyond / len(waits) / median:.2f} steps",
        )
    )


if __name__ == "__main__":
    main()
