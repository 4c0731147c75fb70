"""The command of a model card, copied and executed elsewhere, trains the same model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT, train


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh folder with what a clone of the repository has."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("train.py", "launch", "configs", "warmup"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_a_cards_command_gives_the_same_metrics(documents: Path, clone: Path, tmp_path: Path) -> None:
    given = ("--data.train_files", documents, "--model", "tiny", "--data.vocab_size", 200, "recipe.lr=2e-3")
    run = train(2, tmp_path / "run", "--config", ROOT / "configs" / "quickstart_pretrain.yaml", *given,
                "--recipe.duration", "6 steps")  # fmt: skip
    assert run.codes == [0, 0], (run.status, run.stderr[-2000:])
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    command = re.search(r"```bash\n(.*)\n```", card)[1]
    assert command == (
        "bash launch/cpu.sh 2 --config configs/quickstart_pretrain.yaml --data.train_files "
        f'{documents.name} --model tiny --data.vocab_size 200 --recipe.lr 2e-3 --recipe.duration "6 steps"'
    )
    shutil.copy(documents, clone)
    env = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    ended = subprocess.run(["bash", "-c", command], cwd=clone, env=env, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    (again,) = (clone / "runs").glob("*/result.json")
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert json.loads(again.read_text())["metrics"] == pytest.approx(metrics, rel=1e-5)
    assert metrics["targets"] > 0
