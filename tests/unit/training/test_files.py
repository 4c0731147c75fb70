"""Files and folders that are written as a whole or not at all: errors, kills, and what other processes left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from warmup.training.files import flush_to_disk, staged_file, staged_folder, write_json, write_text


class Interrupted(BaseException):
    """Like KeyboardInterrupt: not an Exception."""


ERRORS = [OSError(28, "No space left on device"), ValueError("other"), Interrupted()]


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def content(folder: Path) -> dict[str, str]:
    """Text of all files below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def killed(work: Callable[[], object]) -> None:
    """Run `work` in a child process, which must end by os._exit(9) in the middle of it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


# Files


def test_a_text_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    for text in ("one\n", "ü\r\n", ""):
        write_text(path, text)
        assert path.read_bytes() == text.encode() and names(tmp_path) == ["file.txt"]


def test_json_is_indented_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"a": [1, 2.5], "b": "é"})
    text = (tmp_path / "file.json").read_text()
    assert json.loads(text) == {"a": [1, 2.5], "b": "é"} and text.startswith('{\n "a"') and text.endswith("}\n")


def test_what_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert content(tmp_path) == {"file.json": "1\n"}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("old", [None, "old"])
def test_an_error_in_the_middle_leaves_the_old_file(tmp_path: Path, error: BaseException, old: str | None) -> None:
    path = tmp_path / "file"
    if old:
        path.write_text(old)
    with pytest.raises(type(error)) as caught:
        with staged_file(path) as stage:
            stage.write_text("half")
            assert path.exists() == bool(old)
            raise error
    assert caught.value is error
    assert content(tmp_path) == ({"file": old} if old else {})


def test_an_error_before_anything_is_written_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        write_text(tmp_path / "missing" / "file", "text")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(NotADirectoryError):
        write_text(tmp_path / "taken" / "file", "text")


def test_a_file_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Path, target: Path) -> Path:
        raise OSError(5, "Input/output error")

    write_text(tmp_path / "file", "old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing)
        with pytest.raises(OSError, match="Input/output error"):
            write_text(tmp_path / "file", "new")
    assert content(tmp_path) == {"file": "old"}


def test_a_kill_in_the_middle_leaves_the_old_file_and_the_next_write_removes_the_stage(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def work() -> None:
        with staged_file(path) as stage:
            stage.write_text("a longer text that another process left")
            os._exit(9)

    killed(work)
    assert path.read_text() == "old" and names(tmp_path) == [".file.stage", "file"]
    write_text(path, "new")
    assert content(tmp_path) == {"file": "new"}


# Folders


def fill(stage: Path, text: str) -> None:
    (stage / "deep").mkdir()
    (stage / "deep" / "file").write_text(text)


def written(target: Path, text: str) -> None:
    with staged_folder(target) as stage:
        assert names(stage) == []
        fill(stage, text)


def test_a_folder_is_written_and_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    written(target, "one")
    (target / "more").write_text("of the old one")
    with staged_folder(target) as stage:
        fill(stage, "two")
        assert content(target) == {"deep/file": "one", "more": "of the old one"}  # until the end
    assert content(tmp_path) == {"folder/deep/file": "two"} and names(tmp_path) == ["folder"]


def test_an_empty_folder_is_one_too(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "folder"):
        pass
    assert (tmp_path / "folder").is_dir() and names(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("old", [None, "old"])
def test_an_error_in_the_middle_leaves_the_old_folder(tmp_path: Path, error: BaseException, old: str | None) -> None:
    target = tmp_path / "folder"
    if old:
        written(target, old)
    with pytest.raises(type(error)) as caught:
        with staged_folder(target) as stage:
            fill(stage, "half")
            raise error
    assert caught.value is error
    assert content(tmp_path) == ({"folder/deep/file": old} if old else {})
    assert names(tmp_path) == (["folder"] if old else [])


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("number", [1, 2])
def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException
) -> None:
    """Whichever of the two renames fails."""
    written(tmp_path / "folder", "old")
    count, rename = 0, Path.rename

    def failing(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == number:
            raise error
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(type(error)):
            written(tmp_path / "folder", "new")
    assert content(tmp_path) == {"folder/deep/file": "old"} and names(tmp_path) == ["folder"]


def test_leftovers_of_another_process_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".folder.stage", ".folder.old", ".other.stage", ".other.old", "folder.stage"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stray").write_text("")
    written(tmp_path / "folder", "new")
    assert names(tmp_path) == [".other.old", ".other.stage", "folder", "folder.stage"]
    assert content(tmp_path / "folder") == {"deep/file": "new"}


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_leaves_an_old_or_a_new_folder_and_the_next_write_the_new_one(tmp_path: Path, renames: int) -> None:
    """Killed while filling it, between the two renames, and before the old one is removed."""
    target = tmp_path / "folder"
    written(target, "old")

    def work() -> None:
        count, rename = 0, Path.rename

        def counting(self: Path, to: Path) -> Path:
            nonlocal count
            renamed, count = rename(self, to), count + 1
            if count == renames:
                os._exit(9)
            return renamed

        Path.rename = counting
        with staged_folder(target) as stage:
            fill(stage, "new")
            if not renames:
                os._exit(9)

    killed(work)
    left = {
        0: {"folder": "old", ".folder.stage": "new"},
        1: {".folder.old": "old", ".folder.stage": "new"},  # the only moment without a target
        2: {"folder": "new", ".folder.old": "old"},
    }
    assert content(tmp_path) == {f"{name}/deep/file": text for name, text in left[renames].items()}
    written(target, "newer")
    assert content(tmp_path) == {"folder/deep/file": "newer"} and names(tmp_path) == ["folder"]


def test_parents_are_not_made(tmp_path: Path) -> None:
    """A run directory that vanished is not made anew."""
    with pytest.raises(FileNotFoundError):
        written(tmp_path / "missing" / "folder", "text")
    assert names(tmp_path) == []


def test_files_and_folders_can_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (flushed.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
    )
    write_text(tmp_path / "file", "text")
    flush_to_disk(tmp_path / "file")
    flush_to_disk(tmp_path)
    assert flushed == [str(tmp_path / "file"), str(tmp_path)]


# Modes, and errors without a name


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_of_a_folder_are_as_readable_as_the_umask_says(umask: int, mode: int, tmp_path: Path) -> None:
    """Whatever a library gives them."""
    before = os.umask(umask)
    try:
        with staged_folder(tmp_path / "a") as stage:
            (stage / "below").mkdir()
            for path in (stage / "secret", stage / "below" / "secret", stage / "open"):
                path.touch(mode=0o600 if path.name == "secret" else 0o666)
    finally:
        os.umask(before)
    found = [path.stat().st_mode & 0o777 for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert found == [mode] * 3


def test_an_error_that_names_no_file_gets_the_targets_name(tmp_path: Path) -> None:
    for write in (staged_file, staged_folder):
        with pytest.raises(OSError) as caught, write(tmp_path / "a"):
            raise OSError(28, "No space left on device")
        assert caught.value.filename == str(tmp_path / "a")
        with pytest.raises(OSError) as caught, write(tmp_path / "a"):
            raise OSError(28, "No space left on device", "other")
        assert caught.value.filename == "other"
