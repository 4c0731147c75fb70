"""What the probes share: where they run, the text, and a run of train.py.

With WARMUP_PROBES=cpu they run on the CPU with a tiny model, to try their own code; the figures mean nothing then.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import ROOT

ON_CPU = os.environ.get("WARMUP_PROBES") == "cpu"
MEGABYTES = 0.3 if ON_CPU else 6
DEADLINE_S = 240


@dataclass(frozen=True)
class Run:
    """A run of train.py that came to its end."""

    folder: Path
    lines: list[dict]
    """Those of its log that are of training."""
    stderr: str
    seconds: float

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self.lines]

    def said(self, word: str) -> str:
        """What follows a word at the beginning of a line of stderr."""
        lines = [line for line in self.stderr.splitlines() if line.startswith(word)]
        assert len(lines) == 1, self.stderr[-3000:]
        return lines[0].removeprefix(word).strip()


@pytest.fixture(scope="session", autouse=True)
def device() -> str:
    """cuda; everything is skipped where there is no GPU since Ampere."""
    if ON_CPU:
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("the GPU is older than Ampere")
    return "cuda"


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PyTorch's own sources, each file a document of one line, so that samples have 128 tokens."""
    path, size = tmp_path_factory.mktemp("text") / "sources.txt", 0.0
    with path.open("w", encoding="utf-8") as file:
        for source in sorted(Path(torch.__file__).parent.rglob("*.py")):
            words = " ".join(source.read_text(encoding="utf-8", errors="ignore").split())
            if len(words) > 4000 and size < MEGABYTES * 1e6:
                size += file.write(words + "\n")
    return path


@pytest.fixture
def run_command(device: str, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Runs a command that ends in options of train.py, and reads the log of its run, which is removed afterwards: a
    checkpoint of bert-base takes more than a gigabyte.
    """

    def run(command: Sequence[object], *options: object, folder: Path | None = None, **env: str) -> Run:
        folder = folder or tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        words = [*command, "--run_dir", folder, "--recipe.warmup", "10 steps", *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        if ON_CPU:
            environment["OMP_NUM_THREADS"] = "1"
        began = time.monotonic()
        ended = subprocess.run(
            [str(word) for word in words], env=environment | env, cwd=ROOT, capture_output=True, text=True,
            timeout=DEADLINE_S,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr[-3000:]
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        trained = [line for line in lines if line["kind"] == "train"]
        return Run(folder, trained, ended.stderr, time.monotonic() - began)

    yield run
    shutil.rmtree(tmp_path)


@pytest.fixture
def train(device: str, text: Path, run_command: Callable[..., Run]) -> Callable[..., Run]:
    """Trains bert-base on sequences of 128 in one process, by default without dropout in micro-batches of 32.

    `before` is executed first, in that process. Further arguments are environment variables.
    """

    def run(*options: object, steps: int = 20, before: str = "", folder: Path | None = None, **env: str) -> Run:
        given: dict[str, Any] = {"task": "mlm", "config": ROOT / "tests" / "defaults.yaml", "data.train_files": text}
        given |= {"model": "tiny" if ON_CPU else "base", "data.max_length": 128, "batch.per_device": 32, "dropout": 0}
        given |= {"recipe.duration": f"{steps} steps", "recipe.scaling": "none", "log.every": 1}
        given |= {"checkpoint.every": "null", "launch.device": device, "data.validation_fraction": 0.002}
        if ON_CPU:
            given |= {"data.vocab_size": 500, "data.validation_fraction": 0.1, "batch.per_device": 4}
            options = tuple(4 if isinstance(option, int) else option for option in options)
        code = f"import sys, torch\n{before}\nimport train\nsys.exit(train.main(sys.argv[1:]))"
        words = [word for name, value in given.items() for word in (f"--{name}", value)]
        env = {"ACCELERATE_MIXED_PRECISION": "bf16"} | env
        if ON_CPU:
            env["ACCELERATE_MIXED_PRECISION"] = "no"
        return run_command([sys.executable, "-c", code, *words], *options, folder=folder, **env)

    return run
