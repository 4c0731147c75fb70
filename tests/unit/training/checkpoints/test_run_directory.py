"""The run directory: made or locked by one run alone, and cut back to where a run is resumed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import ROOT

from warmup.errors import UserError
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import run_directory
from warmup.training.checkpoints.state import ResumePoint
from warmup.training.files import write_text


@pytest.fixture
def claimed(tmp_path: Path) -> Iterator[Path]:
    """A run directory that another process has claimed."""
    folder = tmp_path / "claimed"
    folder.mkdir()
    script = (
        "import sys; from pathlib import Path; from warmup.training.checkpoints.run_directory import claim\n"
        "claim(Path(sys.argv[1])); print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "mine\n"
        yield folder
        other.kill()


# A new one


def test_an_occupied_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    occupied, file, empty = tmp_path / "occupied", tmp_path / "file", tmp_path / "empty"
    occupied.mkdir()
    (occupied / ".hidden").write_text("mine")
    file.write_text("mine")
    empty.mkdir()
    text = "is occupied; give another one, remove it, or go on with it: --resume auto"
    for path in (occupied, file):
        for check in (run_directory.check_unoccupied, lambda path: run_directory.create(path, "mlm")):
            with pytest.raises(UserError, match=rf"^run_dir: {path} {text}$"):
                check(str(path))
    for path in (str(empty), str(tmp_path / "new" / "nested"), None):
        run_directory.check_unoccupied(path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".hidden", "empty", "file", "occupied"]


def test_what_is_occupied(tmp_path: Path) -> None:
    """A run that ended before it wrote anything leaves a lock alone."""
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / ".lock").touch()
    assert not run_directory.is_occupied(tmp_path / "locked") and not run_directory.is_occupied(tmp_path / "missing")
    assert run_directory.is_occupied(tmp_path) and run_directory.is_occupied(tmp_path / "locked" / ".lock")


def test_directories_that_are_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "new" / "nested"):
        assert run_directory.create(str(path), "mlm") == path
        assert (path / "metrics.jsonl").read_text() == ""  # by which it is known as a run directory
        assert run_directory.is_occupied(path)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"^run_dir: {tmp_path}/file/run cannot be made: Not a directory$"):
        run_directory.create(str(tmp_path / "file" / "run"), "mlm")


@pytest.mark.timeout(5)
def test_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"^run_dir: {tmp_path}/link "):
        run_directory.create(str(tmp_path / "link"), "mlm")


def test_the_default_is_the_task_and_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    made = run_directory.create(None, "classification")
    assert re.fullmatch(r"runs/classification-\d{8}T\d{6}Z", str(made)) and made.is_dir()

    class Frozen(run_directory.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 2, 3, 4, 5, 6, tzinfo=tz)

    monkeypatch.setattr(run_directory, "datetime", Frozen)
    names = [str(run_directory.create(None, "mlm")) for _ in range(3)]  # all within one second
    stem = "runs/mlm-20310203T040506Z"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]


# Claiming it


def test_a_directory_that_another_run_has_claimed_is_refused(claimed: Path) -> None:
    text = "is in use by another run; wait for it, or give another one"
    with pytest.raises(UserError, match=f"^run_dir: {claimed} {text}$"):
        run_directory.claim(claimed)
    assert run_directory._held == []


def test_a_run_that_was_quicker_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run claimed it, wrote to it and ended, all between the check and the claim."""

    def late(folder: Path) -> None:
        (folder / "result.json").write_text("theirs")

    monkeypatch.setattr(run_directory, "claim", late)
    with pytest.raises(UserError, match=f"^run_dir: {tmp_path}/run is occupied;"):
        run_directory.create(str(tmp_path / "run"), "mlm")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result.json"]


def test_a_released_directory_can_be_claimed_again(tmp_path: Path) -> None:
    one, other = (run_directory.create(str(tmp_path / name), "mlm") for name in ("one", "other"))
    run_directory.release(one)
    run_directory.release(tmp_path / "never")
    assert [Path(lock.lock_file).parent for lock in run_directory._held] == [other]
    run_directory.claim(one)


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    """However it ends."""
    script = (
        "import os, sys; from pathlib import Path; from warmup.training.checkpoints.run_directory import claim\n"
        "claim(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT).returncode == -9
    run_directory.claim(tmp_path)
    assert len(run_directory._held) == 1


def test_a_directory_that_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=f"^run_dir: {tmp_path} cannot be locked: Is a directory$"):
        run_directory.claim(tmp_path)


