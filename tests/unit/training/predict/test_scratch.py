"""The temporary folder of a prediction: gone with its process, however that ends."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from warmup.training.predict.predict import scratch_folder


def hold(pipe: Connection) -> None:
    with scratch_folder() as folder:
        (folder / "rows").write_text("data")
        pipe.send(folder)
        time.sleep(60)


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
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    killed, running = (context.Process(target=hold, args=(sender,)) for _, sender in pipes)
    for process in (killed, running):
        process.start()
    try:
        left, used = (receiver.recv() for receiver, _ in pipes)
        killed.kill()
        killed.join()
        (temporary / "another").mkdir()
        (temporary / f"{left.name}-link").symlink_to(temporary / "another")
        assert (left / "rows").exists() and (used / "rows").exists()
        with scratch_folder():
            assert not left.exists() and (used / "rows").exists() and (temporary / "another").exists()
    finally:
        running.kill()
        running.join()
