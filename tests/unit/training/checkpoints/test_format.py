"""Checkpoints on disk: written as a whole or not at all; damage is named, and an older valid one is found."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import retention
from warmup.training.checkpoints.format import BrokenCheckpoint

FILES = ["config.json", "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]


def filling(step: int, best: int | None = None) -> Callable[[Path], None]:
    """A function that writes small but real files of a checkpoint of `step`, with `best` as the best step so far."""
    state = {"clock": {"step": step, "samples": 32 * step}} | ({"evaluations": {"best_step": best}} if best else {})

    def fill(stage: Path) -> None:
        save_file(
            {"weight": torch.full((3, 2), float(step)), "bias": torch.arange(3.0)}, stage / checkpoint_format.MODEL
        )
        save_file({"weight/exp_avg": torch.full((3, 2), step / 7)}, stage / checkpoint_format.OPTIMIZER)
        (stage / checkpoint_format.STATE).write_text(json.dumps(state, indent=1))
        (stage / "config.json").write_text('{"model_type": "bert"}\n')

    return fill


def written(run: Path, *steps: int, best: int | None = None) -> Path:
    """Write a checkpoint for each of `steps`. Returns the last one."""
    for step in steps:
        checkpoint_format.write(checkpoint_format.checkpoint_path(run, step), filling(step, best))
    return checkpoint_format.checkpoint_path(run, steps[-1])


def names(run: Path) -> list[str]:
    return sorted(os.listdir(run / "checkpoints"))


def damage(folder: Path) -> str:
    """What `verify` says is wrong with a checkpoint."""
    with pytest.raises(BrokenCheckpoint) as caught:
        checkpoint_format.verify(folder)
    text = str(caught.value)
    assert text.startswith(f"{folder}: ") and "\n" not in text
    return text.removeprefix(f"{folder}: ")


# Writing and reading


def test_a_written_checkpoint_is_valid(tmp_path: Path) -> None:
    folder = written(tmp_path, 500)
    assert folder == tmp_path / "checkpoints" / "step-00000500" and sorted(os.listdir(folder)) == FILES
    checkpoint_format.verify(folder)
    assert checkpoint_format.is_complete(folder) and checkpoint_format.newest_valid(tmp_path) == (folder, [])
    assert names(tmp_path) == ["step-00000500"]
    assert load_file(folder / checkpoint_format.MODEL)["weight"].unique().tolist() == [500.0]
    assert checkpoint_format.read_state(folder) == {"clock": {"step": 500, "samples": 16_000}}


def test_the_manifest_has_sizes_and_digests(tmp_path: Path) -> None:
    folder = written(tmp_path, 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == {
        "format": 1,
        "files": {
            name: {
                "bytes": len((folder / name).read_bytes()),
                "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
            }
            for name in FILES
            if name != "manifest.json"
        },
    }


def test_a_large_file_is_read_to_its_end(tmp_path: Path) -> None:
    """A digest of the first megabytes would miss the damage."""
    folder = tmp_path / "checkpoints" / "step-00000001"

    def fill(stage: Path) -> None:
        filling(1)(stage)
        save_file({"weight": torch.zeros(3 << 20)}, stage / checkpoint_format.MODEL)

    checkpoint_format.write(folder, fill)
    checkpoint_format.verify(folder)
    flip(folder / checkpoint_format.MODEL, (12 << 20) + 8)
    assert damage(folder) == "model.safetensors is not what was written (its SHA-256 differs)"


def test_steps_are_found_by_their_number(tmp_path: Path) -> None:
    """Also if the names differ in length, where alphabetical order would be another one."""
    steps = [99, 100, 1000, 99_999_999, 100_000_000, 1_000_000_000]
    for step in (1000, 100_000_000, 99, 1_000_000_000, 100, 99_999_999):
        written(tmp_path, step)
    assert [checkpoint_format.step_of(folder) for folder in checkpoint_format.list_checkpoints(tmp_path)] == steps[::-1]
    assert checkpoint_format.newest_valid(tmp_path) == (checkpoint_format.checkpoint_path(tmp_path, 1_000_000_000), [])


def test_other_folders_are_ignored(tmp_path: Path) -> None:
    assert checkpoint_format.list_checkpoints(tmp_path) == [] and checkpoint_format.newest_valid(tmp_path) == (None, [])
    folder = written(tmp_path, 5)
    for name in (
        "step-",
        "step-9a",
        "xstep-9",
        ".step-00000009.stage",
        "discarded-step-00000009",
        "best",
        "step-9.old",
    ):
        shutil.copytree(folder, folder.with_name(name))
    assert checkpoint_format.newest_valid(tmp_path) == (folder, []) and checkpoint_format.list_checkpoints(
        tmp_path
    ) == [folder]


# Damage


def flip(path: Path, index: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[index] ^= 1 << bit
    path.write_bytes(content)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    """Truncated to 30 lengths in all, at the ends and between, in every file."""
    folder, tried = written(tmp_path, 1), 0
    for name in FILES:
        whole = (folder / name).read_bytes()
        last = len(whole) - 1
        for length in sorted({0, 1, last // 3, last // 2, last - 1, last}):
            (folder / name).write_bytes(whole[:length])
            text = damage(folder)
            if name == "manifest.json":
                assert text == "manifest.json is missing or unreadable"
            else:
                assert text == f"{name} has {length} bytes and not {len(whole)}"
            assert not checkpoint_format.is_complete(folder) and checkpoint_format.newest_valid(tmp_path) == (
                None,
                [f"{folder}: {text}"],
            )
            tried += 1
        (folder / name).write_bytes(whole)
    assert tried == 30
    checkpoint_format.verify(folder)


def test_no_bit_of_the_manifest_may_flip(tmp_path: Path) -> None:
    """Every bit of it matters, so no flipped one may be accepted."""
    folder = written(tmp_path, 1)
    whole = (folder / "manifest.json").read_bytes()
    accepted = []
    for index in range(len(whole)):
        for bit in range(8):
            damaged = whole[:index] + bytes([whole[index] ^ 1 << bit]) + whole[index + 1 :]
            (folder / "manifest.json").write_bytes(damaged)
            try:
                checkpoint_format.verify(folder)
            except BrokenCheckpoint:
                pass
            else:
                accepted.append(damaged[max(index - 10, 0) : index + 10])
    assert accepted == []


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
def test_a_flipped_bit_is_named_with_its_file(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path, 1)
    whole = (folder / name).read_bytes()
    for index in sorted({0, 1, 7, 8, 9, len(whole) // 3, len(whole) // 2, len(whole) - 2, len(whole) - 1}):
        for bit in (0, 7):
            flip(folder / name, index, bit)
            assert damage(folder) == f"{name} is not what was written (its SHA-256 differs)"
            assert checkpoint_format.is_complete(folder)  # its sizes are right
            (folder / name).write_bytes(whole)
    checkpoint_format.verify(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path, 1)
    (folder / name).unlink()
    assert damage(folder) == f"{name} is missing" + (" or unreadable" if name == "manifest.json" else "")
    assert not checkpoint_format.is_complete(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["link", "dangling link", "folder"])
def test_something_else_instead_of_a_file(tmp_path: Path, name: str, kind: str) -> None:
    """A link to the right content is refused too: its target is not part of the checkpoint."""
    folder = written(tmp_path, 1)
    (folder / name).rename(tmp_path / name)
    if kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to(tmp_path / (name if kind == "link" else "nowhere"))
    assert damage(folder) in (f"{name} is missing", f"{name} is missing or unreadable")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    folder = written(tmp_path, 1)
    (folder / "state.json").unlink()
    os.mkfifo(folder / "state.json")
    assert damage(folder) == "state.json is missing"


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("name", ["optimizer.bin", "pytorch_model.bin", "random_states_0.pkl", "data.pt", ".hidden"])
def test_a_planted_pickle_is_no_part_of_it_and_not_opened(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path, 2)
    canary = tmp_path / "canary"
    (folder / name).write_bytes(pickle.dumps(Payload(canary)))
    assert checkpoint_format.newest_valid(tmp_path) == (folder, [])
    assert checkpoint_format.other_files(folder) == [folder / name]
    assert not canary.exists()
    pickle.loads((folder / name).read_bytes())
    assert canary.exists()  # unpickling it would have created the file


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_planted_pickle_under_a_known_name(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path, 1)
    (folder / name).write_bytes(pickle.dumps(Payload(tmp_path / "canary")))
    assert f"{name} has " in damage(folder)
    assert not (tmp_path / "canary").exists()


def change_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("version", [0, 2, -1, "1", None, [1], True, 1.0])
def test_another_format_is_refused_by_its_number(tmp_path: Path, version: object) -> None:
    folder = written(tmp_path, 1)
    change_manifest(folder, lambda manifest: manifest.update(format=version))
    newer = "was written by a newer version of this program: " if version == 2 else ""
    assert damage(folder) == f"{newer}its format is {version!r}, this version reads 1"


@pytest.mark.parametrize("text", [
    "", "null", "3", "[]", "{}", '"files"', '{"format": 1}', '{"format": 1, "files": null}',
    '{"format": 1, "files": []}', '{"format": 1, "files": {"model.safetensors": 3}}', "\0" * 64,
    '{"format": 1, "files": {"model.safetensors": {"bytes": 3}}}',
])  # fmt: skip
def test_a_manifest_without_its_fields(tmp_path: Path, text: str) -> None:
    folder = written(tmp_path, 1)
    (folder / "manifest.json").write_text(text)
    assert damage(folder) == "manifest.json is missing or unreadable"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_manifest_without_what_every_checkpoint_has(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path, 1)
    change_manifest(folder, lambda manifest: manifest["files"].pop(name))
    assert damage(folder) == f"{name} is not in its manifest"
    (folder / name).unlink()
    assert damage(folder) == f"{name} is not in its manifest"


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/file"])
def test_a_manifest_reaches_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path, 1)
    (folder / name).parent.mkdir(exist_ok=True)
    if not Path(name).is_absolute():
        (folder / name).write_text("x")
    change_manifest(folder, lambda manifest: manifest["files"].update({name: {"bytes": 1, "sha256": "x"}}))
    assert damage(folder) == f"{name} is missing"


STRAYS = [".DS_Store", ".nfs000000001", "note.txt", ".cache/huggingface/.gitignore", "copy of model.safetensors"]


def add_strays(folder: Path) -> None:
    for name in STRAYS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_what_else_lies_in_a_folder_does_not_count_and_is_told(tmp_path: Path) -> None:
    folder = written(tmp_path, 1)
    assert checkpoint_format.describe_other_files(folder) == []
    add_strays(folder)
    assert checkpoint_format.newest_valid(tmp_path) == (folder, []) and checkpoint_format.is_complete(folder)
    assert checkpoint_format.describe_other_files(folder) == [
        f"{folder}: .DS_Store, .cache, .nfs000000001, copy of model.safetensors, note.txt: no part of the checkpoint, "
        "left alone"
    ]
    (folder / "a\nb").touch()
    (folder / "c").touch()
    (words,) = checkpoint_format.describe_other_files(folder)
    assert "'a\\nb', c and 2 more: no part" in words and "\n" not in words
    assert all((folder / name).read_text() == name for name in STRAYS)
    flip(folder / checkpoint_format.MODEL, -1)
    assert damage(folder) == "model.safetensors is not what was written (its SHA-256 differs)"


def test_a_copy_under_the_name_of_another_step_is_told(tmp_path: Path) -> None:
    folder = written(tmp_path, 4)
    copy = Path(shutil.copytree(folder, checkpoint_format.checkpoint_path(tmp_path, 9)))
    checkpoint_format.check_step(folder)
    checkpoint_format.check_step(checkpoint_format.set_aside(folder))
    with pytest.raises(BrokenCheckpoint) as caught:
        checkpoint_format.check_step(copy)
    assert str(caught.value) == (
        f"{copy}: holds the checkpoint of step 4; rename it after that step, or remove it if it is a copy"
    )


def test_evaluations_are_added_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before or after any of the renames, the checkpoint is valid, and has the evaluation or does not."""
    given = {"best_step": 7}
    for again in (False, True):
        for number in range(1, 5):
            for after in (False, True):
                run = tmp_path / f"{again}-{number}-{after}"
                run.mkdir()
                folder = written(run, 7)
                if again:
                    checkpoint_format.add_evaluations(folder, {"best_step": 3})

                def work(folder: Path = folder) -> None:
                    checkpoint_format.add_evaluations(folder, given)

                replaced = killed_at_rename(monkeypatch, number, after, work, "replace")
                assert replaced == (number <= 2 + again)
                checkpoint_format.verify(folder)
                assert checkpoint_format.read_state(folder).get("evaluations") in (None, {"best_step": 3}, given)
                assert checkpoint_format.other_files(folder) in ([], [folder / "evaluations.json"])
                retention.remove_leftovers(run)
                assert [path for path in folder.iterdir() if path.name.startswith(".")] == []
                work()
                checkpoint_format.verify(folder)
                assert checkpoint_format.read_state(folder)["evaluations"] == given
    assert checkpoint_format.read_state(folder)["clock"]["step"] == 7


