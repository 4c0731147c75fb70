"""Failures under the real launch scripts: who is named, what is left, and how it goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from harness import assert_each_sample_once, assert_same_end
from launching import ended, errors, inside, launcher, rank, steps, wait_until

from warmup.training.checkpoints import format as checkpoint_format

ENDLESS = ("--recipe.duration", "100000 steps")


def test_sigterm_stops_and_the_next_start_goes_on(classification, tmp_path: Path, launch) -> None:
    """To the script, twice, while ranks save; then to the launcher, which gives its ranks 30 s."""
    job = (*classification, *ENDLESS, "--run_dir", "run", "--checkpoint.every", "3 steps")
    process = launch("cpu.sh", 2, *job)
    wait_until(lambda: steps(tmp_path / "run") > 5, process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    code, text = ended(process)
    assert code == 75, text
    (step,) = re.findall(
        r"^stopped: after step (\d+) of 50000; go on with bash .*launch/cpu.sh 2 --resume auto", text, re.MULTILINE
    )
    assert "\r" not in text and "\x1b" not in text  # it is no terminal
    run = tmp_path / "run"
    assert (run / "report.html").is_file()
    result = json.loads((run / "result.json").read_text())
    assert result["outcome"] == "stopped" and result["step"] == int(step) == steps(run)
    newest, skipped = checkpoint_format.newest_valid(run)
    assert checkpoint_format.step_of(newest) == int(step) and skipped == []

    process = launch("cpu.sh", 2, *job, "--resume", "auto")
    wait_until(lambda: steps(run) > int(step) + 5, process)
    os.kill(launcher(tmp_path), signal.SIGTERM)
    code, text = ended(process)
    assert code == 75, text
    assert f"resumed from run/checkpoints/step-{int(step):08d}: step {step} of 50000" in text
    newest, _ = checkpoint_format.newest_valid(run)
    assert checkpoint_format.step_of(newest) == steps(run) > int(step) + 5


@pytest.mark.slow
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
    newest, _ = checkpoint_format.newest_valid(run)
    assert newest and not inside(tmp_path, "RANK=0")


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
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
    assert not inside(tmp_path, "RANK=0") and not inside(tmp_path, "RANK=1")


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
        wait_until(lambda: not inside(tmp_path, "RANK=0") and not inside(tmp_path, "RANK=1"), process)
    code, text = ended(process)
    assert code == 0, text
    assert len(re.findall("elastic: 2 ranks failed; starting again in 1 s from run/checkpoints/step-", text)) == 10
    assert_same_end(run, tmp_path / "whole")
    assert_each_sample_once(run)


@pytest.mark.slow
def test_the_same_elastic_command_continues_in_the_yaml_files_run_directory(mlm, tmp_path: Path, launch) -> None:
    (tmp_path / "job.yaml").write_text("run_dir: runs/mine\ncheckpoint:\n  every: 2 steps\n")
    job = ("elastic.sh", "cpu", 1, "--config", "job.yaml", *mlm, *ENDLESS)
    run = tmp_path / "runs" / "mine"
    for turn in range(2):
        before = steps(run)
        process = launch(*job)
        wait_until(lambda before=before: steps(run) > before + 3, process)
        process.terminate()
        code, text = ended(process)
        assert code == 75 and ("resumed from runs/mine/checkpoints/step-" in text) == (turn == 1), text
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


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
