"""Signals to the launch scripts, from a terminal and without one: all is gone in time, and the exit code says how."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness import ROOT
from launching import errors, inside, launcher, rank, steps, wait_until

ENDLESS = ("--recipe.duration", "100000 steps", "--checkpoint.every", "1000 steps")
LIMIT_S = 10
SCRIPTS = {
    "cpu 1": ("cpu.sh", 1),
    "cpu 2": ("cpu.sh", 2),
    "elastic": ("elastic.sh", "cpu", "1:2"),
    "machines": ("machines.sh", "--machines", 1, "--rank", 0, "--main", "localhost:1", "--cpu", 2),
    "run": ("run.sh", "--config_file", ROOT / "configs/accelerate/cpu_2.yaml", ROOT / "train.py"),
    "deepspeed": ("deepspeed.sh", 1, "--cpu", 2),
    "quickstart": ("quickstart.sh",),
}
ENV = dict(GLOO_SOCKET_IFNAME="lo", CUDA_VISIBLE_DEVICES="", WARMUP_RESTARTS="3")


@pytest.fixture
def job(labelled: tuple[Path, Path], classification: tuple[str, ...]) -> tuple[str, ...]:
    return (*classification, *ENDLESS)


def command(name: str, job: tuple[str, ...]) -> tuple[tuple[object, ...], str]:
    """The words of a script with a job that does not end, and its run directory."""
    if name != "quickstart":
        return (*SCRIPTS[name], *job, "--run_dir", "run"), "run"
    return (*SCRIPTS[name], *ENDLESS, "--log.every", "1", "--data.train_files", job[3]), "runs/*/pretrain"


def trained(folder: Path, pattern: str) -> int:
    return max((steps(run) for run in folder.glob(pattern)), default=0)


def assert_gone(process: subprocess.Popen, folder: Path, began: float) -> str:
    """All of it has ended within the limit. Returns the output."""
    while process.poll() is None or inside(folder):
        text = Path(process.log).read_text(errors="replace")
        assert time.monotonic() - began < LIMIT_S, (process.poll(), inside(folder), text)
        time.sleep(0.05)
    time.sleep(0.2)  # nothing starts again
    assert not inside(folder)
    text = Path(process.log).read_text(errors="replace")
    assert "Traceback" not in text and "starting again" not in text, text
    return text


def assert_stopped(process: subprocess.Popen, folder: Path, pattern: str, text: str) -> None:
    """Exit code 75, and a checkpoint of the last step."""
    assert process.returncode == 75 and not errors(text), (process.returncode, text)
    (run,) = folder.glob(pattern)
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == [f"step-{steps(run):08d}"]


SIGNALS = ("INT", "TERM", "HUP")
EVERY_CASE = os.environ.get("WARMUP_SIGNALS") == "all"
"""Whether every signal goes to every script at every moment, half an hour's work, or what users and schedulers do."""
QUICK = [("elastic", "INT", True), ("cpu 2", "HUP", True), ("quickstart", "TERM", False)]
USUAL = [(name, *how) for name in SCRIPTS for how in (("INT", True), ("TERM", False))] + [
    ("cpu 2", "HUP", True),
    ("elastic", "HUP", True),
]
CASES = list(itertools.product(SCRIPTS, SIGNALS, (True, False))) if EVERY_CASE else USUAL
STARTING = [
    (0.0, "cpu 2", "INT"),
    (0.3, "elastic", "TERM"),
    (2.0, "cpu 2", "HUP"),
    (2.0, "elastic", "INT"),
    (6.0, "cpu 2", "TERM"),
]
if EVERY_CASE:
    STARTING = list(itertools.product((0.0, 0.3, 2.0, 6.0), ("cpu 2", "elastic"), SIGNALS))


@pytest.mark.parametrize(("name", "number", "terminal"), [
    pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in CASES
])  # fmt: skip
def test_a_signal_stops_all_with_a_checkpoint(
    name: str, number: str, terminal: bool, job, tmp_path: Path, launch
) -> None:
    """On a terminal, INT is Ctrl-C and HUP closes it; else the script alone gets the signal."""
    if name == "deepspeed":
        pytest.importorskip("deepspeed")
    words, pattern = command(name, job)
    process, screen = launch.on_terminal(*words, **ENV) if terminal else (launch(*words, **ENV), None)
    wait_until(lambda: trained(tmp_path, pattern) > 2, process)
    began = time.monotonic()
    if screen and number == "INT":
        screen.type(b"\x03")
    elif screen and number == "HUP":
        screen.close()
    else:
        process.send_signal(signal.Signals[f"SIG{number}"])
    text = assert_gone(process, tmp_path, began)
    assert_stopped(process, tmp_path, pattern, text)
    if screen:
        screen.close()


