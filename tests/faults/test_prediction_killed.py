"""A prediction that is stopped or killed leaves neither a part of its output nor its data."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from launching import ended, inside, wait_until


@pytest.mark.slow
def test_it_leaves_nothing(classification, tmp_path: Path, launch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    job = (*classification, "--recipe.duration", "1 steps", "--recipe.warmup", "0 steps", "--run_dir", "run")
    assert ended(launch("cpu.sh", 1, *job))[0] == 0
    (tmp_path / "rows.csv").write_text("text\n" + "some words of a text\n" * 30_000)
    words = ("cpu.sh", 1, "--model", "run", "--predict", "rows.csv", "--output")

    def scratch() -> list[Path]:
        return list(temporary.glob("warmup-prediction-*/*"))

    process = launch(*words, "stopped.jsonl", TMPDIR=str(temporary))
    wait_until(scratch, process)
    process.terminate()
    code, _ = ended(process, 20)
    assert code == 75 and not list(temporary.glob("warmup*"))

    process = launch(*words, "killed.jsonl", TMPDIR=str(temporary))
    wait_until(scratch, process)
    for pid in inside(tmp_path):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    left = scratch()
    assert left

    (tmp_path / "rows.csv").write_text("text\nsome words\n")
    code, text = ended(launch(*words, "done.jsonl", TMPDIR=str(temporary)))
    assert code == 0, text
    assert not scratch() and not list(temporary.glob("warmup-prediction*"))
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["done.jsonl"]
