"""How a run ends: one outcome, one message, one exit code; the first cause is kept."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from harness import ROOT

from warmup.errors import UserError
from warmup.training.distributed import environment, exit_status
from warmup.training.distributed.exit_status import Stopped, announce, guard, record_status


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WARMUP_STATUS_FILE", str(tmp_path / "status"))
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WARMUP_STDERR", raising=False)
    return tmp_path / "status"


def content(path: Path) -> dict:
    return json.loads(path.read_text())


def test_the_first_record_is_kept(status: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    assert record_status("failed", "the cause") is True
    monkeypatch.setenv("RANK", "0")
    assert record_status("user error", "what followed") is False
    assert content(status) == {"outcome": "failed", "rank": 3, "message": "the cause"}
    assert [path.name for path in status.parent.iterdir()] == ["status"]  # and nothing beside it


def test_of_many_at_once_one_is_written_whole(status: Path) -> None:
    messages = [str(number) * 20_000 for number in range(8)]
    written: list[int] = []
    start = threading.Barrier(8)

    def one(number: int) -> None:
        start.wait()
        if record_status("failed", messages[number]):
            written.append(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 1 and content(status)["message"] == messages[written[0]]
    assert [path.name for path in status.parent.iterdir()] == ["status"]


def test_without_a_status_file_nothing_is_recorded(status: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WARMUP_STATUS_FILE")
    assert record_status("done", "") is False
    assert not status.exists()


class DistBackendError(RuntimeError):
    """torch.distributed raises its own kinds of RuntimeError."""


def ending(error: BaseException):
    def run() -> tuple[str, str]:
        raise error

    return run


ENDS = [
    (lambda: ("done", "after step 5"), 0, "done", "after step 5"),
    (lambda: ("stopped", "after step 3"), 0, "stopped", "after step 3"),
    (lambda: ("failed", "2 checks failed"), 1, "failed", "2 checks failed"),
    (ending(UserError("data.train_files: a.csv is empty")), 2, "user error", "data.train_files: a.csv is empty"),
    (ending(Stopped("before the first step")), 0, "stopped", "before the first step"),
    (ending(KeyboardInterrupt()), 1, "failed", "interrupted"),
    (ending(MemoryError()), 1, "failed", "rank 0: out of memory"),
    (ending(KeyError("a")), 1, "failed", "rank 0: KeyError: 'a'"),
    (ending(RuntimeError("shapes\n  differ")), 1, "failed", "rank 0: RuntimeError: shapes differ"),
    (ending(ValueError("x" * 999)), 1, "failed", "rank 0: ValueError: " + "x" * 300),
]


@pytest.mark.parametrize(("run", "code", "kind", "message"), ENDS)
def test_every_end_has_an_outcome_a_message_and_a_code(
    run, code: int, kind: str, message: str, status: Path, capfd: pytest.CaptureFixture
) -> None:
    assert guard(run, show_traceback=False) == code
    assert content(status) == {"outcome": kind, "rank": 0, "message": message}
    stderr = capfd.readouterr().err
    assert not stderr.startswith("error:")  # with a status file, the launch script says it
    assert ("Traceback" in stderr) == (message.startswith("rank 0: ") and "memory" not in message)


# As gloo and nccl say it, in torch 2.13.
LOST = [
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:31337",
    "Connection reset by peer",
    "Timed out waiting 20000ms for recv operation to complete",
    "NCCL communicator was aborted on rank 1",
    "Broken pipe",
    "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE) ran for 600000 ms",
    "NCCL error: remote process exited or there was a network error, NCCL version 2.28.9",
    "Gloo connectFullMesh failed with [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:144] no error",
]


@pytest.mark.parametrize("text", LOST)
def test_a_lost_peer_is_said_in_words_and_without_a_traceback(
    text: str, status: Path, capfd: pytest.CaptureFixture
) -> None:
    assert guard(ending(DistBackendError(text)), show_traceback=False) == 1
    expected = f"rank 0: lost contact with another rank, which has died or hangs ({text})"
    assert content(status) == {"outcome": "failed", "rank": 0, "message": expected}
    assert capfd.readouterr().err == ""


# Wrong use, by which no rank was lost.
WRONG_USE = [
    "NCCL error: invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.28.9",
    "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000",
    "[enforce fail at ../third_party/gloo/gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 8 vs 4",
    "CUDA error: peer access is not supported between these two devices",
    "mat1 and mat2 shapes cannot be multiplied",
]


@pytest.mark.parametrize("error", [ValueError("timed out"), *map(RuntimeError, WRONG_USE)])
def test_what_is_no_lost_peer(error: Exception, status: Path) -> None:
    guard(ending(error), show_traceback=False)
    assert content(status)["message"] == f"rank 0: {type(error).__name__}: {error}"


@pytest.mark.parametrize("error", [UserError("data: wrong"), RuntimeError("Connection closed by peer")])
def test_tracebacks_where_asked_for(error: Exception, status: Path, capfd: pytest.CaptureFixture) -> None:
    guard(ending(error), show_traceback=True)
    assert "Traceback (most recent call last)" in capfd.readouterr().err


def test_without_a_launch_script_rank_0_says_it(
    status: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("WARMUP_STATUS_FILE")
    monkeypatch.setattr(exit_status.time, "sleep", lambda seconds: None)
    assert guard(ending(UserError("data: wrong")), show_traceback=False) == 2
    assert capfd.readouterr().err == "error: data: wrong\n"
    monkeypatch.setenv("RANK", "1")
    assert guard(ending(UserError("data: wrong")), show_traceback=False) == 2  # all ranks have it; one says it
    assert capfd.readouterr().err == ""
    assert guard(ending(KeyboardInterrupt()), show_traceback=False) == 1
    assert capfd.readouterr().err == "error: interrupted\n"


def test_rank_0_speaks_first(status: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(exit_status.time, "sleep", slept.append)
    guard(ending(UserError("data: wrong")), show_traceback=False)
    assert slept == []
    monkeypatch.setenv("RANK", "2")
    guard(ending(UserError("data: wrong")), show_traceback=False)
    assert slept == [1]
    guard(lambda: ("done", ""), show_traceback=False)
    assert slept == [1]


def test_a_launcher_that_ends_a_waiting_rank_gets_no_traceback(status: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its SIGTERM raises Stopped in the midst of it."""

    def ended(seconds: float) -> None:
        raise Stopped("before there was anything to save")

    monkeypatch.setattr(exit_status.time, "sleep", ended)
    monkeypatch.setenv("RANK", "1")
    assert guard(ending(UserError("data: wrong")), show_traceback=False) == 2
    assert content(status)["outcome"] == "user error"


