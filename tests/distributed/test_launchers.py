"""The real launchers, once each: what they start, and the mistakes that they make easy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
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


def test_deepspeed_trains_the_same(job: tuple[str, ...], tmp_path: Path) -> None:
    plain = shell("bash", ROOT / "launch" / "cpu.sh", 2, *job, folder=tmp_path)
    zero = shell("bash", ROOT / "launch" / "deepspeed.sh", 2, "--cpu", 2, *job, folder=tmp_path)
    for ended, name in ((plain, "DistributedDataParallel"), (zero, "DeepSpeed, ZeRO stage 2")):
        assert ended.returncode == 0, ended.stderr
        assert "PASS" in ended.stdout and f"engine           {name}\n" in ended.stderr
    zero_losses, plain_losses = [[float(loss) for loss in losses(ended.stdout)] for ended in (zero, plain)]
    assert zero_losses == pytest.approx(plain_losses, rel=1e-6)


@pytest.mark.slow
def test_without_arguments_it_is_the_quickstarts_pretraining(tmp_path: Path) -> None:
    ended = shell(BIN / "accelerate", "launch", "--cpu", TRAIN, "--test", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "PASS  5 steps of 4000" in ended.stdout
    assert "step 5/5  " in ended.stderr  # and not how long 4000 would take
    rates = [float(rate) for rate in re.findall(r"^step \d  lr (\S+)", ended.stdout, re.MULTILINE)]
    assert rates == pytest.approx([1e-3 * step / 400 for step in range(1, 6)])


def test_one_process_where_several_were_asked_for(job: tuple[str, ...], tmp_path: Path) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process and says nothing."""
    launch = (BIN / "accelerate", "launch", "--cpu", "--num_processes", 2, TRAIN)
    ended = shell(*launch, *job, folder=tmp_path)
    assert ended.returncode != 0
    assert "error: launcher: several processes were requested, but one was started" in ended.stderr
    ended = shell(*launch, *job[:-1], "--launch.world_size", 2, folder=tmp_path)  # without --test
    assert ended.returncode != 0
    assert "bash launch/cpu.sh" in ended.stderr


def test_ranks_that_do_not_see_each_other(job: tuple[str, ...], tmp_path: Path) -> None:
    """What launchers that only set WORLD_SIZE, or DeepSpeed and FSDP without GPUs, would start."""
    ended = shell(sys.executable, TRAIN, *job, folder=tmp_path, WORLD_SIZE="2")
    assert ended.returncode == 2
    assert "error: launcher: WORLD_SIZE is 2, but RANK or MASTER_ADDR is missing" in ended.stderr
    refused = {"ACCELERATE_USE_DEEPSPEED": "no ranks were started", "ACCELERATE_USE_FSDP": "FSDP needs GPUs"}
    for name, message in refused.items():
        ended = shell(sys.executable, TRAIN, *job, folder=tmp_path, **{name: "true"})
        assert ended.returncode == 2
        assert "error: launcher: " in ended.stderr and message in ended.stderr


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

    accumulator = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    accumulator.Reload()
    logged = {event.step: event.value for event in accumulator.Scalars("train/lr")}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged == pytest.approx({line["step"]: line["lr"] for line in lines if line["kind"] == "train"})