def test_evaluations_that_the_manifest_does_not_name_are_not_read(tmp_path: Path) -> None:
    folder = written(tmp_path, 7)
    (folder / "evaluations.json").write_text('{"best_step": 1}')
    checkpoint_format.verify(folder)
    assert "evaluations" not in checkpoint_format.read_state(folder)


def test_a_half_made_folder_is_no_checkpoint(tmp_path: Path) -> None:
    """Whatever a kill left of it: a hidden folder, or one without a manifest."""
    older = written(tmp_path, 1)
    half = checkpoint_format.checkpoint_path(tmp_path, 2)
    shutil.copytree(older, half.with_name(".step-00000002.stage"))
    assert checkpoint_format.newest_valid(tmp_path) == (older, [])
    half.mkdir()
    filling(2)(half)
    assert checkpoint_format.newest_valid(tmp_path) == (older, [f"{half}: manifest.json is missing or unreadable"])
    shutil.rmtree(half)
    half.write_text("a file")
    assert checkpoint_format.newest_valid(tmp_path) == (older, [f"{half}: manifest.json is missing or unreadable"])
    half.unlink()
    half.symlink_to(tmp_path / "nowhere")
    assert checkpoint_format.newest_valid(tmp_path) == (older, [f"{half}: manifest.json is missing or unreadable"])


