"""Progress on a pseudo terminal and in a pipe."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from warmup.batch_schedule import BatchSchedule
from warmup.clock import StepClock
from warmup.duration import seconds_text
from warmup.terminal import highlight, is_terminal
from warmup.training.reporting import log as reporting_log
from warmup.training.reporting import progress

RANK_0: Any = SimpleNamespace(is_main_process=True)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Make stderr a terminal of 100 columns. Returns a function that returns what was written to it."""
    reader, writer = os.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stderr", stream)

    def read() -> str:
        stream.write("<end>")
        stream.flush()
        text = ""
        while not text.endswith("<end>"):
            text += os.read(reader, 65536).decode()
        return text.removesuffix("<end>")

    return read


def train(log: reporting_log.Log, now: list[float], steps: int, seconds: float) -> None:
    """Steps of so many seconds, with 50 tokens each and losses 1, 2, 3 ..."""
    clock = StepClock(batch_size=4, num_samples=100)
    log.begin(steps, 4 * steps)
    for step in range(1, steps + 1):
        now[0] += seconds
        clock.advance(tokens=50)
        log.advance(clock, float(step - 1) if step > 1 else None, "in 5 min")


def test_plain_lines_in_a_pipe(tmp_path: Path, now: list[float], capsys: pytest.CaptureFixture) -> None:
    log = reporting_log.Log(tmp_path, RANK_0)
    train(log, now, steps=100, seconds=0.9)  # 90 s
    log.print("warning: careful")
    log.close()
    text = capsys.readouterr().err
    assert "\r" not in text and "\x1b" not in text
    shared = "  1.11 steps/s  56 tokens/s"
    assert text.splitlines() == [
        "about 1 min 26 s for the other 95 steps",  # after 3.6 s for 4 steps
        f"step 13/100  loss 6.5{shared}  next save in 5 min  1 min 18 s left",
        f"step 47/100  loss 23.5{shared}  next save in 5 min  48 s left",
        f"step 81/100  loss 40.5{shared}  next save in 5 min  17 s left",
        "warning: careful",
        f"step 100/100  loss 50{shared}",
    ]


def test_the_time_left_of_steps_that_get_longer(
    tmp_path: Path, now: list[float], capsys: pytest.CaptureFixture
) -> None:
    """A batch that grows from 4 to 8 samples: a step takes a second, and half a second for each of its samples."""
    schedule = BatchSchedule(size=8, start_size=4, warmup_samples=40)
    clock, end = StepClock(schedule), 400
    log = reporting_log.Log(tmp_path, RANK_0)
    log.begin(clock.steps_to(end), end)
    while clock.samples < end:
        now[0] += 1 + clock.batch_size / 2
        clock.advance(tokens=50)
        log.advance(clock, 1.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "about 2 min 33 s for the other 51 steps"  # 3 s each, as the first two
    for line in lines[1:]:
        step, total = map(int, line.split()[1].split("/"))
        left = total - step + (end - schedule.position(step)) / 2
        assert line.endswith(f"  {seconds_text(left)} left"), line
    assert len(lines) == 9
    log.close()


def test_at_most_one_line_in_an_interval(tmp_path: Path, now: list[float], capsys: pytest.CaptureFixture) -> None:
    log = reporting_log.Log(tmp_path, RANK_0)
    train(log, now, steps=10_000, seconds=0.25)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert len(lines) == 1 + int((2500 - 0.25 - progress.LINE_SECONDS / 3) // progress.LINE_SECONDS)
    last_step = int(lines[-1].split()[1].partition("/")[0])
    assert f"  loss {last_step - 50.5:.4g}  " in lines[-1]  # the mean of the last hundred
    log.close()


def test_a_bar_on_a_terminal_is_gone_before_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    log = reporting_log.Log(tmp_path, RANK_0)
    clock = StepClock(batch_size=4, num_samples=100)
    log.begin(3, 12)
    for _ in range(3):
        clock.advance(tokens=50)
        log.advance(clock, 2.0, "at step 3")
    log.close_progress()
    log.print("done\nwarning: careful\n  error [overrun]: too long")
    log.close()
    bar, _, rest = terminal().partition("done")
    assert re.search(r"\rtraining 100%\|.*\| 3/3, loss 2, .* tokens/s, next save at step 3", bar)
    assert max(len(line) for line in re.split("[\r\n]+", bar)) <= 100
    assert rest == "\r\n\x1b[33mwarning: careful\x1b[0m\r\n\x1b[31m  error [overrun]: too long\x1b[0m\r\n"


def test_no_colours_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    open_terminal(monkeypatch)
    assert highlight("warning: x", sys.stderr) != "warning: x" == highlight("warning: x", sys.stdout)
    assert highlight("a warning: x", sys.stderr) == "a warning: x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert highlight("warning: x", sys.stderr) == "warning: x" and is_terminal(sys.stderr)
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal(sys.stderr)


def test_a_bar_for_a_phase_only_on_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    assert list(progress.track(range(3), "evaluating", True)) == [0, 1, 2]
    assert "evaluating" in terminal()
    assert list(progress.track(range(3), "evaluating", False)) == [0, 1, 2]
    monkeypatch.setenv("TERM", "dumb")
    assert list(progress.track(range(3), "evaluating", True)) == [0, 1, 2]
    assert terminal() == ""
