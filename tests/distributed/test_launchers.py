"""The real launchers, once each: what they start, and the mistakes that they make easy."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import ROOT, free_port

BIN = Path(sys.executable).parent
CPU_2 = str(ROOT / "configs" / "accelerate" / "cpu_2.yaml")
TRAIN = str(ROOT / "train.py")


def shell(*command: object, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    variables = dict(os.environ, PATH=f"{BIN}:{os.environ['PATH']}", GLOO_SOCKET_IFNAME="lo", **env)
    return subprocess.run(
        [str(part) for part in command], cwd=folder, env=variables, capture_output=True, text=True, timeout=240
    )


def losses(text: str) -> list[str]:
    return re.findall(r"^step .* loss (\S+) ", text, re.MULTILINE)


@pytest.fixture
def job(classification: tuple[str, ...]) -> tuple[str, ...]:
    return (*classification, "--batch.per_device", "8", "--batch.accumulation", "2", "--test")


def test_accelerate_torchrun_and_one_process_train_the_same(job: tuple[str, ...], tmp_path: Path) -> None:
    accelerate = shell(BIN / "accelerate", "launch", "--config_file", CPU_2, TRAIN, *job, folder=tmp_path)
    assert accelerate.returncode == 0, accelerate.stderr
    assert "PASS" in accelerate.stdout and len(losses(accelerate.stdout)) == 5
    assert "2 ranks x 2 micro-batches x 8" in accelerate.stderr

    # torchrun on a machine without GPUs: two ranks that each trained alone, if train.py did not say cpu=True.
    port = f"--master-port={free_port()}"
    torchrun = shell(BIN / "torchrun", "--nproc-per-node=2", port, TRAIN, *job, folder=tmp_path)
    assert torchrun.returncode == 0, torchrun.stderr
    assert torchrun.stdout == accelerate.stdout
    assert "2 ranks x 2 micro-batches x 8" in torchrun.stderr

    alone = shell(BIN / "accelerate", "launch", "--cpu", TRAIN, *job, "--as-world-size", 2, folder=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert [float(loss) for loss in losses(alone.stdout)] == pytest.approx(
        [float(loss) for loss in losses(accelerate.stdout)], rel=1e-6
    )
    assert not list(tmp_path.iterdir())  # the test mode leaves nothing behind


def test_without_arguments_it_is_the_quickstarts_pretraining(tmp_path: Path) -> None:
    ended = shell(BIN / "accelerate", "launch", "--cpu", TRAIN, "--test", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "PASS  5 steps of 4000" in ended.stdout
    rates = [float(rate) for rate in re.findall(r"^step \d  lr (\S+)", ended.stdout, re.MULTILINE)]
    assert rates == pytest.approx([1e-3 * step / 400 for step in range(1, 6)])


def test_one_process_where_several_were_asked_for(job: tuple[str, ...], tmp_path: Path) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process and says nothing."""
    launch = (BIN / "accelerate", "launch", "--cpu", "--num_processes", 2, TRAIN)
    ended = shell(*launch, *job, folder=tmp_path)
    assert ended.returncode != 0
    assert "error: launcher: several processes were asked for and one was started" in ended.stderr
    ended = shell(*launch, *job[:-1], "--launch.world_size", 2, folder=tmp_path)  # without --test
    assert ended.returncode != 0
    assert "bash launch/cpu.sh" in ended.stderr


def test_ranks_that_do_not_see_each_other(job: tuple[str, ...], tmp_path: Path) -> None:
    """What launchers that only set WORLD_SIZE, or DeepSpeed and FSDP without GPUs, would start."""
    ended = shell(sys.executable, TRAIN, *job, folder=tmp_path, WORLD_SIZE="2")
    assert ended.returncode == 2
    assert "error: launcher: WORLD_SIZE is 2, but RANK or MASTER_ADDR is missing" in ended.stderr
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        ended = shell(sys.executable, TRAIN, *job, folder=tmp_path, **{name: "true"})
        assert ended.returncode == 2
        assert "error: launcher: " in ended.stderr and "is not supported" in ended.stderr


def _start(*argv: object, folder: Path) -> subprocess.Popen:
    env = dict(os.environ, PATH=f"{BIN}:{os.environ['PATH']}")
    command = ["bash", str(ROOT / "launch" / "cpu.sh"), "2", *map(str, argv), "--run_dir", "run"]
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _wait_for_step(folder: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    metrics = folder / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.1)


def test_sigterm_to_the_launch_script_stops_cleanly(classification: tuple[str, ...], tmp_path: Path) -> None:
    process = _start(*classification, "--recipe.duration", "100000 steps", folder=tmp_path)
    _wait_for_step(tmp_path, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert re.search(r"^stopped: after step \d+ of 50000$", stderr, re.MULTILINE)
    assert "Traceback" not in stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert result["outcome"] == "stopped" and result["step"] == lines[-1]["step"]


def test_a_rank_killed_under_the_launch_script(classification: tuple[str, ...], tmp_path: Path) -> None:
    process = _start(*classification, "--recipe.duration", "100000 steps", folder=tmp_path)
    _wait_for_step(tmp_path, process)
    ranks = subprocess.run(["pgrep", "-f", "train.py"], capture_output=True, text=True)
    mine = [pid for pid in map(int, ranks.stdout.split()) if _is_rank_in(pid, tmp_path, "1")]
    assert len(mine) == 1
    os.kill(mine[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 1, stderr
    assert len(re.findall(r"^error: ", stderr, re.MULTILINE)) == 1
    assert "lost contact with another rank" in stderr or "killed by signal 9" in stderr or "exit code -9" in stderr
    assert "Traceback" not in stderr


def _is_rank_in(pid: int, folder: Path, rank: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return Path(f"/proc/{pid}/cwd").resolve() == folder and f"RANK={rank}".encode() in environment
    except OSError:
        return False


def test_tensorboard_through_accelerate(classification: tuple[str, ...], tmp_path: Path) -> None:
    arguments = (
        *classification,
        "--recipe.duration",
        "3 steps",
        "--recipe.warmup",
        "1 steps",
        "--log.trackers",
        "tensorboard",
        "--run_dir",
        "run",
    )
    ended = shell(sys.executable, TRAIN, *arguments, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (tmp_path / "run").rglob("events.out.tfevents*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    logged = {event.step: event.value for event in accumulator.Scalars("train/lr")}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged == pytest.approx({line["step"]: line["lr"] for line in lines if line["kind"] == "train"})