# Resuming in it


def truncate(folder: Path, position: int, evaluated: int = 10**6) -> None:
    """As entering a run directory does, at a position in the data stream; -1: afresh."""
    state = {"clock": {"consumed_samples": position}, "evaluations": {"evaluated": {"consumed_samples": evaluated}}}
    for path, text in run_directory.truncated_logs(folder, state if position >= 0 else {}).items():
        write_text(path, text)


def log(folder: Path, name: str, *lines: object) -> Path:
    path = folder / name
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_a_log_is_truncated_to_the_position_and_no_further(tmp_path: Path) -> None:
    kept = [
        {"kind": "train", "consumed_samples": 32},
        {"kind": "eval", "consumed_samples": 64},
        {"kind": "checkpoint", "consumed_samples": 64},
    ]
    later = [{"kind": "train", "consumed_samples": 65}, {"kind": "train", "consumed_samples": 1000}]
    metrics = log(tmp_path, "metrics.jsonl", *kept, *later)
    samples = log(tmp_path, "samples.jsonl", {"consumed_samples": 96, "ids": [1]}, {"consumed_samples": 64, "ids": [2]})
    other = log(tmp_path, "other.jsonl", {"consumed_samples": 96})
    truncate(tmp_path, 64)
    assert [json.loads(line) for line in metrics.read_text().splitlines()] == kept
    assert metrics.read_text().endswith("}\n")
    assert samples.read_text() == '{"consumed_samples": 64, "ids": [2]}\n'  # even after a later line
    assert other.read_text() == '{"consumed_samples": 96}\n'
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "other.jsonl", "samples.jsonl"]
    truncate(tmp_path, -1)
    assert metrics.read_text() == samples.read_text() == ""


@pytest.mark.parametrize(
    "torn",
    [
        '{"kind": "train", "dra',
        "\0\0\0\0",
        "3\n",
        '{"kind": "train"}\n',
        "[]",
        "\n\n",
        '{"consumed_samples": "64"}',
        '{"consumed_samples": NaN}',
        '"consumed_samples"',
        "[" * 10**5,
    ],
)
def test_an_incomplete_line_is_removed(tmp_path: Path, torn: str) -> None:
    metrics = log(tmp_path, "metrics.jsonl", {"consumed_samples": 32}, torn)
    truncate(tmp_path, 64)
    assert metrics.read_text() == '{"consumed_samples": 32}\n'


def test_an_evaluation_that_the_checkpoint_does_not_know_is_removed(tmp_path: Path) -> None:
    """The run makes it again at the same position."""
    kept = [{"kind": "eval", "consumed_samples": 32}, {"kind": "checkpoint", "consumed_samples": 64}]
    metrics = log(tmp_path, "metrics.jsonl", *kept, {"kind": "eval", "consumed_samples": 64})
    truncate(tmp_path, 64, evaluated=64)
    assert len(metrics.read_text().splitlines()) == 3
    truncate(tmp_path, 64, evaluated=32)
    assert [json.loads(line) for line in metrics.read_text().splitlines()] == kept


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_log_that_is_not_utf_8_is_refused_before_anything_is_changed(tmp_path: Path, name: str) -> None:
    folder = run_with(tmp_path / "run", 1, 2)
    (folder / "samples.jsonl").write_bytes(b'{"consumed_samples": 96}\n')
    (folder / name).write_bytes(b'{"consumed_samples": 32}\n{"note": "caf\xe9"}\n')
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    later = (checkpoint_format.checkpoint_path(folder, 2),)
    point = ResumePoint(checkpoint_format.checkpoint_path(folder, 1), str(folder), abandoned=later, state=STATE_32)
    with pytest.raises(UserError) as caught:
        run_directory.enter(str(folder), "mlm", point)
    assert str(caught.value) == (
        f"{folder}/{name}: line 2 is not UTF-8: mend or remove the line, or move the file away"
    )
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before


