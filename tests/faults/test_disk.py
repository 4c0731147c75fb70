"""A disk that is full, read-only or gone: one line that names the path and the checkpoint to resume from, exit code 2,
and earlier checkpoints untouched."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Ended, assert_each_sample_once, assert_same_end, train

from warmup.training.checkpoints import format as checkpoint_format

BOUND_S = 40  # of two ranks that run into it, at --launch.timeout 20


@pytest.fixture(scope="module")
def job(mlm: tuple[str, ...]) -> tuple[object, ...]:
    """12 steps of 24 with dropout and a checkpoint every 3 steps."""
    batch = ("--batch.global_size", 24, "--batch.per_device", 4, "--recipe.reference_batch_size", 24)
    return (
        *mlm,
        *batch,
        "--recipe.duration",
        "12 steps",
        "--recipe.warmup",
        "4 steps",
        "--checkpoint.every",
        "3 steps",
    )


@pytest.fixture(scope="module")
def reference(job: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = train(2, tmp_path_factory.mktemp("reference") / "run", *job)
    assert run.codes == [0, 0], run.status
    return run.folder


def at_save(step: int, action: Callable[[], object]) -> Callable[[int], None]:
    """Rank 0 does `action` just before it saves at `step`, when the checkpoint before is written."""

    def before(rank: int) -> None:
        from warmup.training.checkpoints.saver import Saver

        save = Saver.save

        def hindered(self: Saver, clock: object, *args: object) -> float:
            if rank == 0 and clock.step == step:
                self.wait()
                action()
            return save(self, clock, *args)

        Saver.save = hindered

    return before


def assert_refused(run: Ended, good: int, *parts: str) -> None:
    """Both ranks ended with code 2 and one line, which names the last good checkpoint; and that is what there is."""
    last = checkpoint_format.checkpoint_path(run.folder, good)
    assert run.codes == [2, 2], run.status
    assert run.status["outcome"] == "user error"
    for part in (*parts, f"the last good checkpoint is {last}"):
        assert part in run.status["message"]
    assert "\n" not in run.status["message"] and "Traceback" not in run.stderr
    assert checkpoint_format.newest_valid(run.folder) == (last, [])
    assert not list(run.folder.rglob(".*.stage"))


def assert_resumes(run: Path, job: tuple, reference: Path) -> None:
    resumed = train(2, run, *job, "--resume", "auto")
    assert resumed.codes == [0, 0], resumed.status
    assert resumed.column("step") == list(range(1, 13))
    assert_same_end(run, reference)


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
def test_a_checkpoint_that_does_not_fit(file: str, job: tuple, reference: Path, tmp_path: Path) -> None:
    """From the second save on, files may not be as large as this one."""
    size = (next(reference.glob("checkpoints/step-*")) / file).stat().st_size - 1
    began = time.monotonic()
    run = train(2, tmp_path / "run", *job, before=at_save(6, lambda: limit_files(size)))
    assert time.monotonic() - began < BOUND_S
    assert_refused(run, 3, f"checkpoint: {run.folder}/checkpoints cannot be written: ")
    assert 6 <= run.column("step")[-1] <= 9
    assert_resumes(run.folder, job, reference)


def test_a_last_checkpoint_that_does_not_fit(job: tuple, reference: Path, tmp_path: Path) -> None:
    """Written after the last step, when no other step can report the failure."""
    run = train(2, tmp_path / "run", *job, before=at_save(12, lambda: limit_files(100_000)))
    assert_refused(run, 9, f"checkpoint: {run.folder}/checkpoints cannot be written: ")
    assert not (run.folder / "model").exists()
    assert_resumes(run.folder, job, reference)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """`disk(size)`: the mount point of a small disk, which a second call resizes."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()

    def make(size: int) -> Path:
        how = (
            ["-o", f"remount,size={size}"]
            if os.path.ismount(mount_point)
            else ["-o", f"size={size}", "-t", "tmpfs", "none"]
        )
        mounted = subprocess.run(["mount", *how, str(mount_point)], capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()[:200]}")
        return mount_point

    yield make
    if os.path.ismount(mount_point):
        subprocess.run(["umount", "-l", str(mount_point)], check=True)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*"))