def test_the_newest_valid_one_is_found_and_each_newer_one_named(tmp_path: Path) -> None:
    written(tmp_path, 1, 2, 3, 4, 5)
    folders = [checkpoint_format.checkpoint_path(tmp_path, step) for step in (1, 2, 3, 4, 5)]
    flip(folders[4] / checkpoint_format.MODEL, -1)
    (folders[3] / "state.json").unlink()
    (folders[2] / "manifest.json").unlink()
    (folders[0] / "state.json").unlink()  # older than the newest valid one: not checked
    newest, skipped = checkpoint_format.newest_valid(tmp_path)
    assert newest == folders[1]
    assert skipped == [
        f"{folders[4]}: model.safetensors is not what was written (its SHA-256 differs)",
        f"{folders[3]}: state.json is missing",
        f"{folders[2]}: manifest.json is missing or unreadable",
    ]
    (folders[1] / "config.json").unlink()
    newest, skipped = checkpoint_format.newest_valid(tmp_path)
    assert newest is None and len(skipped) == 5


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read error is damage like any other: an older checkpoint may be valid."""
    older, folder = written(tmp_path, 1), written(tmp_path, 2)

    def unreadable(path: Path) -> str:
        if path == folder / checkpoint_format.OPTIMIZER:
            raise OSError(5, "Input/output error", str(path))
        return digest(path)

    digest = checkpoint_format._sha256
    monkeypatch.setattr(checkpoint_format, "_sha256", unreadable)
    newest, (skipped,) = checkpoint_format.newest_valid(tmp_path)
    assert newest == older and skipped.startswith(f"{folder}: optimizer.safetensors ")


# Errors in writing


@pytest.mark.parametrize("error", [
    OSError(28, "No space left on device"), SafetensorError("Error while serializing: I/O error"), ValueError("other"),
])  # fmt: skip
@pytest.mark.parametrize("how_far", ["nothing", "a half", "all"])
def test_after_an_error_nothing_is_left_and_older_ones_are_untouched(
    tmp_path: Path, error: Exception, how_far: str
) -> None:
    older = written(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in older.iterdir()}

    def fill(stage: Path) -> None:
        if how_far != "nothing":
            filling(2)(stage)
        if how_far == "a half":
            (stage / checkpoint_format.STATE).unlink()
            os.truncate(stage / checkpoint_format.MODEL, 10)
        raise error

    with pytest.raises(ValueError if isinstance(error, ValueError) else OSError) as caught:
        checkpoint_format.write(checkpoint_format.checkpoint_path(tmp_path, 2), fill)
    if isinstance(error, SafetensorError):
        words = "cannot be written, is there space left? (Error while serializing: I/O error)"
        assert (caught.value.strerror, caught.value.filename) == (
            words,
            str(checkpoint_format.checkpoint_path(tmp_path, 2)),
        )
    else:
        assert caught.value is error
    assert names(tmp_path) == ["step-00000001"]
    assert {path.name: path.read_bytes() for path in older.iterdir()} == before
    assert written(tmp_path, 2).is_dir()  # and the next attempt succeeds


@pytest.mark.parametrize("call", range(1, 7))
def test_a_disk_that_fails_at_a_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """An error at each flush: of the four files, the manifest and the folder."""
    older, calls = written(tmp_path, 1), []

    def flush(path: Path) -> None:
        calls.append(path.name)
        if len(calls) == call:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint_format, "flush_to_disk", flush)
    with pytest.raises(OSError, match="Input/output error"):
        checkpoint_format.write(checkpoint_format.checkpoint_path(tmp_path, 2), filling(2))
    assert names(tmp_path) == ["step-00000001"] and checkpoint_format.newest_valid(tmp_path) == (older, [])


def test_everything_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files and the manifest, then the folder, before the rename; the parent folder after it."""
    events = []
    flush, rename = checkpoint_format.flush_to_disk, Path.rename
    monkeypatch.setattr(
        checkpoint_format, "flush_to_disk", lambda path: (events.append(f"flush {path.name}"), flush(path))
    )
    monkeypatch.setattr(Path, "rename", lambda self, to: (events.append(f"rename {self.name}"), rename(self, to))[1])
    written(tmp_path, 1)
    stage = ".step-00000001.stage"
    data = [f"flush {name}" for name in FILES if name != "manifest.json"]
    assert events == [*data, "flush manifest.json", f"flush {stage}", f"rename {stage}", "flush checkpoints"]