def test_a_second_ctrl_c_ends_it_at_once(job, tmp_path: Path, launch) -> None:
    """Even where a rank does not react any more."""
    words, pattern = command("elastic", job)
    process, screen = launch.on_terminal(*words, **ENV)
    wait_until(lambda: trained(tmp_path, pattern) > 2, process)
    os.kill(rank(tmp_path, 1), signal.SIGSTOP)
    screen.type(b"\x03")
    wait_until(lambda: "Ctrl-C again ends it at once" in Path(process.log).read_text(), process, 5)
    time.sleep(2)
    assert process.poll() is None
    began = time.monotonic()
    screen.type(b"\x03")
    assert_gone(process, tmp_path, began)
    assert process.returncode == 75
    screen.close()


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "name", "number"), STARTING)
def test_a_signal_while_it_starts(seconds: float, name: str, number: str, job, tmp_path: Path, launch) -> None:
    words, _ = command(name, job)
    process, screen = launch.on_terminal(*words, **ENV)
    wait_until(lambda: has_trap(tmp_path), process)  # some milliseconds after it is started; before, INT ends it
    time.sleep(seconds)
    began = time.monotonic()
    if number == "INT":
        screen.type(b"\x03")
    elif number == "HUP":
        screen.close()
    else:
        process.terminate()
    text = assert_gone(process, tmp_path, began)
    assert process.returncode == 75 and not errors(text), text
    screen.close()


def has_trap(folder: Path) -> bool:
    """Whether run.sh has come to where it sets its traps."""
    for pid in inside(folder):
        with contextlib.suppress(OSError):
            caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            is_script = b"/run.sh" in Path(f"/proc/{pid}/cmdline").read_bytes()
            if is_script and caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
                return True
    return False


def test_a_signal_between_two_attempts(job, tmp_path: Path, launch) -> None:
    """The pause ends too."""
    words, pattern = command("elastic", job)
    process, screen = launch.on_terminal(*words, **ENV)
    wait_until(lambda: trained(tmp_path, pattern) > 2, process)
    for _ in range(2):  # the second pause takes 2 s
        wait_until(lambda: inside(tmp_path, "RANK=0"), process)
        os.kill(launcher(tmp_path), signal.SIGKILL)
        wait_until(lambda: not inside(tmp_path, "RANK=0"), process)
    wait_until(lambda: "starting again in 2 s" in Path(process.log).read_text(), process)
    began = time.monotonic()
    screen.type(b"\x03")
    while process.poll() is None or inside(tmp_path):
        assert time.monotonic() - began < 1.5, inside(tmp_path)
        time.sleep(0.05)
    assert process.returncode == 75
    screen.close()


@pytest.mark.parametrize("name", [
    "elastic", "cpu 1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cpu 2", "quickstart", "deepspeed"))
])  # fmt: skip
def test_ranks_end_with_a_script_that_is_killed(name: str, job, tmp_path: Path, launch) -> None:
    """Nobody is there any more to end them; what was trained is saved."""
    if name == "deepspeed":
        pytest.importorskip("deepspeed")
    words, pattern = command(name, job)
    process = launch(*words, **ENV)
    wait_until(lambda: trained(tmp_path, pattern) > 2, process)
    began = time.monotonic()
    process.kill()
    assert_gone(process, tmp_path, began)
    (run,) = tmp_path.glob(pattern)
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == [f"step-{steps(run):08d}"]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ranks_end_with_a_launcher_that_is_killed(ranks: int, job, tmp_path: Path, launch) -> None:
    """`accelerate launch` without a launch script."""
    (tmp_path / "plain.sh").write_text('exec accelerate launch "$@"\n')
    config = ("--config_file", ROOT / "configs/accelerate/cpu_2.yaml", "--num_processes", ranks)
    options = (*config, *(["--cpu"] if ranks == 1 else []), ROOT / "train.py", "--launch.device", "cpu", *job)
    words = (tmp_path / "plain.sh", *options, "--run_dir", "run")
    process = launch(*words, **ENV, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    wait_until(lambda: trained(tmp_path, "run") > 2, process)
    began = time.monotonic()
    process.kill()
    assert_gone(process, tmp_path, began)
    assert [path.name for path in (tmp_path / "run/checkpoints").glob("step-*")] == [
        f"step-{steps(tmp_path / 'run'):08d}"
    ]
