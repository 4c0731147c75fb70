"""Output that nobody reads any more, or that cannot be written: the training goes on to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT

SHORT = ("--recipe.duration", "6 steps", "--recipe.warmup", "0 steps")
READERS = {
    "head": "2>&1 | head -n 3",
    "stdout alone": "2>err | true",
    "stderr alone": "2>&1 >out | head -n 1",
    "a full disk": ">/dev/full 2>&1",
}


@pytest.mark.parametrize(("script", "reader", "options"), [
    ("cpu.sh 1", "head", ()),
    ("elastic.sh cpu 2:2", "head", ()),
    pytest.param("cpu.sh 2", "stdout alone", (), marks=pytest.mark.slow),
    pytest.param("cpu.sh 2", "stderr alone", (), marks=pytest.mark.slow),
    pytest.param("cpu.sh 2", "head", ("--traceback",), marks=pytest.mark.slow),
    pytest.param("cpu.sh 1", "a full disk", (), marks=pytest.mark.slow),
    pytest.param("cpu.sh 2", "a full disk", ("--seeds", "[1,2]"), marks=pytest.mark.slow),
])  # fmt: skip
def test_it_trains_to_the_end(script: str, reader: str, options, classification, tmp_path: Path) -> None:
    name, *size = script.split()
    words = [str(ROOT / "launch" / name), *size, *classification, *SHORT, "--run_dir", "run", *options]
    line = 'bash "$@" ' + READERS[reader] + "\necho ${PIPESTATUS[0]} >code"
    env = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    subprocess.run(["bash", "-c", line, "bash", *words], cwd=tmp_path, env=env, capture_output=True, timeout=120)
    assert (tmp_path / "code").read_text() == "0\n"
    runs = [tmp_path / "run" / f"seed-{seed}" for seed in (1, 2)] if "--seeds" in options else [tmp_path / "run"]
    for run in runs:
        result = json.loads((run / "result.json").read_text())
        assert (result["outcome"], result["step"]) == ("done", 6 // result["world_size"])
        assert (run / "model" / "model.safetensors").is_file()


def test_a_refusal_keeps_its_exit_code(tmp_path: Path) -> None:
    env = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    line = 'bash "$0" 1 --recipe.warmpu 1 2>&1 | true; echo ${PIPESTATUS[0]}'
    ended = subprocess.run(
        ["bash", "-c", line, str(ROOT / "launch" / "cpu.sh")], cwd=tmp_path, env=env, capture_output=True, timeout=60
    )
    assert ended.stdout == b"2\n"
