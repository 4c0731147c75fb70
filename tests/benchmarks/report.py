"""What the report of a long run costs: seconds, memory, and the size of the page.

    python tests/benchmarks/report.py [--steps 1000000]

Makes a log of so many lines (a temporary file of about 450 bytes each), and runs `python -m warmup report` on it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))


def main() -> None:
    from made_runs import make_run, train_line

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", [])
        with open(run / "metrics.jsonl", "w") as log:
            for step in range(1, steps + 1):
                noise = 0.1 * (step * 7919 % 1000) / 1000
                log.write(json.dumps(train_line(step, loss=4 / step**0.1 + noise, grad_norm=1 + noise)) + "\n")
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "warmup", "report", str(run)], cwd=ROOT, check=True, capture_output=True)
        seconds = time.perf_counter() - began
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        size = (run / "report.html").stat().st_size / 1000
    print(f"{steps} steps: {seconds:.1f} s, {memory:.0f} MB, a page of {size:.0f} kB")


if __name__ == "__main__":
    main()