def test_what_an_earlier_process_left_behind_is_no_part_of_it(tmp_path: Path) -> None:
    stage = checkpoint_format.checkpoint_path(tmp_path, 1).with_name(".step-00000001.stage")
    (stage / "deep").mkdir(parents=True)
    (stage / "stray").write_text("")
    assert sorted(os.listdir(written(tmp_path, 1))) == FILES and names(tmp_path) == ["step-00000001"]


@pytest.mark.parametrize("damage", ["cut", "no manifest", "empty", "whole"])
def test_an_existing_checkpoint_is_set_aside(tmp_path: Path, damage: str) -> None:
    older, folder = written(tmp_path, 1), written(tmp_path, 2)
    if damage == "cut":
        os.truncate(folder / checkpoint_format.MODEL, 10)
    if damage == "no manifest":
        (folder / "manifest.json").unlink()
    if damage == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    written(tmp_path, 2)
    assert names(tmp_path) == ["discarded-step-00000002", "step-00000001", "step-00000002"]
    aside = folder.with_name("discarded-step-00000002")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == left  # nothing is lost
    assert checkpoint_format.newest_valid(tmp_path) == (folder, [])
    checkpoint_format.verify(older)


def test_set_aside_again_and_again(tmp_path: Path) -> None:
    discarded = [checkpoint_format.set_aside(written(tmp_path, step)).name for step in (7, 7, 7)]
    assert discarded == [f"discarded-step-00000007{more}" for more in ("", "-2", "-3")]
    assert names(tmp_path) == discarded and checkpoint_format.list_checkpoints(tmp_path) == []