def test_a_run_that_was_stopped_early_says_nothing_of_an_error(
    status: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("WARMUP_STATUS_FILE")
    slept: list[float] = []
    monkeypatch.setattr(exit_status.time, "sleep", slept.append)
    monkeypatch.setenv("RANK", "2")
    assert guard(ending(Stopped("before the first step")), show_traceback=False) == 0
    assert capfd.readouterr() == ("", "") and slept == []


def test_announcing(status: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    """To the launch script where there is one, else to the person: by the rank that knows."""
    announce("failed", "rank 1 is late")
    assert content(status) == {"outcome": "failed", "rank": 0, "message": "rank 1 is late"}
    assert capfd.readouterr().err == ""
    monkeypatch.delenv("WARMUP_STATUS_FILE")
    announce("failed", "rank 1 is late")
    monkeypatch.setenv("RANK", "3")
    announce("failed", "rank 1 is later")
    announce("user error", "all ranks have this one")
    assert capfd.readouterr().err == "error: rank 1 is late\nerror: rank 1 is later\n"


@pytest.mark.parametrize("launched", [True, False])
def test_the_traceback_of_a_launcher_is_announced(launched: bool, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.delenv("WARMUP_STATUS_FILE", raising=False)
    monkeypatch.setattr(environment, "has_launcher", lambda: launched)
    announce("user error", "seed: many")
    first, *more = capfd.readouterr().err.splitlines()
    assert first == "error: seed: many"
    assert [line.split(";")[0] for line in more] == ["The launcher's own traceback follows and adds nothing"] * launched


def test_failing_from_another_thread_ends_the_process(tmp_path: Path) -> None:
    """While the main thread is in something that does not end, and without its teardown."""
    script = (
        "import atexit, threading, time; from warmup.training.distributed.exit_status import fail\n"
        "atexit.register(print, 'teardown'); print('out', end='')\n"
        "threading.Thread(target=fail, args=('rank 1 is late',)).start()\n"
        "time.sleep(60); print('went on')"
    )
    env = {"WARMUP_STATUS_FILE": str(tmp_path / "status"), "RANK": "2"}
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=30
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "out", "")
    assert content(tmp_path / "status") == {"outcome": "failed", "rank": 2, "message": "rank 1 is late"}


@pytest.mark.parametrize("code", [0, 1, 2])
def test_leaving(code: int, tmp_path: Path) -> None:
    """A failed process does not wait for anything at its end; one that is done ends as usual. All is written out."""
    script = (
        "import atexit, sys; from warmup.training.distributed.exit_status import exit_now\n"
        "atexit.register(print, 'teardown')\n"
        "sys.stdout.write('out '); sys.stderr.write('err'); exit_now(int(sys.argv[1]))"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(code)], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (code, "err")
    assert ended.stdout == "out "


def test_stderr_goes_where_the_launch_script_says(tmp_path: Path) -> None:
    (tmp_path / "stderr").write_text("before\n")
    script = (
        "import sys; from warmup.errors import UserError; from warmup.training.distributed.exit_status import guard\n"
        "def run(): print('said', file=sys.stderr, flush=True); raise UserError('data: wrong')\n"
        "sys.exit(guard(run, False))"
    )
    env = {"WARMUP_STDERR": str(tmp_path / "stderr"), "PATH": ""}
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", "")
    assert (tmp_path / "stderr").read_text() == "before\nsaid\nerror: data: wrong\n"


@pytest.mark.parametrize("unbuffered", [(), ("-u",)])
def test_a_line_is_seen_at_once(unbuffered: tuple[str, ...]) -> None:
    """Also in a pipe, and with the option that torch's launcher gives its ranks."""
    script = (
        "import sys; from warmup.training.distributed.exit_status import guard\n"
        "def run(): print('step 50', file=sys.stderr); sys.stdin.read(1); return 'done', ''\n"
        "sys.exit(guard(run, False))"
    )
    command = [sys.executable, *unbuffered, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, env={"PATH": ""}, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as rank:
        assert rank.stdin and rank.stderr
        seen = select.select([rank.stderr], [], [], 20)[0]
        rank.stdin.write(b"\n")
        rank.stdin.flush()
        assert seen and rank.stderr.read() == b"step 50\n"
    assert rank.returncode == 0


def test_messages_name_the_context_of_the_error(status: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """If the process ends within it; what comes later is not about it."""
    monkeypatch.setattr(exit_status, "_error_prefix", "")

    def ends(error: BaseException) -> dict:
        status.unlink(missing_ok=True)

        def run() -> tuple[str, str]:
            with exit_status.error_context("seed 2: "):
                raise error

        guard(run, show_traceback=False)
        return content(status)

    assert ends(UserError("data: empty"))["message"] == "seed 2: data: empty"
    assert ends(ValueError("shapes differ"))["message"] == "seed 2: rank 0: ValueError: shapes differ"
    assert ends(Stopped("before the first step"))["message"] == "seed 2: before the first step"
    with exit_status.error_context("seed 2: "):
        pass
    status.unlink()
    guard(ending(UserError("data: empty")), show_traceback=False)
    assert content(status)["message"] == "data: empty"
