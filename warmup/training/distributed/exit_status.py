"""How a run ends: the four outcomes, the file that tells a launch script which it was, and the exit code."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from warmup.errors import UserError

STATUS_FILE = "WARMUP_STATUS_FILE"
EXIT_CODES = {"done": 0, "stopped": 0, "user error": 2, "failed": 1}
_about = ""  # what this process is at, where that is not clear from its configuration
_LOST_PEER = re.compile(r"gloo|nccl|connection (reset|closed|refused)|timed out|broken pipe|peer", re.IGNORECASE)


class Stopped(BaseException):
    """The run was asked to stop where there is nothing to save."""


def rank() -> int:
    return int(os.environ.get("RANK", 0))


@contextmanager
def error_context(what: str) -> Iterator[None]:
    """Within it, what ends the process begins its message with this."""
    global _about
    _about = what
    yield
    _about = ""  # not where an error leaves it: its message is still to come


def record_status(outcome: str, message: str) -> bool:
    """Write this rank's outcome to the status file, unless another rank was first. Whether it was written."""
    path = os.environ.get(STATUS_FILE)
    if not path:
        return False
    try:
        with open(path, "x", encoding="utf-8") as file:  # fails where it exists: the first cause is the one to know
            json.dump({"outcome": outcome, "rank": rank(), "message": message}, file)
    except OSError:
        return False
    return True


def guard(run: Callable[[], tuple[str, str]], show_traceback: bool) -> int:
    """Call `run`, which returns (outcome, message), record how it ended, and return the exit code of this rank."""
    _redirect_stderr()
    try:
        outcome, message = run()
    except UserError as error:
        outcome, message = "user error", str(error)
        if show_traceback:
            traceback.print_exc()
    except Stopped as stop:
        record_status("stopped", _about + str(stop))
        return EXIT_CODES["stopped"]
    except KeyboardInterrupt:
        outcome, message = "failed", "interrupted"
    except MemoryError:
        outcome, message = "failed", f"rank {rank()}: out of memory"
    except Exception as error:
        outcome, message = "failed", f"rank {rank()}: {_describe(error)}"
        if show_traceback or not (_lost_peer(error) or type(error).__name__ == "RanksDisagree"):
            traceback.print_exc()
    else:
        record_status(outcome, message)
        return EXIT_CODES[outcome]
    announce(outcome, message)
    if rank() != 0:
        with suppress(Stopped):  # launchers end all ranks as soon as one has ended
            time.sleep(1)  # rank 0 speaks first
    return EXIT_CODES[outcome]


def announce(outcome: str, message: str) -> None:
    """Record how a run went wrong, and say it here where no launch script will."""
    message = _about + message
    record_status(outcome, message)
    if STATUS_FILE not in os.environ and (rank() == 0 or outcome == "failed"):
        print(f"error: {message}", file=sys.stderr, flush=True)


def fail(message: str) -> None:
    """End this process as failed from any of its threads, whatever the others are in."""
    announce("failed", message)
    exit_now(EXIT_CODES["failed"])


def exit_now(code: int) -> None:
    """End this process now, without the interpreter's teardown: it can wait for a rank that is gone, and the threads
    of process groups can abort in it after a run that was done.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _lost_peer(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and bool(_LOST_PEER.search(str(error)))


def _describe(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    if _lost_peer(error):
        return f"lost contact with another rank, which has died or hangs ({text})"
    return f"{type(error).__name__}: {text}"


def _redirect_stderr() -> None:
    """Write this rank's stderr where the launch script says, past the launcher's own tracebacks."""
    path = os.environ.get("WARMUP_STDERR")
    if path:
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 2)
        os.close(file)
