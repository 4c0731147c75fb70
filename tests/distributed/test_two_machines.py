"""Two machines, as two network namespaces joined by a cable: the same training as on one, also after the cable was cut.

They have the file system in common. Each has one core, like each of two ranks on one machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import assert_each_sample_once, assert_same_end
from launching import Launched, ended, errors, inside, steps, wait_until

CARD = "eth0"


class Machines:
    """Two namespaces, named after this process; their addresses are seen from nowhere else."""

    def __init__(self) -> None:
        self.names = [f"machine{number}-of-{os.getpid()}" for number in range(2)]
        self.cores = [str(core) for core in (sorted(os.sched_getaffinity(0)) * 2)[:2]]

    def build(self) -> None:
        for name in self.names:
            _ip("netns", "add", name)
        _ip("link", "add", CARD, "netns", self.names[0], "type", "veth", "peer", CARD, "netns", self.names[1])
        for number, name in enumerate(self.names):
            _ip("-n", name, "address", "add", f"10.9.8.{number + 1}/24", "dev", CARD)
            for card in ("lo", CARD):
                _ip("-n", name, "link", "set", card, "up")

    def cable(self, state: str) -> None:
        _ip("-n", self.names[1], "link", "set", CARD, state)

    def remove(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def start(self, launch: Launched, *job: object) -> list[subprocess.Popen]:
        """launch/machines.sh on both, with one rank each."""
        return [
            launch(
                *("machines.sh", "--machines", 2, "--rank", number, "--main", "10.9.8.1:29500", "--cpu", 1, *job),
                within=("nsenter", f"--net=/run/netns/{name}", "taskset", "--cpu-list", core),
                GLOO_SOCKET_IFNAME=CARD,
            )
            for number, (name, core) in enumerate(zip(self.names, self.cores))
        ]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[Machines]:
    missing = [tool for tool in ("ip", "nsenter", "taskset") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} to make network namespaces")
    pair = Machines()
    try:
        try:
            pair.build()
            subprocess.run(["nsenter", f"--net=/run/netns/{pair.names[0]}", "true"], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.stderr or error}")
        yield pair
    finally:
        pair.remove()


@pytest.fixture
def job(classification: tuple[str, ...]) -> tuple[object, ...]:
    batch = ("--batch.global_size", 32, "--checkpoint.every", "4 steps", "--log.samples", "true")
    return (*classification, *batch, "--launch.timeout", 60)


def test_they_train_the_same_as_one_machine(job, machines: Machines, tmp_path: Path, launch: Launched) -> None:
    code, text = ended(launch("cpu.sh", 2, *job, "--run_dir", "one"))
    assert code == 0, text
    for process in machines.start(launch, *job, "--run_dir", "two"):
        code, text = ended(process)
        assert code == 0, text
    assert '"world_size": 2' in (tmp_path / "two" / "result.json").read_text()
    assert_same_end(tmp_path / "two", tmp_path / "one")
    assert_each_sample_once(tmp_path / "two")


@pytest.mark.slow
def test_a_cut_cable_ends_both_in_time_and_they_go_on(
    job, machines: Machines, tmp_path: Path, launch: Launched
) -> None:
    job = (*job, "--recipe.duration", "200 steps")
    code, text = ended(launch("cpu.sh", 2, *job, "--run_dir", "one"))
    assert code == 0, text
    run, limit = tmp_path / "two", 8
    both = machines.start(launch, *job, "--run_dir", "two", "--launch.timeout", limit)
    wait_until(lambda: steps(run) >= 20, both[0])
    machines.cable("down")
    began = time.monotonic()
    for process, reason in zip(
        both, ("rank 1 does not answer: stopped, or its machine is gone", "the launcher's store")
    ):
        code, text = ended(process)
        assert code == 1 and [error.startswith(f"error: {reason}") for error in errors(text)] == [True], text
    assert time.monotonic() - began < limit + 25
    assert not inside(tmp_path, "RANK=0") and not inside(tmp_path, "RANK=1")
    assert 20 <= steps(run) < 200

    machines.cable("up")
    for number, process in enumerate(machines.start(launch, *job, "--run_dir", "two", "--resume", "auto")):
        code, text = ended(process)
        assert code == 0, text
        assert number or re.search(r"resumed from two/checkpoints/step-000\d+: step \d+ of 200", text)
    assert_same_end(run, tmp_path / "one")
    assert_each_sample_once(run)