# Removing


def left_after(run: Path, keep: int, best: int | None, steps: tuple[int, ...] = (98, 99, 100, 1000)) -> list[int]:
    written(run, *steps, best=best)
    retention.prune(run, keep)
    return [checkpoint_format.step_of(folder) for folder in checkpoint_format.list_checkpoints(run)]


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [
        (2, None, [1000, 100]),
        (3, None, [1000, 100, 99]),
        (9, None, [1000, 100, 99, 98]),
        (1, None, [1000, 100]),  # never fewer than two
        (0, None, [1000, 100]),
        (2, 98, [1000, 100, 98]),
        (2, 100, [1000, 100]),
        (2, 12345, [1000, 100]),
        (3, 98, [1000, 100, 99, 98]),
    ],
)
def test_the_newest_and_the_best_are_kept(tmp_path: Path, keep: int, best: int | None, left: list[int]) -> None:
    assert left_after(tmp_path, keep, best) == left
    assert all(name.startswith("step-") for name in names(tmp_path))
    for folder in checkpoint_format.list_checkpoints(tmp_path):
        checkpoint_format.verify(folder)


def test_the_best_one_up_to_each_that_is_kept_is_kept(tmp_path: Path) -> None:
    """If the newest is damaged, a run is resumed from the one before it, up to which another was the best."""
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 4)):
        written(tmp_path, step, best=best)
    retention.prune(tmp_path, 2)
    assert [checkpoint_format.step_of(folder) for folder in checkpoint_format.list_checkpoints(tmp_path)] == [4, 3, 2]
    state = checkpoint_format.checkpoint_path(tmp_path, 3) / checkpoint_format.STATE
    state.write_text("{" * state.stat().st_size)  # of the right size, but no run can be resumed from it
    assert (
        checkpoint_format.is_complete(checkpoint_format.checkpoint_path(tmp_path, 3))
        and retention.best_step(tmp_path / "nowhere") is None
    )
    retention.prune(tmp_path, 2)
    assert [checkpoint_format.step_of(folder) for folder in checkpoint_format.list_checkpoints(tmp_path)] == [4, 3]