def test_a_disk_that_fills(job: tuple, reference: Path, disk: Callable[..., Path]) -> None:
    """One checkpoint fits, two do not; the run directory is the disk."""
    checkpoints = size_of(next(reference.glob("checkpoints/step-*")))
    run = train(2, disk(checkpoints * 8 // 5), *job)
    assert_refused(run, 3, f"{run.folder}/checkpoints cannot be written: ", "space")
    disk(checkpoints * 8)
    assert_resumes(run.folder, job, reference)


def at_step(step: int, action: Callable[[], object]) -> Callable[[int], None]:
    """Rank 0 does `action` at the beginning of a step (from 0), when nothing is being written."""

    def before(rank: int) -> None:
        from warmup.training.run.train_step import TrainStep

        inner = TrainStep._step

        def hindered(self: TrainStep) -> object:
            if rank == 0 and self.clock.step == step:
                self.saver.wait()
                action()
            return inner(self)

        TrainStep._step = hindered

    return before


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_log_that_does_not_fit(name: str, job: tuple, reference: Path, tmp_path: Path) -> None:
    """From the 9th step on, the disk is full for one of the logs."""

    def fill() -> None:
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{number}").endswith(f"/run/{name}"):
                    os.dup2(os.open("/dev/full", os.O_WRONLY), int(number))

    job = (*job, "--log.samples", "true")
    began = time.monotonic()
    run = train(2, tmp_path / "run", *job, before=at_step(8, fill))
    assert time.monotonic() - began < BOUND_S
    assert 8 <= run.column("step")[-1] <= 10
    assert run.codes[0] == 2 and run.status["outcome"] == "user error"  # the other rank loses contact
    assert run.status["message"] == f"{run.folder / name}: No space left on device"
    assert checkpoint_format.newest_valid(run.folder) == (checkpoint_format.checkpoint_path(run.folder, 6), [])
    assert_resumes(run.folder, job, reference)
    assert_each_sample_once(run.folder)


@pytest.fixture
def protected(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """`protected()` makes the folder of checkpoints in tmp_path / "run" read-only."""
    folder = tmp_path / "run" / "checkpoints"

    def protect() -> None:
        if os.geteuid():
            folder.chmod(0o555)
        else:  # root ignores permissions
            subprocess.run(["mount", "--bind", folder, folder], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)

    def free() -> None:
        if os.geteuid() and folder.exists():
            folder.chmod(0o755)
        elif str(folder) in Path("/proc/self/mounts").read_text():
            subprocess.run(["umount", "-l", folder], check=True)

    protect.free = free
    yield protect
    free()


def test_a_directory_that_becomes_read_only(
    job: tuple, reference: Path, tmp_path: Path, protected: Callable, disk: Callable[..., Path]
) -> None:
    """From the 5th step on."""
    if not os.geteuid():
        disk(4096)  # skips where nothing can be mounted
    began = time.monotonic()
    run = train(2, tmp_path / "run", *job, before=at_step(4, protected))
    assert time.monotonic() - began < BOUND_S
    assert_refused(run, 3, f"{run.folder}/checkpoints cannot be written: ")
    protected.free()
    assert_resumes(run.folder, job, reference)


def test_a_run_directory_that_vanishes(job: tuple, reference: Path, tmp_path: Path) -> None:
    """Moved away at the 5th step: no new one is made in its place, and the run can be resumed where it is now."""
    folder, away = tmp_path / "run", tmp_path / "away"
    began = time.monotonic()
    run = train(2, folder, *job, before=at_step(4, lambda: folder.rename(away)))
    assert time.monotonic() - began < BOUND_S
    assert run.codes == [2, 2], run.status
    assert str(folder) in run.status["message"] and "there is no checkpoint yet" in run.status["message"]
    assert not folder.exists()
    assert_resumes(away, job, reference)


def test_a_run_directory_that_is_replaced_by_a_file(job: tuple, tmp_path: Path) -> None:
    """At the 5th step."""
    folder = tmp_path / "run"

    def replace() -> None:
        shutil.rmtree(folder)
        folder.write_text("something else")

    run = train(2, folder, *job, before=at_step(4, replace))
    assert run.codes == [2, 2], run.status
    assert str(folder) in run.status["message"]
    assert folder.read_text() == "something else"
