"""bert-base in bf16 against transformers' Trainer and a plain loop: tests/benchmarks/compare.py on one GPU."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from harness import ROOT

GOALS = {"plain": 3.0, "trainer-best": 1.3}
"""How many times as fast train.py is to be."""


def test_against_the_trainer_and_a_plain_loop(text: Path, device: str, tmp_path: Path) -> None:
    work, precision = ("tiny", "no") if device == "cpu" else ("base", "bf16")
    command = [sys.executable, ROOT / "tests" / "benchmarks" / "compare.py", "--works", work, "--ranks", 1]
    command += ["--precision", precision, "--turns", 3, "--text", text, "--out", tmp_path]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(
        [str(word) for word in command], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=560
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-3000:]
    rates = json.loads((tmp_path / "compare.json").read_text())["works"][work]["samples_per_second"]
    print("\n" + ended.stdout)
    for name, theirs in rates.items():
        ratio = statistics.median(own / other for own, other in zip(rates["ours"], theirs, strict=True))
        goal = f" (goal {GOALS[name]:.1f}: {'reached' if ratio >= GOALS[name] else 'missed'})" if name in GOALS else ""
        print(f"PROBE train.py is {ratio:.2f} times as fast as {name}{goal}")