@pytest.mark.parametrize("step", [3, 2])
def test_the_best_one_is_copied_into_another_run_directory(tmp_path: Path, step: int) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for run in (old, new):
        run.mkdir()
    written(old, 1, 2, 3, best=2)
    retention.adopt_best(checkpoint_format.checkpoint_path(old, step), new)
    assert names(new) == ["step-00000002"]
    ours, theirs = (checkpoint_format.checkpoint_path(run, 2) for run in (new, old))
    checkpoint_format.verify(ours)
    assert {path.name: path.read_bytes() for path in ours.iterdir()} == {
        path.name: path.read_bytes() for path in theirs.iterdir()
    }


@pytest.mark.parametrize("damage", ["flipped", "gone", "none"])
def test_a_best_one_that_is_lost_is_not_copied(tmp_path: Path, damage: str) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for run in (old, new):
        run.mkdir()
    written(old, 2, 3, best=None if damage == "none" else 2)
    if damage == "flipped":
        flip(checkpoint_format.checkpoint_path(old, 2) / checkpoint_format.MODEL, -1)
    if damage == "gone":
        shutil.rmtree(checkpoint_format.checkpoint_path(old, 2))
    retention.adopt_best(checkpoint_format.checkpoint_path(old, 3), new)
    assert list(new.iterdir()) == []


def test_beyond_eight_digits_the_newest_is_kept_too(tmp_path: Path) -> None:
    steps = (99_999_998, 99_999_999, 100_000_000, 100_000_001)
    assert left_after(tmp_path, 2, None, steps) == [100_000_001, 100_000_000]


def test_the_order_is_of_steps_and_not_of_writing(tmp_path: Path) -> None:
    assert left_after(tmp_path, 2, None, (1000, 100, 99, 98)) == [1000, 100]


@pytest.mark.parametrize("damage", ["cut", "no manifest"])
def test_incomplete_checkpoints_neither_count_nor_are_removed(tmp_path: Path, damage: str) -> None:
    written(tmp_path, 1, 2, 3, 4, 5)
    for step in (4, 5):
        folder = checkpoint_format.checkpoint_path(tmp_path, step)
        if damage == "cut":
            os.truncate(folder / checkpoint_format.OPTIMIZER, 10)
        if damage == "no manifest":
            (folder / "manifest.json").unlink()
    retention.prune(tmp_path, 2)
    assert [checkpoint_format.step_of(folder) for folder in checkpoint_format.list_checkpoints(tmp_path)] == [
        5,
        4,
        3,
        2,
    ]


