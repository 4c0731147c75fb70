"""The GLUE suite by its launch script: stopped in the middle and started again."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from conftest import make_tokenizer
from made_glue import write_glue
from transformers import AutoModelForMaskedLM

from warmup.training.models import build as model_build


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tokenizer = make_tokenizer()
    spec = model_build.ModelSpec("tiny", AutoModelForMaskedLM, max_length=64, seed=0)
    model_build.build_model(spec, tokenizer)[0].save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.slow
def test_stopped_and_started_again(launch, model: Path, tmp_path: Path) -> None:
    """The first task goes on from its checkpoint, and the table is of both."""
    write_glue(tmp_path / "glue", ("cola", "stsb"), train=320, held_out=40)
    argv = ("glue.sh", "glue", "--model", model, "--seeds", 3, "--tasks", "cola,stsb", "--run_dir", "out", "--ranks", 1)
    argv += ("--recipe.duration", "4 epochs", "--log.every", 1)
    first = launch(*argv)
    log, deadline = tmp_path / "out" / "cola" / "seed-3" / "metrics.jsonl", time.monotonic() + 90
    while not (log.exists() and log.stat().st_size) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 75, Path(first.log).read_text()
    assert "stopped: the same command goes on" in Path(first.log).read_text()
    assert launch(*argv).wait(180) == 0, Path(launch.started[-1].log).read_text()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["kind"] for line in lines].count("resumed") == 1
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 41))
    scores = json.loads((tmp_path / "out" / "glue.json").read_text())["tasks"]
    for name in ("cola", "stsb"):
        result = json.loads((tmp_path / "out" / name / "seed-3" / "result.json").read_text())["metrics"]
        assert scores[name]["metrics"]["3"] == {metric: result[metric] for metric in scores[name]["mean"]}
    for name, labels in (("CoLA", {"0", "1"}), ("STS-B", None)):
        rows = [line.split("\t") for line in (tmp_path / "out" / "submission" / f"{name}.tsv").read_text().splitlines()]
        assert rows[0] == ["index", "prediction"] and [row[0] for row in rows[1:]] == [str(row) for row in range(40)]
        answers = {row[1] for row in rows[1:]}
        assert answers <= labels if labels else all(0 <= float(answer) <= 5 for answer in answers)
