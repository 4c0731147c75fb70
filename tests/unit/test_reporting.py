"""The run directory, and what is written into it: whole files, and lines with exactly the promised keys."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from warmup.clock import StepClock
from warmup.config import Recipe
from warmup.lint import Finding
from warmup.plan import Topology, make_plan
from warmup.training import reporting
from warmup.training.outcome import UserError

PLAN = make_plan(
    Recipe(lr=1e-3, reference_batch_size=32, warmup="10%", duration="5 epochs", max_lr=0.0015),
    Topology(2, 16, 2),
    num_samples=1000,
)


# The run directory


def test_an_occupied_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    occupied, file, empty = tmp_path / "occupied", tmp_path / "file", tmp_path / "empty"
    occupied.mkdir()
    (occupied / ".hidden").write_text("mine")
    file.write_text("mine")
    empty.mkdir()
    for path in (occupied, file):
        for refuse in (reporting.refuse_occupied, lambda path: reporting.create_run_directory(path, "mlm")):
            with pytest.raises(UserError, match=rf"^run_dir: {path} is occupied; give another one, or remove it$"):
                refuse(str(path))
    for path in (str(empty), str(tmp_path / "new" / "nested"), None):
        reporting.refuse_occupied(path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".hidden", "empty", "file", "occupied"]


def test_directories_that_are_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "new" / "nested"):
        assert reporting.create_run_directory(str(path), "mlm") == path and path.is_dir()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"^run_dir: {tmp_path}/file/run cannot be made: Not a directory$"):
        reporting.create_run_directory(str(tmp_path / "file" / "run"), "mlm")


def test_the_default_is_the_task_and_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    made = reporting.create_run_directory(None, "classification")
    assert re.fullmatch(r"runs/classification-\d{8}T\d{6}Z", str(made)) and made.is_dir()

    class Frozen(reporting.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 2, 3, 4, 5, 6, tzinfo=tz)

    monkeypatch.setattr(reporting, "datetime", Frozen)
    names = [str(reporting.create_run_directory(None, "mlm")) for _ in range(3)]  # all within one second
    stem = "runs/mlm-20310203T040506Z"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]


def test_files_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    reporting.write_json(path, {"a": [1, 2.5], "b": "é"})
    assert json.loads(path.read_text()) == {"a": [1, 2.5], "b": "é"} and path.read_text().endswith("}\n")
    before = path.read_text()

    def half(self: Path, text: str, **_) -> None:
        with open(self, "w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(OSError):
            reporting.write(path, "something else")
    assert path.read_text() == before
    reporting.write(path, "ü\n")
    assert path.read_bytes() == "ü\n".encode() and os.listdir(tmp_path) == ["result.json"]


# What a person reads


def test_the_plan_as_a_table() -> None:
    finding = Finding("overrun", "warning", "recipe.duration: too long")
    table = reporting.plan_table(PLAN, [finding], {"data": "a" * 30, "run directory": "runs/x"})
    assert table.splitlines() == [
        "  global batch     64 samples                2 ranks x 2 micro-batches x 16",
        "  reference batch  32 samples                scale k = 2",
        "  peak lr          0.0015                    0.001 by the rule linear, capped from 0.002 by max_lr",
        "  warmup           8 steps                   512 samples, 10.1% of the run; the same samples at any batch; "
        "linear from 0",
        "  duration         79 steps                  5056 samples, 5.056 epochs; 56 beyond duration",
        "  decay            linear                    to 0",
        "  optimizer        adamw                     betas 0.9, 0.999, eps 1e-08, weight decay 0.01",
        "  data             " + "a" * 30,
        "  run directory    runs/x",
        "  warning [overrun]: recipe.duration: too long",
    ]


def test_the_summary(tmp_path: Path) -> None:
    for name in ("plan.json", "metrics.jsonl", ".hidden"):
        (tmp_path / name).write_text("")
    result = {"outcome": "done", "step": 7, "total_steps": 9, "wall_seconds": 1.5, "metrics": {"loss": 1 / 3, "n": 8}}
    assert reporting.summary(tmp_path, result).splitlines() == [
        "done after step 7 of 9, 1.5 s",
        "  held-out metrics: loss 0.333333, n 8",
        f"  wrote {tmp_path}/metrics.jsonl",
        f"  wrote {tmp_path}/plan.json",
    ]
    assert "held-out metrics: none" in reporting.summary(tmp_path, result | {"metrics": {}})


def test_versions() -> None:
    import torch

    found = reporting.versions()
    assert list(found) == ["python", "torch", "accelerate", "transformers", "datasets"]
    assert found["torch"] == torch.__version__ and re.fullmatch(r"\d+\.\d+\.\d+\S*", found["python"])
    assert json.loads(json.dumps(found)) == found


# metrics.jsonl


class Tracking(SimpleNamespace):
    """What Log uses of an Accelerator."""

    def __init__(self, main: bool = True):
        super().__init__(is_main_process=main, project_configuration=SimpleNamespace(logging_dir=None), logged=[])
        self.trackers: list = []

    def init_trackers(self, name: str) -> None:
        pass

    def log(self, values: dict, step: int) -> None:
        self.logged.append((step, values))


def clock(steps: int = 5, skipped: int = 1) -> StepClock:
    made = StepClock(batch_size=64, num_samples=1000)
    for _ in range(steps):
        made.advance(tokens=100)
    for _ in range(skipped):
        made.advance(applied=False)
    return made


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_training_line_has_exactly_the_promised_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((10.0, 12.0, 12.5))
    monkeypatch.setattr(reporting.time, "perf_counter", lambda: next(times))
    accelerator = Tracking()
    log = reporting.Log(tmp_path, 79, accelerator)
    log.train(clock(5), lr=1e-3, loss=2.5, grad_norm=0.75)
    log.train(clock(6), lr=2e-3, loss=1.5, grad_norm=0.5)
    assert lines(tmp_path) == [  # on disk at once, not only after close
        {
            "kind": "train", "step": 5, "samples": 320, "drawn": 384, "tokens": 500, "epoch": 0.384, "lr": 1e-3,
            "loss": 2.5, "grad_norm": 0.75, "samples_per_second": 160.0, "tokens_per_second": 250.0,
        },
        {
            "kind": "train", "step": 6, "samples": 384, "drawn": 448, "tokens": 600, "epoch": 0.448, "lr": 2e-3,
            "loss": 1.5, "grad_norm": 0.5, "samples_per_second": 128.0, "tokens_per_second": 200.0,
        },
    ]  # fmt: skip
    order = ["kind", "step", "samples", "drawn", "tokens", "epoch", "lr", "loss", "grad_norm"]
    assert list(lines(tmp_path)[0]) == [*order, "samples_per_second", "tokens_per_second"]
    assert accelerator.project_configuration.logging_dir == str(tmp_path)
    step, values = accelerator.logged[0]
    assert step == 5 and values["train/lr"] == 1e-3 and values["train/loss"] == 2.5
    assert set(values) == {f"train/{name}" for name in lines(tmp_path)[0] if name not in ("kind", "step")}
    log.close()


def test_an_evaluation_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = reporting.Log(tmp_path, 79, Tracking())
    log.evaluation(clock(5), {"loss": 1 / 3, "accuracy": 0.5, "targets": 8.0})
    assert lines(tmp_path) == [{"kind": "eval", "step": 5, "loss": 1 / 3, "accuracy": 0.5, "targets": 8.0}]
    assert capsys.readouterr().err == "step 5: loss 0.333333, accuracy 0.5, targets 8\n"
    log.close()


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_a_skipped_step_is_a_line_of_strict_json(tmp_path: Path, norm: float) -> None:
    log = reporting.Log(tmp_path, 79, Tracking())
    step = SimpleNamespace(grad_norm=norm, indices=np.array([7, 3], np.int64))
    log.skipped(clock(5), step)

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    (line,) = (json.loads(text, parse_constant=refuse) for text in (tmp_path / "metrics.jsonl").open())
    assert line == {
        "kind": "skipped", "step": 5, "samples": 320, "drawn": 384, "tokens": 500, "grad_norm": str(norm),
        "sample_ids": [7, 3],
    }  # fmt: skip
    log.close()


def test_other_ranks_write_and_say_nothing(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    log = reporting.Log(tmp_path, 79, Tracking(main=False))
    log.advance()
    log.train(clock(), 1e-3, 2.5, 0.75)
    log.evaluation(clock(), {"loss": 1.0})
    log.say("x")
    log.tell("y")
    log.close()
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_results_go_to_stdout_and_words_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = reporting.Log(tmp_path, 79, Tracking())
    log.say("to a person")
    log.tell("to a program")
    log.close()
    assert capsys.readouterr() == ("to a program\n", "to a person\n")


def test_a_full_disk_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = reporting.Log(tmp_path, 79, Tracking())
    with pytest.raises(UserError, match=r"metrics\.jsonl: No space left on device$"):
        log.evaluation(clock(), {"loss": 1.0})
    log.close()  # and this does not hide it behind an error of its own