def test_other_files_outlive_the_checkpoint_that_they_lie_in(tmp_path: Path) -> None:
    """All but hidden ones. They neither keep an old checkpoint nor are copied with one."""
    for step in (1, 2, 3):
        add_strays(written(tmp_path, step, best=3))
    (checkpoint_format.checkpoint_path(tmp_path, 2) / ".DS_Store").unlink()
    written(tmp_path, 4, best=3)
    for name in STRAYS[2:]:  # step 2 has hidden ones alone
        if not name.startswith("."):
            (checkpoint_format.checkpoint_path(tmp_path, 2) / name).unlink()
    retention.prune(tmp_path, 2)
    assert names(tmp_path) == ["discarded-step-00000001", "step-00000003", "step-00000004"]
    left = tmp_path / "checkpoints" / "discarded-step-00000001"
    assert sorted(path.name for path in left.iterdir()) == sorted(name.partition("/")[0] for name in STRAYS)
    other = tmp_path / "other"
    other.mkdir()
    retention.adopt_best(checkpoint_format.checkpoint_path(tmp_path, 4), other)
    assert sorted(os.listdir(checkpoint_format.checkpoint_path(other, 3))) == FILES


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    folder = written(tmp_path, 1)
    for name in (".step-00000007.stage", ".step-00000000.old"):
        shutil.copytree(folder, folder.with_name(name))
    for name in ("discarded-step-00000007", ".mine", "notes"):
        folder.with_name(name).mkdir()
    retention.prune(tmp_path, 2)
    assert names(tmp_path) == [".mine", "discarded-step-00000007", "notes", "step-00000001"]


# Kills


class Killed(BaseException):
    """Like KeyboardInterrupt: not an Exception."""


def killed_at_rename(
    monkeypatch: pytest.MonkeyPatch, number: int, after: bool, work: Callable[[], object], name: str = "rename"
) -> bool:
    """Run `work` in a child process that ends, as if killed, at its n-th rename, or call of Path's other method `name`.
    Returns whether it got that far.
    """
    child = os.fork()
    if child == 0:
        count, rename = 0, getattr(Path, name)

        def stop(self: Path, target: Path) -> Path:
            nonlocal count
            count += 1
            if count == number and not after:
                os._exit(9)
            result = rename(self, target)
            if count == number:
                os._exit(9)
            return result

        monkeypatch.setattr(Path, name, stop)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("existing", ["nothing", "broken"])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_kill_at_a_rename_leaves_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, existing: str, after: bool
) -> None:
    """At every rename: writing, setting a broken one aside, and removing older ones."""
    written(tmp_path, 1, 2, 3)
    old, new = checkpoint_format.checkpoint_path(tmp_path, 3), checkpoint_format.checkpoint_path(tmp_path, 4)
    if existing == "broken":
        new.mkdir()

    def work() -> None:
        written(tmp_path, 4)
        retention.prune(tmp_path, 2)

    renames = {"nothing": 3, "broken": 4}[existing]  # (set aside,) in place, two removed
    assert killed_at_rename(monkeypatch, number, after, work) == (number <= renames)
    newest, _ = checkpoint_format.newest_valid(tmp_path)
    in_place = number > renames - 2 or (after and number == renames - 2)
    assert newest == (new if in_place else old)
    checkpoint_format.verify(newest)
    work()  # the next attempt
    assert checkpoint_format.newest_valid(tmp_path) == (new, [])
    assert [checkpoint_format.step_of(folder) for folder in checkpoint_format.list_checkpoints(tmp_path)] == [4, 3]
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


@pytest.mark.parametrize("number", range(1, 6))
def test_a_kill_while_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """At each of the files, the manifest last."""
    old = written(tmp_path, 3)
    child = os.fork()
    if child == 0:
        flush, count = checkpoint_format.flush_to_disk, 0

        def stop(path: Path) -> None:
            nonlocal count
            count += 1
            if count == number:
                os._exit(9)
            flush(path)

        checkpoint_format.flush_to_disk = stop
        try:
            written(tmp_path, 4)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert names(tmp_path) == [".step-00000004.stage", "step-00000003"]
    assert checkpoint_format.newest_valid(tmp_path) == (old, [])
    new = written(tmp_path, 4)
    assert checkpoint_format.newest_valid(tmp_path) == (new, []) and names(tmp_path) == [
        "step-00000003",
        "step-00000004",
    ]


def test_an_interrupt_leaves_no_half_written_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that does not come from the disk."""
    old = written(tmp_path, 3)

    def stop(self: Path, target: Path) -> Path:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        with pytest.raises(Killed):
            written(tmp_path, 4)
    assert names(tmp_path) == ["step-00000003"] and checkpoint_format.newest_valid(tmp_path) == (old, [])
