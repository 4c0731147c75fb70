"""launch/slurm.sh, with stand-ins for srun and scontrol: to the end in spite of a time limit; what is queued again."""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import ROOT, assert_each_sample_once
from launching import Launched, ended, errors, inside, steps, wait_until

# Each "node" is a core of this machine. As on some clusters, signals reach every process of a job.
SRUN = f"""#!{sys.executable}
import contextlib, os, signal, subprocess, sys
import psutil

options = sys.argv[1 : sys.argv.index("bash")]
(nodes,) = [int(word.split("=")[1]) for word in options if word.startswith("--nodes=")]
assert f"--ntasks={{nodes}}" in options

def start(node):
    variables = dict(os.environ, SLURM_NODEID=str(node), SLURM_PROCID=str(node), SLURM_STEP_NUM_TASKS=str(nodes))
    os.sched_setaffinity(0, {{cores[node % len(cores)]}})  # the task has it from here
    return subprocess.Popen(sys.argv[1 + len(options) :], env=variables, start_new_session=True)

def forward(number, frame):
    for task in tasks:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(task.pid)
            for one in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(number)

cores = sorted(os.sched_getaffinity(0))
tasks = [start(node) for node in range(nodes)]
signal.signal(signal.SIGUSR1, forward)
signal.signal(signal.SIGTERM, forward)
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
show) printf '%s\\n' localhost localhost ;;
requeue) echo "$2" >>requeued ;;
esac
"""


def _free_id() -> int:
    """A job whose port is free."""
    while True:
        number = random.randrange(1, 20000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 10000 + number)):
                return number


@pytest.fixture
def submit(tmp_path: Path, launch: Launched) -> Callable:
    """Starts launch/slurm.sh as SLURM does: a copy of it, in a job of two nodes. `srun` replaces the stub."""
    number = _free_id()
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "launch" / "slurm.sh", tmp_path / "slurm_script")

    def start(*argv: object, srun: str = SRUN, **env: str):
        for name, text in (("srun", srun), ("scontrol", SCONTROL)):
            (tmp_path / "bin" / name).write_text(text)
            (tmp_path / "bin" / name).chmod(0o755)
        job = dict(SLURM_JOB_ID=str(number), SLURM_JOB_NUM_NODES="2", SLURM_JOB_NODELIST="localhost")
        return launch(
            tmp_path / "slurm_script", *argv, bin=tmp_path / "bin",
            **job, SLURM_SUBMIT_DIR=str(ROOT), GLOO_SOCKET_IFNAME="lo", **env,
        )  # fmt: skip

    start.id = number
    return start


def _requeued(folder: Path) -> list[str]:
    return (folder / "requeued").read_text().split() if (folder / "requeued").exists() else []


@pytest.mark.slow
def test_through_the_time_limit_to_the_end(submit, classification, tmp_path: Path) -> None:
    job = ("--cpu", 1, *classification, "--batch.global_size", 32, "--recipe.duration", "120 steps")
    job += ("--log.samples", "true", "--checkpoint.every", "1000 steps")
    process = submit(*job)
    run = tmp_path / "runs" / f"slurm-{submit.id}"
    wait_until(lambda: steps(run) >= 5, process)
    process.send_signal(signal.SIGUSR1)
    code, text = ended(process)
    assert code == 75, text
    assert len(errors(text)) == 0 and text.count("stopped: after step") == 2  # each node says so
    assert _requeued(tmp_path) == [str(submit.id)]
    stopped = steps(run)
    assert 5 <= stopped < 120
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == [f"step-{stopped:08d}"]

    code, text = ended(submit(*job, SLURM_RESTART_COUNT="1"))
    assert code == 0, text
    assert f"resumed from runs/{run.name}/checkpoints/step-{stopped:08d}: step {stopped} of 120" in text
    assert _requeued(tmp_path) == [str(submit.id)]
    result = json.loads((run / "result.json").read_text())
    assert (result["outcome"], result["step"], result["world_size"]) == ("done", 120, 2)
    assert_each_sample_once(run)
    assert not inside(tmp_path, "RANK=0")


@pytest.mark.parametrize(("code", "restarts", "requeued"), [
    (75, "0", True), (75, "2", True), (75, "3", False), (0, "0", False), (1, "0", False), (2, "0", False),
])  # fmt: skip
def test_only_what_was_stopped_is_queued_again(code: int, restarts: str, requeued: bool, submit, tmp_path) -> None:
    settings = dict(SLURM_RESTART_COUNT=restarts, WARMUP_RESTARTS="3")
    found, text = ended(submit(srun=f"#!/bin/sh\nexit {code}\n", **settings))
    assert found == code
    assert _requeued(tmp_path) == [str(submit.id)] * requeued
    assert errors(text) == (
        ["error: not queued again after 3 times; go on with the same --run_dir"] if restarts == "3" else []
    )


def test_a_cancelled_job_is_not_queued_again(submit, tmp_path: Path) -> None:
    waiting = "#!/usr/bin/env bash\ntrap 'exit 75' TERM\ntouch ready\nwhile true; do sleep 0.1; done\n"
    process = submit(srun=waiting)
    wait_until((tmp_path / "ready").exists, process)
    process.terminate()
    code, _ = ended(process)
    assert code == 75 and _requeued(tmp_path) == []


def test_it_says_how_it_is_submitted(tmp_path: Path, launch: Launched) -> None:
    code, text = ended(launch("slurm.sh", SLURM_SUBMIT_DIR=str(ROOT)))
    assert code == 2 and errors(text)[0].startswith("error: this is no SLURM job; submit it: sbatch launch/slurm.sh")
    code, text = ended(launch("slurm.sh", SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(tmp_path)))
    assert code == 2 and errors(text) == [
        f"error: {tmp_path} is not the repository; go there first: sbatch launch/slurm.sh"
    ]