def test_a_last_line_without_its_end_is_completed(tmp_path: Path) -> None:
    metrics = log(tmp_path, "metrics.jsonl", '{"consumed_samples": 32}')
    truncate(tmp_path, 64)
    assert metrics.read_text() == '{"consumed_samples": 32}\n'


def test_the_older_name_of_the_position_is_read(tmp_path: Path) -> None:
    metrics = log(tmp_path, "metrics.jsonl", {"drawn": 32}, {"drawn": 96}, {"consumed_samples": 64})
    truncate(tmp_path, 64)
    assert metrics.read_text() == '{"drawn": 32}\n{"consumed_samples": 64}\n'


def test_without_logs_nothing_is_truncated(tmp_path: Path) -> None:
    truncate(tmp_path, 64)
    assert list(tmp_path.iterdir()) == []


STATE_32 = {"clock": {"consumed_samples": 32}}


def run_with(folder: Path, *steps: int) -> Path:
    """A run directory with a log line and a folder for each step of 32."""
    for step in steps:
        checkpoint_format.checkpoint_path(folder, step).mkdir(parents=True)
    log(folder, "metrics.jsonl", *({"step": step, "consumed_samples": 32 * step} for step in steps))
    return folder


def test_entering_sets_aside_what_is_later(tmp_path: Path) -> None:
    folder = run_with(tmp_path / "run", 1, 2, 3)
    resume_point = ResumePoint(
        checkpoint_format.checkpoint_path(folder, 1),
        str(folder),
        abandoned=(checkpoint_format.checkpoint_path(folder, 3), checkpoint_format.checkpoint_path(folder, 2)),
        state={"clock": {"consumed_samples": 32}},
    )
    assert run_directory.enter(str(folder), "mlm", resume_point) == folder
    names = ["discarded-step-00000002", "discarded-step-00000003", "step-00000001"]
    assert sorted(os.listdir(folder / "checkpoints")) == names
    assert (folder / "metrics.jsonl").read_text() == '{"step": 1, "consumed_samples": 32}\n'


def test_entering_afresh_empties_the_logs(tmp_path: Path) -> None:
    folder = run_with(tmp_path / "run", 0, 1)
    resume_point = ResumePoint(
        None,
        str(folder),
        abandoned=(checkpoint_format.checkpoint_path(folder, 1), checkpoint_format.checkpoint_path(folder, 0)),
    )
    assert run_directory.enter(str(folder), "mlm", resume_point) == folder
    assert sorted(os.listdir(folder / "checkpoints")) == ["discarded-step-00000000", "discarded-step-00000001"]
    assert (folder / "metrics.jsonl").read_text() == ""


def test_entering_a_new_one_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the checkpoint is another run's, which keeps everything."""
    monkeypatch.chdir(tmp_path)
    other = run_with(tmp_path / "other", 1, 2)
    before = sorted(other.rglob("*"))
    resume_point = ResumePoint(
        checkpoint_format.checkpoint_path(other, 1), str(tmp_path / "new"), state={"clock": {"consumed_samples": 32}}
    )
    assert run_directory.enter(str(tmp_path / "new"), "mlm", resume_point) == tmp_path / "new"
    (tmp_path / "empty").mkdir()
    assert run_directory.enter(str(tmp_path / "empty"), "mlm", ResumePoint(None, str(tmp_path / "empty"))).is_dir()
    assert run_directory.enter(None, "mlm", ResumePoint(None, None)).parent == Path("runs")
    assert sorted(other.rglob("*")) == before and "2" in (other / "metrics.jsonl").read_text()
    assert len(run_directory._held) == 3  # all are this process's now


def test_a_log_is_truncated_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = log(tmp_path, "metrics.jsonl", {"consumed_samples": 32}, {"consumed_samples": 96})
    before = metrics.read_text()

    def half(self: Path, text: str, **_) -> None:
        with open(self, "w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(OSError):
            truncate(tmp_path, 64)
    assert metrics.read_text() == before
    truncate(tmp_path, 64)
    assert metrics.read_text() == '{"consumed_samples": 32}\n' and os.listdir(tmp_path) == ["metrics.jsonl"]
