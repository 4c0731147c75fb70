"""Tables and messages for the user, and log lines with exactly the documented keys."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from warmup.clock import StepClock
from warmup.config.recipe import Recipe
from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.lint import Finding
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.training.reporting import log as reporting_log
from warmup.training.reporting.console import library_versions, model_text, plan_table, summary

PLAN = make_plan(
    Recipe(lr=1e-3, reference_batch_size=32, warmup="10%", duration="5 epochs", max_lr=0.0015),
    Topology(2, 16, 2),
    num_samples=1000,
)


# Text for the user


def test_the_plan_as_a_table() -> None:
    finding = Finding("overrun", "warning", "recipe.duration: too long")
    table = plan_table(PLAN, [finding], {"data": "a" * 30, "run directory": "runs/x"})
    assert table.splitlines() == [
        "  global batch     64 samples                2 ranks x 2 micro-batches x 16 samples",
        "  reference batch  32 samples                scale k = global batch / reference batch = 2",
        "  peak lr          0.0015                    lr 0.001 x k (linear scaling), capped from 0.002 by max_lr",
        "  warmup           8 steps                   512 samples, 10.1% of the run; linear from 0; the number of "
        "samples is the same at any batch size",
        "  duration         79 steps                  5056 samples, 5.056 epochs; the last step runs 56 samples "
        "past the requested duration",
        "  decay            linear                    to 0",
        "  optimizer        adamw                     betas 0.9, 0.999, eps 1e-08, weight decay 0.01",
        "  data             " + "a" * 30,
        "  run directory    runs/x",
        "  warning [overrun]: recipe.duration: too long",
    ]


def test_the_summary(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    result = {"outcome": "done", "step": 7, "total_steps": 9, "wall_seconds": 1.5, "metrics": {"loss": 1 / 3, "n": 8}}
    assert summary(folder, result, TASKS["classification"], "report: x.html").splitlines() == [
        "done after step 7 of 9 in 1.5 s",
        "  held-out metrics: loss 0.333333, n 8",
        f"  run directory: {folder}",
        "  report: x.html",
        f"  predict: python train.py --predict FILE --model '{folder}'",
    ]
    lines = summary(folder, result | {"metrics": {}, "outcome": "stopped"}, TASKS["mlm"], "").splitlines()
    assert lines[1] == "  held-out metrics: none"
    assert lines[-1] == f"  resume: the same command with --resume auto --run_dir '{folder}'"
    assert 'pipeline("text-generation"' in summary(folder, result, TASKS["clm"], "")
    for step, of_step in ((7, ""), (None, ""), (3, " of step 3")):
        text = summary(folder, result | {"exported_step": step}, TASKS["mlm"], "")
        assert f"  held-out metrics{of_step}: loss" in text


def test_the_model_and_its_new_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_text("bert-base-uncased", []) == "bert-base-uncased"
    assert model_text("tiny", ["all"]) == "tiny, new weights: all (random initialisation)"
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    beside = "tiny, new weights: all (random initialisation); the folder tiny is not read, --model ./tiny would"
    assert model_text("tiny", ["all"]) == beside
    assert model_text("./tiny", []) == "./tiny"
    text = "bert, new weights: classifier.weight, classifier.bias (random initialisation)"
    assert model_text("bert", ["classifier.weight", "classifier.bias"]) == text


def test_versions() -> None:
    import torch

    versions = library_versions()
    assert list(versions) == ["python", "torch", "accelerate", "transformers", "datasets"]
    assert versions["torch"] == torch.__version__ and re.fullmatch(r"\d+\.\d+\.\d+\S*", versions["python"])
    assert json.loads(json.dumps(versions)) == versions


# metrics.jsonl


class Tracking(SimpleNamespace):
    """What Log uses of an Accelerator, and of trackers."""

    def __init__(self, main: bool = True):
        super().__init__(is_main_process=main, logged=[], finished=0)

    def finish(self) -> None:
        self.finished += 1

    def log(self, values: dict, step: int) -> None:
        self.logged.append((step, values))


def clock(steps: int = 5, skipped: int = 1) -> StepClock:
    clock = StepClock(batch_size=64, num_samples=1000)
    for _ in range(steps):
        clock.advance(tokens=100)
    for _ in range(skipped):
        clock.advance(applied=False)
    return clock


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


THROUGHPUT = {"samples_per_second": 160.0, "mfu": None}


def test_a_training_line_has_exactly_the_documented_keys(tmp_path: Path) -> None:
    accelerator = Tracking()
    log = reporting_log.Log(tmp_path, accelerator, trackers=accelerator)
    log.train(clock(5), lr=1e-3, loss=2.5, grad_norm=0.75, figures=THROUGHPUT)
    log.train(clock(6), lr=2e-3, loss=1.5, grad_norm=0.5, figures=THROUGHPUT)
    assert lines(tmp_path) == [  # on disk at once, not only after close
        {
            "kind": "train", "step": 5, "samples": 320, "consumed_samples": 384, "tokens": 500, "epoch": 0.384,
            "lr": 1e-3, "loss": 2.5, "grad_norm": 0.75, "samples_per_second": 160.0, "mfu": None,
        },
        {
            "kind": "train", "step": 6, "samples": 384, "consumed_samples": 448, "tokens": 600, "epoch": 0.448,
            "lr": 2e-3, "loss": 1.5, "grad_norm": 0.5, "samples_per_second": 160.0, "mfu": None,
        },
    ]  # fmt: skip
    order = ["kind", "step", "samples", "consumed_samples", "tokens", "epoch", "lr", "loss", "grad_norm"]
    assert list(lines(tmp_path)[0]) == [*order, *THROUGHPUT]
    step, values = accelerator.logged[0]
    assert step == 5 and values["train/lr"] == 1e-3 and values["train/loss"] == 2.5
    assert set(values) == {f"train/{name}" for name in lines(tmp_path)[0] if name not in ("kind", "step", "mfu")}
    log.close()
    assert accelerator.finished == 1


def test_a_line_about_a_checkpoint(tmp_path: Path) -> None:
    accelerator = Tracking()
    log = reporting_log.Log(tmp_path, accelerator, trackers=accelerator)
    log.saved(clock(5), 0.25)
    assert lines(tmp_path) == [{"kind": "checkpoint", "step": 5, "consumed_samples": 384, "seconds_waited": 0.25}]
    assert accelerator.logged == [(5, {"checkpoint/consumed_samples": 384, "checkpoint/seconds_waited": 0.25})]
    log.close()


def test_a_line_about_a_spike(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = reporting_log.Log(tmp_path, Tracking())
    log.spike(clock(5), loss=9.87654, score=12.34)
    assert lines(tmp_path) == [{"kind": "spike", "step": 5, "consumed_samples": 384, "loss": 9.87654, "score": 12.34}]
    assert capsys.readouterr().err == (
        "warning: the loss jumped to 9.877 in the step before step 5, 12.3 robust standard deviations above its "
        "median\n"
    )
    log.close()


FACTS = {
    "from": "runs/x/checkpoints/step-00000005",
    "world_size_before": 4, "world_size": 3,
    "global_batch_size_before": 64, "global_batch_size": 48,
    "lr_before": 1e-3, "lr": 7.5e-4,
}  # fmt: skip


def test_a_line_about_what_a_run_is_resumed_from(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = reporting_log.Log(tmp_path, Tracking())
    log.resumed(clock(5), 79, FACTS)
    position = {"step": 5, "samples": 320, "consumed_samples": 384, "tokens": 500}
    assert lines(tmp_path) == [{"kind": "resumed", **position, "remaining_steps": 74, **FACTS}]
    assert capsys.readouterr().err.splitlines() == [
        "resumed from runs/x/checkpoints/step-00000005: step 5 of 79, 320 samples",
        "  ranks: 4 before, 3 now",
        "  global batch: 64 before, 48 now",
        "  learning rate of the next step: 0.001 before, 0.00075 now",
    ]
    log.resumed(clock(5), 79, FACTS | {"world_size": 4, "global_batch_size": 64, "lr": 1e-3})
    assert len(capsys.readouterr().err.splitlines()) == 1  # nothing has changed
    log.close()


def test_the_samples_of_each_step_if_requested(tmp_path: Path) -> None:
    log = reporting_log.Log(tmp_path, Tracking(), samples=True)
    log.computed(clock(5), [320, 322, 321], [7, 3, 12], applied=True)
    log.computed(clock(5, skipped=2), [384], [1], applied=False)
    assert lines(tmp_path, "samples.jsonl") == [  # on disk at once
        {"step": 5, "consumed_samples": 384, "applied": True, "positions": [320, 322, 321], "ids": [7, 3, 12]},
        {"step": 5, "consumed_samples": 448, "applied": False, "positions": [384], "ids": [1]},
    ]
    assert lines(tmp_path) == []
    log.close()
    assert log._file.closed and log._samples.closed


def test_a_resumed_log_keeps_its_lines(tmp_path: Path) -> None:
    for step in (5, 6):
        log = reporting_log.Log(tmp_path, Tracking(), samples=True)
        log.evaluation(clock(step), {"loss": 1.0})
        log.computed(clock(step), [0], [0], applied=True)
        log.close()
    assert [[line["step"] for line in lines(tmp_path, name)] for name in ("metrics.jsonl", "samples.jsonl")] == [
        [5, 6],
        [5, 6],
    ]


def test_no_samples_unless_requested(tmp_path: Path) -> None:
    log = reporting_log.Log(tmp_path, Tracking())
    log.computed(clock(5), [320], [7], applied=True)
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_an_evaluation_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = reporting_log.Log(tmp_path, Tracking())
    log.evaluation(clock(5), {"loss": 1 / 3, "accuracy": 0.5, "targets": 8.0})
    assert lines(tmp_path) == [
        {"kind": "eval", "step": 5, "consumed_samples": 384, "loss": 1 / 3, "accuracy": 0.5, "targets": 8.0}
    ]
    assert capsys.readouterr().err == "step 5, held-out data: loss 0.333333, accuracy 0.5, targets 8\n"
    log.close()


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_a_skipped_step_is_a_line_of_strict_json(tmp_path: Path, norm: float) -> None:
    log = reporting_log.Log(tmp_path, Tracking())
    log.skipped(clock(5), sample_ids=[7, 3], grad_norm=norm)

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    (line,) = (json.loads(text, parse_constant=refuse) for text in (tmp_path / "metrics.jsonl").open())
    assert line == {
        "kind": "skipped", "step": 5, "samples": 320, "consumed_samples": 384, "tokens": 500, "grad_norm": str(norm),
        "sample_ids": [7, 3],
    }  # fmt: skip
    log.close()


def test_a_skipped_step_names_the_loss_scale(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = reporting_log.Log(tmp_path, Tracking())
    log.skipped(clock(5), [7, 3], float("inf"), loss_scale=1024.0)
    (line,) = lines(tmp_path)
    assert list(line) == ["kind", *clock(5).state_dict(), "grad_norm", "loss_scale", "sample_ids"]
    assert (line["loss_scale"], line["grad_norm"]) == (1024.0, "inf")
    text = "the step after step 5 was skipped: its gradient norm was inf at a loss scale of 1024, which is halved\n"
    assert capsys.readouterr().err == text
    log.close()


@pytest.mark.parametrize(("number", "text"), [(1, "1 row: r0"), (2, "2 rows: r0; r1"), (4, "4 rows: r0; r1; r2")])
def test_skipped_rows_of_a_stream(tmp_path: Path, capsys: pytest.CaptureFixture, number: int, text: str) -> None:
    log = reporting_log.Log(tmp_path, Tracking())
    rows = [f"r{index}" for index in range(number)]
    log.skipped_rows(clock(5), tuple(rows))
    assert lines(tmp_path) == [{"kind": "left out", "step": 5, "consumed_samples": 384, "rows": rows}]
    assert capsys.readouterr().err == f"skipped {text}\n"
    log.close()


def test_other_ranks_write_and_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    log = reporting_log.Log(tmp_path, Tracking(main=False), samples=True)
    log.begin(79, 79 * 64)
    log.advance(clock())
    log.train(clock(), 1e-3, 2.5, 0.75, THROUGHPUT)
    log.evaluation(clock(), {"loss": 1.0})
    log.saved(clock(), 0.25)
    log.spike(clock(), 9.0, 12.0)
    log.resumed(clock(), 79, FACTS)
    log.computed(clock(), [320], [7], applied=True)
    log.skipped(clock(), [7], float("nan"))
    log.skipped_rows(clock(), ["a.csv, line 3: no text"])
    log.print("x")
    log.print_result("y")
    log.close()
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_results_go_to_stdout_and_messages_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = reporting_log.Log(tmp_path, Tracking())
    log.print("to a person")
    log.print_result("to a program")
    log.close()
    assert capsys.readouterr() == ("to a program\n", "to a person\n")


def test_a_full_disk_is_a_user_error(tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "samples.jsonl"):
        (tmp_path / name).symlink_to("/dev/full")
    log = reporting_log.Log(tmp_path, Tracking(), samples=True)
    with pytest.raises(UserError, match=r"metrics\.jsonl: No space left on device$"):
        log.evaluation(clock(), {"loss": 1.0})
    with pytest.raises(UserError, match=r"samples\.jsonl: No space left on device$"):
        log.computed(clock(), [320], [7], applied=True)
    log.close()  # and this does not hide it behind an error of its own
