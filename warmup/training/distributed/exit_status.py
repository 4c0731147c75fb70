"""How a run ends: one of four outcomes, the status file that tells a launch script which one, and the exit code."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from warmup.errors import UserError
from warmup.terminal import highlight
from warmup.training.distributed import environment

STATUS_FILE = "WARMUP_STATUS_FILE"
"""The environment variable that holds the path of the status file."""
EXIT_CODES = {"done": 0, "stopped": 0, "user error": 2, "failed": 1}
"""The exit code of a rank by its outcome."""
_LAUNCHER_NOTE = (
    "The launcher's own traceback follows and adds nothing; bash launch/run.sh in place of accelerate launch leaves it "
    "out."
)
_error_prefix = ""
_LOST_PEER = re.compile(
    r"connection (reset|closed|refused)|timed out|collective operation timeout|broken pipe|remote process exited|"
    r"communicator was aborted|connectfullmesh|socket closed",
    re.IGNORECASE,
)
"""What gloo, NCCL and the store say where another process is gone; not where they are used wrongly."""

_SAY_ALL = ("RanksDisagree", "OutOfMemoryError")
"""Names of errors whose text is enough."""


class Stopped(BaseException):
    """The run was asked to stop before there was anything to save."""


def rank() -> int:
    return int(os.environ.get("RANK", 0))


@contextmanager
def error_context(prefix: str) -> Iterator[None]:
    """Put `prefix` in front of the message of whatever ends the process within this context."""
    global _error_prefix
    _error_prefix = prefix
    yield
    _error_prefix = ""  # not in a `finally`: the message of an error that leaves the context is still to be written


def record_status(outcome: str, message: str) -> bool:
    """Write this rank's outcome to the status file, unless another rank has already written it.

    Args:
        outcome: a key of EXIT_CODES.
        message: one line for the user.

    Returns:
        Whether it was written.
    """
    path = os.environ.get(STATUS_FILE)
    if not path:
        return False
    try:
        with open(path, "x", encoding="utf-8") as file:  # fails if it exists: only the first cause is of interest
            json.dump({"outcome": outcome, "rank": rank(), "message": message}, file)
    except OSError:
        return False
    return True


def guard(run: Callable[[], tuple[str, str]], show_traceback: bool) -> int:
    """Run the program and record how it ended.

    Args:
        run: the program; returns its outcome and a message.
        show_traceback: whether user errors and lost connections print their traceback too.

    Returns:
        The exit code of this rank.
    """
    environment.stop_with_launcher()
    _redirect_stderr()
    _ignore_lost_readers()
    try:
        outcome, message = run()
    except UserError as error:
        outcome, message = "user error", str(error)
        if show_traceback:
            traceback.print_exc()
    except Stopped as stop:
        record_status("stopped", _error_prefix + str(stop))
        return EXIT_CODES["stopped"]
    except KeyboardInterrupt:
        outcome, message = "failed", "interrupted"
    except MemoryError:
        outcome, message = "failed", f"rank {rank()}: out of memory"
    except Exception as error:
        outcome, message = "failed", f"rank {rank()}: {_describe(error)}"
        if show_traceback or not (_is_lost_peer(error) or type(error).__name__ in _SAY_ALL):
            traceback.print_exc()
    else:
        record_status(outcome, message)
        return EXIT_CODES[outcome]
    announce(outcome, message)
    if rank() != 0:
        with suppress(Stopped):  # launchers terminate all ranks as soon as one has ended
            time.sleep(1)  # rank 0 reports first
    return EXIT_CODES[outcome]


def announce(outcome: str, message: str) -> None:
    """Record how a run went wrong. Without a launch script, which would print the message, print it here."""
    message = _error_prefix + message
    record_status(outcome, message)
    if STATUS_FILE not in os.environ and (rank() == 0 or outcome == "failed"):
        print(highlight(f"error: {message}", sys.stderr), file=sys.stderr, flush=True)
        if environment.has_launcher():
            print(_LAUNCHER_NOTE, file=sys.stderr, flush=True)


def fail(message: str) -> None:
    """End this process as failed. Any thread may call this, whatever the other threads are waiting for."""
    announce("failed", message)
    exit_now(EXIT_CODES["failed"])


def exit_now(code: int) -> None:
    """End this process at once, without the interpreter's teardown.

    The teardown can wait for a rank that is gone, and the threads of process groups can abort in it after a run that
    succeeded.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader is gone, or it is closed
            stream.flush()
    os._exit(code)


def _is_lost_peer(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and bool(_LOST_PEER.search(str(error)))


def _describe(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    if _is_lost_peer(error):
        return f"lost contact with another rank, which has died or hangs ({text})"
    return f"{type(error).__name__}: {text}"


def _redirect_stderr() -> None:
    """Append this rank's stderr to the file that the launch script names, apart from the launcher's own tracebacks."""
    path = os.environ.get("WARMUP_STDERR")
    if path:
        with suppress(OSError):  # a terminal that was closed
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY)
            os.dup2(file, 2)
            os.close(file)


class _LossyOutput(io.FileIO):
    """A standard stream that drops what cannot be written: its reader is gone, its terminal closed, or its disk full.

    What the streams say is also in the run directory. A run must not end because nobody reads it.
    """

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _ignore_lost_readers() -> None:
    """Let stdout and stderr drop what cannot be written. Streams that something else has put in their place stay."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue
        raw = _LossyOutput(stream.fileno(), "w", closefd=False)
        lossy = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering or stream.write_through,  # python -u, as the launcher starts ranks
        )
        with suppress(OSError):
            stream.flush()
        setattr(sys, name, lossy)
