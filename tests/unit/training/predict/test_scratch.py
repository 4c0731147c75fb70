"""The temporary folder of a prediction: gone with its process, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from harness import ROOT

from warmup.training.predict.predict import scratch_folder

HOLDER = """
import sys, time
from warmup.training.predict.predict import scratch_folder
with scratch_folder() as folder:
    (folder / "rows").write_text("data")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_removed_whatever_ends_the_block(temporary: Path) -> None:
    class Interrupted(BaseException):
        pass

    for error in (None, ValueError(), Interrupted()):
        try:
            with scratch_folder() as folder:
                assert folder.parent == temporary and folder.stat().st_mode & 0o777 == 0o700
                (folder / "rows").write_text("data")
                if error:
                    raise error
        except (ValueError, Interrupted) as caught:
            assert caught is error
        assert names(temporary) == []


def test_the_next_one_removes_what_a_killed_process_left_and_nothing_else(temporary: Path) -> None:
    env = dict(os.environ, TMPDIR=str(temporary))
    command = [sys.executable, "-c", HOLDER]
    killed, running = (
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    try:
        left, used = (Path(process.stdout.readline().strip()) for process in (killed, running))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        (temporary / "another").mkdir()
        (temporary / f"{left.name}-link").symlink_to(temporary / "another")
        assert (left / "rows").exists() and (used / "rows").exists()
        with scratch_folder():
            assert not left.exists() and (used / "rows").exists() and (temporary / "another").exists()
    finally:
        running.kill()
        running.wait()
