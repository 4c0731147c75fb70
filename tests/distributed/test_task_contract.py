"""What every task must do on ranks. A new one is tested by being in the registry and having a fixture of its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TINY
from harness import Ended, train
from pointing_task import registered, write_rows
from predictions import predict

from warmup.config.tasks import TASKS
from warmup.training.tasks import REGISTRY

STEPS = 6


@pytest.fixture(scope="module")
def pointing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """A task whose targets are groups of positions. Forked ranks find it registered."""
    rows = write_rows(tmp_path_factory.mktemp("pointing") / "rows.jsonl", 400)
    with registered():
        yield "--task", "pointing", "--data.train_files", str(rows), "--data.max_length", "64", *TINY


@pytest.fixture(params=[*REGISTRY, "pointing"])
def job(request: pytest.FixtureRequest) -> tuple[str, ...]:
    given = request.getfixturevalue(request.param.replace("-", "_"))
    given = (*given, "--recipe.reference_batch_size", "24")
    return (*given, "--recipe.duration", f"{STEPS} steps", "--recipe.warmup", "2 steps", "--recipe.lr", "1e-3")


def columns(ended: Ended) -> dict[str, list[float]]:
    return {name: ended.column(name) for name in ("loss", "grad_norm", "lr", "tokens")}


def test_the_same_on_one_two_and_three_ranks(job: tuple[str, ...], tmp_path: Path) -> None:
    """Losses, gradient norms and evaluation of a global batch of 24, cut into 1 x 24, 2 x 3 x 4 and 3 x 8; then the
    predictions of the first model, byte for byte.
    """
    task = job[1]
    cuts = {1: ("24", "1"), 2: ("4", "3"), 3: ("8", "1")}
    runs = {}
    for ranks, (per_device, accumulation) in cuts.items():
        cut = ("--batch.per_device", per_device, "--batch.accumulation", accumulation, "--dropout", "0")
        runs[ranks] = train(ranks, tmp_path / f"run-{ranks}", *job, *cut)
        assert runs[ranks].codes == [0] * ranks, (runs[ranks].status, runs[ranks].stderr[-2000:])
        assert len(runs[ranks].column("step")) == STEPS
        for name, values in columns(runs[ranks]).items():
            assert values == pytest.approx(columns(runs[1])[name], rel=1e-4), (ranks, name)
        evaluation = runs[ranks].of_kind("eval")[-1]
        assert evaluation["loss"] == pytest.approx(runs[1].of_kind("eval")[-1]["loss"], rel=1e-4)
        assert set(TASKS[task].metrics) <= evaluation.keys()
    if TASKS[task].no_prediction:
        return
    rows = tmp_path / "rows.jsonl"
    mask = "" if TASKS[task].label else " [MASK]"
    texts = [f"baran dotel{mask} kimis {'lumis ' * (number % 5)}" for number in range(11)]
    asked = {"choices": ["lumis", "kimis"], "question": "what comes after zab?"}
    records = [{"text": text, "words": text.split(), **asked} for text in texts]
    rows.write_text("".join(json.dumps(record) + "\n" for record in records))
    written = []
    for ranks in cuts:
        output = tmp_path / f"predictions-{ranks}.jsonl"
        ended = predict(ranks, output, "--model", tmp_path / "run-1", "--predict", rows)
        assert ended.codes == [0] * ranks, ended.status
        written.append(output.read_bytes())
    assert written[0].count(b"\n") == 11 and b"error" not in written[0] and len(set(written)) == 1
