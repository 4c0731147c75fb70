"""The real launch scripts in the background, for tests: started, watched, and ended with all that they left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import ROOT


class Launched:
    """Launch scripts in the background, started in a folder. `end` ends whatever they left."""

    def __init__(self, folder: Path):
        self.folder, self.started = folder, []

    def __call__(
        self, script: str | Path, *argv: object, within: Sequence[str] = (), bin: Path | None = None, **env: str
    ) -> subprocess.Popen:
        """Start a script of launch/ under the command `within`, which replaces itself by what it is given. Commands
        in `bin` come before others of their name.
        """
        log = open(self.folder / f"{len(self.started)}.log", "w+")  # noqa: SIM115 - a pipe would fill
        path = [*([str(bin)] if bin else []), str(Path(sys.executable).parent), os.environ["PATH"]]
        variables = dict(os.environ, PATH=":".join(path)) | env
        command = [*within, "bash", str(ROOT / "launch" / script), *map(str, argv)]
        process = subprocess.Popen(command, cwd=self.folder, env=variables, stderr=log, stdout=log, text=True)
        process.log = log.name
        self.started.append(process)
        return process

    def on_terminal(self, script: str | Path, *argv: object, **env: str) -> tuple[subprocess.Popen, Terminal]:
        """Start a script of launch/ in the foreground of a terminal of its own, as a shell does."""
        terminal = Terminal(self.folder / f"{len(self.started)}.log")
        command = ["bash", str(ROOT / "launch" / script), *map(str, argv)]
        variables = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}") | env
        process = subprocess.Popen(
            command, cwd=self.folder, env=variables, stdin=terminal.device, stdout=terminal.device,
            stderr=terminal.device, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(terminal.device)
        process.log = str(terminal.path)
        self.started.append(process)
        return process, terminal

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        for pid in inside(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Terminal:
    """A pseudo terminal, and what it shows in a file."""

    def __init__(self, path: Path):
        self.path = path
        path.touch()
        self._keyboard, self.device = os.openpty()
        self._closed = False
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def type(self, text: bytes) -> None:
        """b"\x03" is Ctrl-C."""
        os.write(self._keyboard, text)

    def close(self) -> None:
        """As when its window is closed: the foreground gets SIGHUP, and what is written to it from then on fails."""
        if not self._closed:
            self._closed = True
            self._thread.join()
            os.close(self._keyboard)

    def _copy(self) -> None:
        with open(self.path, "wb", buffering=0) as log, contextlib.suppress(OSError):
            while not self._closed:
                if select.select([self._keyboard], [], [], 0.05)[0]:
                    log.write(os.read(self._keyboard, 65536))


def inside(folder: Path, *environment: str) -> list[int]:
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
    return _only(folder, b"train.py", f"RANK={number}")


def launcher(folder: Path) -> int:
    """The process of `accelerate launch`."""
    return _only(folder, b"/accelerate\0launch\0")


def _only(folder: Path, words: bytes, *variables: str) -> int:
    """The one process with these words in its command. One that it is just starting looks like it for a moment."""
    found: list[int] = []
    deadline = time.monotonic() + 10
    while len(found) != 1:
        assert time.monotonic() < deadline, found
        found = [pid for pid in inside(folder, *variables) if words in _command(pid)]
    return found[0]


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
