"""The command that kills runs in a phase: a few kills of each, and that it notices a run that ended otherwise."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import kill_runs
import pytest
from harness import Ended


@pytest.mark.slow
@pytest.mark.parametrize("name", kill_runs.PHASES)
def test_a_few_kills_in_each_phase(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMUP_CACHE", "")  # to be set back
    kills, runs = kill_runs.kill_runs(name, 2, 1, tmp_path)
    assert kills == 2 and runs >= 1


def test_other_numbers_are_noticed() -> None:
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    kill_runs.assert_same_lines(lines, lines, 0)
    other = [lines[0], {"step": 2, "loss": 1.0 + 1e-7}]
    kill_runs.assert_same_lines(other, lines, 1e-5)
    for wrong, tolerance in ((other, 0), (lines[:1], 1e-5)):
        with pytest.raises(AssertionError):
            kill_runs.assert_same_lines(wrong, lines, tolerance)


def test_a_sample_that_is_missing_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    run = Ended(codes=[0], folder=tmp_path)
    (tmp_path / "samples.jsonl").write_text('{"positions": [0, 2]}\n{"positions": [1]}\n')
    kill_runs.compare(run, run, exactly=False, sweep=False)
    (tmp_path / "samples.jsonl").write_text('{"positions": [0, 3]}\n{"positions": [1]}\n')
    with pytest.raises(AssertionError, match="a sample is missing"):
        kill_runs.compare(run, run, exactly=False, sweep=False)
    with pytest.raises(AssertionError):
        kill_runs.compare(dataclasses.replace(run, codes=[1]), run, exactly=False, sweep=False)


def test_a_phase_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["kill_runs.py", "lunch"])
    with pytest.raises(SystemExit):
        kill_runs.main()
    assert "there is no phase lunch; there are stream, sweep, " in capsys.readouterr().err
