"""Failures under the real launch scripts: who is named, what is left, and how it goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import ROOT, assert_each_sample_once, assert_same_end

from warmup.training import checkpoint

ENDLESS = ("--recipe.duration", "100000 steps")


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a launch script in the background, in `tmp_path`; ends with it whatever it left."""
    started = []

    def start(script: str, *argv: object, **env: str) -> subprocess.Popen:
        log = open(tmp_path / f"{len(started)}.log", "w+")  # noqa: SIM115 - a pipe would fill
        variables = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", **env)
        command = ["bash", str(ROOT / "launch" / script), *map(str, argv)]
        process = subprocess.Popen(command, cwd=tmp_path, env=variables, stderr=log, stdout=log, text=True)
        process.log = log.name
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
    for pid in _inside(tmp_path):
        os.kill(pid, signal.SIGKILL)


def _inside(folder: Path, *environment: str) -> list[int]:
    """Processes that were started in a folder and have these in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
            if (process / "cwd").resolve() == folder and {part.encode() for part in environment} <= set(variables):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def rank(folder: Path, number: int) -> int:
    """The process of a rank."""
    (pid,) = [pid for pid in _inside(folder, f"RANK={number}") if b"train.py" in _command(pid)]
    return pid


def launcher(folder: Path) -> int:
    """The process of `accelerate launch`."""
    (pid,) = [pid for pid in _inside(folder) if b"/accelerate\0launch\0" in _command(pid)]
    return pid


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended since
        return b""


def steps(run: Path) -> int:
    """The last step in the log, 0 before the first."""
    log = run / "metrics.jsonl"  # made a moment after its directory
    found = re.findall(r'"step": (\d+)', log.read_text()) if log.exists() else []
    return int(found[-1]) if found else 0


def wait_until(done: Callable[[], object], process: subprocess.Popen, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline and process.poll() is None, Path(process.log).read_text()
        time.sleep(0.01)


def ended(process: subprocess.Popen, seconds: float = 120) -> tuple[int, str]:
    """Exit code and output."""
    code = process.wait(timeout=seconds)
    text = Path(process.log).read_text()
    assert "Traceback" not in text
    return code, text


def errors(text: str) -> list[str]:
    return re.findall(r"(?:^|\r)[^\n]*?(error: .*)$", text, re.MULTILINE)


def test_sigterm_stops_and_the_next_start_goes_on(classification, tmp_path: Path, launch) -> None:
    """To the script, twice, while ranks save; then to the launcher, which gives its ranks 30 s."""
    job = (*classification, *ENDLESS, "--run_dir", "run", "--checkpoint.every", "3 steps")
    process = launch("cpu.sh", 2, *job)
    wait_until(lambda: steps(tmp_path / "run") > 5, process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    code, text = ended(process)
    assert code == 75, text
    (step,) = re.findall(r"^stopped: after step (\d+) of 50000; go on with --resume auto", text, re.MULTILINE)
    run = tmp_path / "run"
    result = json.loads((run / "result.json").read_text())
    assert result["outcome"] == "stopped" and result["step"] == int(step) == steps(run)
    newest, skipped = checkpoint.newest(run)
    assert checkpoint.step_of(newest) == int(step) and skipped == []

    process = launch("cpu.sh", 2, *job, "--resume", "auto")
    wait_until(lambda: steps(run) > int(step) + 5, process)
    os.kill(launcher(tmp_path), signal.SIGTERM)
    code, text = ended(process)
    assert code == 75, text
    assert f"resumed from run/checkpoints/step-{int(step):08d}: step {step} of 50000" in text
    newest, _ = checkpoint.newest(run)
    assert checkpoint.step_of(newest) == steps(run) > int(step) + 5


def test_a_peers_death_is_no_preemption_and_a_run_directory_has_one_run(classification, tmp_path: Path, launch) -> None:
    """The launcher sends SIGTERM to the other ranks when one dies: that is a failure. Before it, a second launcher
    is refused and the first goes on.
    """
    job = (*classification, *ENDLESS, "--run_dir", "run", "--checkpoint.every", "3 steps")
    process = launch("cpu.sh", 2, *job)
    run = tmp_path / "run"
    wait_until(lambda: steps(run) > 2, process)
    code, text = ended(launch("cpu.sh", 1, *job, "--resume", "auto"))
    assert code == 2 and errors(text) == [
        "error: run_dir: run is in use by another run; wait for it, or give another one"
    ]
    code, text = ended(launch("cpu.sh", 1, *job))
    assert code == 2 and "run_dir: run is occupied" in text
    before = steps(run)
    wait_until(lambda: steps(run) > before + 3, process)
    os.kill(rank(tmp_path, 1), signal.SIGKILL)
    code, text = ended(process)
    assert code == 1, text
    assert len(errors(text)) == 1
    assert "lost contact with another rank" in text or "killed by signal 9" in text or "exit code -9" in text
    newest, _ = checkpoint.newest(run)
    assert newest and not _inside(tmp_path, "RANK=0")


@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_rank_that_is_stopped_is_named_in_time(number: int, classification, tmp_path: Path, launch) -> None:
    """SIGSTOP: within --launch.timeout, and the 30 s that the launcher gives a rank to end."""
    process = launch("cpu.sh", 2, *classification, *ENDLESS, "--run_dir", "run", "--launch.timeout", 6)
    wait_until(lambda: steps(tmp_path / "run") > 2, process)
    time.sleep(2)  # the ranks have told the store of themselves
    os.kill(rank(tmp_path, number), signal.SIGSTOP)
    began = time.monotonic()
    code, text = ended(process, 60)
    assert code == 1 and time.monotonic() - began < 6 + 30 + 8, text
    (error,) = errors(text)
    assert error.startswith(f"error: rank {number} does not answer: stopped, or its machine is gone")


def test_a_killed_launcher_leaves_no_ranks_behind(classification, tmp_path: Path, launch) -> None:
    process = launch("cpu.sh", 2, *classification, *ENDLESS, "--run_dir", "run")
    wait_until(lambda: steps(tmp_path / "run") > 2, process)
    os.kill(launcher(tmp_path), signal.SIGKILL)
    code, text = ended(process)
    assert code == 1 and len(errors(text)) == 1, text
    assert not _inside(tmp_path, "RANK=0") and not _inside(tmp_path, "RANK=1")


def elastic_job(mlm: tuple[str, ...]) -> tuple[object, ...]:
    cut = ("--batch.global_size", 24, "--batch.per_device", 2, "--recipe.reference_batch_size", 24)
    return (*mlm, *cut, "--recipe.duration", "80 steps", "--checkpoint.every", "2 steps", "--log.samples", "true")


@pytest.mark.slow
def test_ten_killed_ranks_in_a_row(mlm, tmp_path: Path, launch) -> None:
    """One rank, now this and now that, killed at ten steps: each time the next attempt goes on by itself, and the
    weights are those of a run that was left alone.
    """
    code, text = ended(launch("cpu.sh", 2, *elastic_job(mlm), "--run_dir", "whole"))
    assert code == 0, text
    process = launch("elastic.sh", "cpu", "2:2", *elastic_job(mlm), "--run_dir", "run")
    run = tmp_path / "run"
    for number in range(10):
        wait_until(lambda number=number: steps(run) >= 7 * number + 5, process)
        os.kill(rank(tmp_path, number % 2), signal.SIGKILL)
        wait_until(lambda: not _inside(tmp_path, "RANK=0") and not _inside(tmp_path, "RANK=1"), process)
    code, text = ended(process)
    assert code == 0, text
    assert len(re.findall("elastic: 2 ranks failed; starting again in 1 s from run/checkpoints/step-", text)) == 10
    assert_same_end(run, tmp_path / "whole")
    assert_each_sample_once(run)


# Put in the place of Python's own on a path of its own: rank 2 ends before it has begun.
GONE = "import os\nif os.environ.get('RANK') == '2': os._exit(1)\n"


@pytest.mark.slow
def test_with_a_rank_gone_for_good_it_goes_on_smaller(mlm, tmp_path: Path, launch) -> None:
    process = launch("elastic.sh", "cpu", "1:3", *elastic_job(mlm), "--run_dir", "run")
    run = tmp_path / "run"
    wait_until(lambda: steps(run) >= 9, process)
    (tmp_path / "gone").mkdir()
    process.terminate()  # between the two, to give the second one another path
    assert ended(process)[0] == 75
    (tmp_path / "gone" / "sitecustomize.py").write_text(GONE)
    code, text = ended(
        launch("elastic.sh", "cpu", "1:3", *elastic_job(mlm), "--run_dir", "run", PYTHONPATH=str(tmp_path / "gone")),
        240,
    )
    assert code == 0, text
    assert text.count("elastic: 3 ranks failed; starting again") == 2
    resumed = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if '"resumed"' in line]
    assert [(line["world_size_before"], line["world_size"]) for line in resumed] == [(3, 2)]
    assert resumed[0]["global_batch_size"] == 24
    assert_each_sample_once(run)


@pytest.mark.slow
def test_it_gives_up_where_nothing_comes_of_it(mlm, tmp_path: Path, launch) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "sitecustomize.py").write_text(GONE.replace("'2'", "'0'"))
    began = time.monotonic()
    job = (*elastic_job(mlm), "--run_dir", "run")
    code, text = ended(launch("elastic.sh", "cpu", "2:2", *job, PYTHONPATH=str(tmp_path / "gone"), WARMUP_RESTARTS="2"))
    assert code == 1
    assert errors(text)[-1] == "error: gave up after 3 attempts without a new checkpoint; the newest is none"
    assert time.monotonic() - began > 1 + 2  # it backed off


def test_the_elastic_script_refuses_what_it_cannot_do(tmp_path: Path, launch) -> None:
    for arguments in ((), ("cpu",), ("tpus", 2), ("cpu", "0:2"), ("cpu", "3:2"), ("cpu", 2, "--resume", "auto")):
        code, text = ended(launch("elastic.sh", *arguments))
        assert code == 2 and len(errors(text)) == 1, arguments
    code, text = ended(launch("elastic.sh", "cpu", 1, "--recipe.warmpu", "6%"))  # the user's to mend: no second attempt
    assert code == 2 and errors(text) == ["error: recipe.warmpu: no such field; did you mean recipe.warmup?"]
