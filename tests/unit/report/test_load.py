"""The files of a run directory as tables, whatever is missing or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_runs import eval_line, make_run, record, resumed_line, train_line

from warmup import report
from warmup.errors import UserError


def test_a_run_that_is_done(tmp_path: Path) -> None:
    run = report.load(make_run(tmp_path / "runs" / "mine"))
    assert run.name == "runs/mine" and run.plan is not None and run.plan.total_steps == 40
    assert run.train["step"].tolist() == list(range(1, 41)) and run.train["loss"].iloc[3] == 2.0
    assert "mfu" not in run.train  # never known
    assert run.evaluations["step"].tolist() == [20, 40] and run.evaluations["accuracy"].tolist() == [0.5, 0.5]
    assert run.record["step"] == 40 and list(run.record["per_class"]) == ["no", "yes"]


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    files = dict.fromkeys(("plan", "run", "result", "evaluation"))
    run = report.load(make_run(tmp_path / "run", [], **files))
    assert len(run.train) == len(run.evaluations) == 0 and "loss" in run.train
    assert (run.plan, run.result, run.record, run.events) == (None, {}, {}, [])


def test_lines_that_are_not_whole_or_not_of_a_log_are_passed_over(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [train_line(1)])
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'[]\n3\n{"kind": "train"}\n{"kind": 7, "step": 1}\n\xff\xfe\n' + b"[" * 100_000 + b"\n")
        file.write(json.dumps(train_line(2)).encode() + b'\n{"kind": "train", "step": 3, "lo')
    assert report.load(folder).train["step"].tolist() == [1, 2]


def test_columns_that_come_and_go(tmp_path: Path) -> None:
    lines = [train_line(1), train_line(2, mfu=0.5), train_line(3, loss=None), train_line(4, mfu=0.25, new=1)]
    train = report.load(make_run(tmp_path / "run", lines)).train
    assert train["mfu"].tolist() == pytest.approx([np.nan, 0.5, np.nan, 0.25], nan_ok=True)
    assert train["new"].tolist() == pytest.approx([np.nan] * 3 + [1.0], nan_ok=True)
    assert np.isnan(train["loss"][2]) and train["loss"][3] == 2.0


def test_the_time_goes_on_over_resumptions(tmp_path: Path) -> None:
    seconds = [10.0, 20.0, 3.0, 6.0, 1.0]
    lines = [train_line(step, seconds=value) for step, value in enumerate(seconds, 1)]
    run = report.load(make_run(tmp_path / "run", [*lines[:2], resumed_line(2), *lines[2:]]))
    assert run.train["seconds"].tolist() == [10.0, 20.0, 23.0, 26.0, 27.0]
    assert run.positions([1, 1.5, 5], "time").tolist() == [10.0, 15.0, 27.0]
    assert run.positions([1, 5], "samples").tolist() == [32.0, 160.0] and run.positions([3], "steps").tolist() == [3.0]


def test_logs_of_older_versions(tmp_path: Path) -> None:
    """Without times, and with another name of the position."""
    line = {name: value for name, value in train_line(1).items() if name not in ("seconds", "consumed_samples")}
    run = report.load(make_run(tmp_path / "run", [line | {"drawn": 64}], plan={"of": "another version"}))
    assert run.train["consumed_samples"].tolist() == [64] and np.isnan(run.train["seconds"][0]) and run.plan is None


def test_the_record_is_that_of_the_exported_model(tmp_path: Path) -> None:
    records = {"evaluations": [record(("a", "b"), 20), record(("a", "b"), 40)]}
    result = {"outcome": "done", "exported_step": 20}
    assert report.load(make_run(tmp_path / "best", evaluation=records, result=result)).record["step"] == 20
    assert report.load(make_run(tmp_path / "going on", evaluation=records, result=None)).record["step"] == 40


def test_a_sweep_stands_for_its_runs(tmp_path: Path) -> None:
    for seed in (10, 2):
        make_run(tmp_path / f"seed-{seed}", [eval_line(1)])
    (tmp_path / "seed-3").mkdir()  # not begun
    (tmp_path / "seeds.json").write_text("{}")
    assert [path.name for path in report.expand(tmp_path)] == ["seed-2", "seed-10"]
    assert report.expand(tmp_path / "seed-2") == [tmp_path / "seed-2"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the directory of a run, which holds metrics.jsonl"):
        report.load(tmp_path)
    (tmp_path / "seeds.json").write_text("{}")
    with pytest.raises(UserError, match="a sweep of seeds in which no run has begun"):
        report.expand(tmp_path)
