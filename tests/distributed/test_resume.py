"""Resuming: on the same ranks to the last bit, on others to rounding, at another batch by the plan for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Ended, assert_each_sample_once, assert_went_through, train

from warmup.training.checkpoints import format as checkpoint_format

STEPS, BATCH, PEAK = 30, 24, 1e-3
WARMUP, DURATION = 10 * BATCH, STEPS * BATCH  # in samples


@pytest.fixture(scope="module")
def recipe(mlm: tuple[str, ...]) -> tuple[object, ...]:
    """10 steps of 24 up to 1e-3, 20 down to 0: 1.2 epochs. Goes on where there is something to go on from."""
    return (*mlm, "--recipe.reference_batch_size", BATCH, "--log.samples", "true", "--resume", "auto")


@pytest.fixture(scope="module")
def job(recipe: tuple) -> tuple[object, ...]:
    """The recipe at its batch, with dropout and a checkpoint every 4 steps."""
    return (*recipe, "--batch.global_size", BATCH, "--batch.per_device", 4, "--checkpoint.every", "4 steps")


@pytest.fixture(scope="module")
def whole(job: tuple, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The job on 2 ranks, from its start to its end."""
    run = train(2, tmp_path_factory.mktemp("whole") / "run", *job)
    assert run.codes == [0, 0] and run.column("step") == list(range(1, STEPS + 1)), run.status
    return run


def signalled(after: int, *numbers: int, rank: int = 0) -> Callable[[int], None]:
    """That rank sends itself these signals in the step that ends with step `after`."""

    def before(this: int) -> None:
        from warmup.training.run.train_step import TrainStep

        step = TrainStep._step

        def interrupted(self: TrainStep) -> object:
            if this == rank and self.clock.step == after - 1:
                for number in numbers:
                    os.kill(os.getpid(), number)
            return step(self)

        TrainStep._step = interrupted

    return before


def stop(world_size: int, folder: Path, *job: object, after: int) -> Ended:
    """Train, on from where `folder` is, until a signal to the last rank after that step."""
    run = train(world_size, folder, *job, before=signalled(after, signal.SIGTERM, rank=world_size - 1))
    assert_stopped(run, after)
    return run


def assert_stopped(run: Ended, step: int) -> None:
    """All ranks ended well, after that very step, with a checkpoint of it and without a model."""
    assert run.codes == [0] * len(run.codes), run.status
    assert run.status["outcome"] == "stopped"
    assert run.status["message"].startswith(f"after step {step} of ")
    assert run.column("step")[-1] == step
    assert checkpoint_format.newest_valid(run.folder) == (checkpoint_format.checkpoint_path(run.folder, step), [])
    assert checkpoint_format.read_state(checkpoint_format.checkpoint_path(run.folder, step))["clock"]["step"] == step
    assert not (run.folder / "model").exists()
    assert json.loads((run.folder / "result.json").read_text())["outcome"] == "stopped"


def difference(run: Path, reference: Path) -> float:
    """Norm of the difference of two exported models, over the norm of the weights."""
    import torch
    from safetensors.torch import load_file

    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (run, reference))
    assert ours.keys() == theirs.keys()
    ours, theirs = (torch.cat([model[name].flatten().double() for name in sorted(model)]) for model in (ours, theirs))
    return float((ours - theirs).norm() / theirs.norm())


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


# --- the same ranks ---


@pytest.mark.parametrize(
    ("rank", "numbers"),
    [(1, [signal.SIGTERM]), (0, [signal.SIGUSR1]), (1, [signal.SIGTERM, signal.SIGTERM])],
    ids=["SIGTERM", "SIGUSR1", "SIGTERM twice"],
)
def test_a_signal_to_one_rank(rank: int, numbers: list, job: tuple, whole: Ended, tmp_path: Path) -> None:
    """All stop after the same step, between two checkpoints, and resume to the same bits."""
    run = train(2, tmp_path / "run", *job, before=signalled(14, *numbers, rank=rank))
    assert_stopped(run, 14)
    assert_went_through(train(2, run.folder, *job), whole)


def test_a_time_limit(job: tuple, whole: Ended, tmp_path: Path) -> None:
    """Two seconds into training, at 0.2 seconds a step."""
    began = time.monotonic()

    def slowed(rank: int) -> None:
        from warmup.training.distributed import preemption
        from warmup.training.run.train_step import TrainStep

        step, start = TrainStep._step, preemption.PreemptionHandler.start

        def slow(self: TrainStep) -> object:
            time.sleep(0.2)
            return step(self)

        TrainStep._step = slow
        preemption.PreemptionHandler.start = lambda self, limit, is_main: start(self, limit and 2.0, is_main)

    run = train(2, tmp_path / "run", *job, "--time_limit", "1 hour", before=slowed)
    assert time.monotonic() - began < 40
    step = run.column("step")[-1]
    assert 3 <= step <= 12
    assert_stopped(run, step)
    assert_went_through(train(2, run.folder, *job, "--time_limit", "1 hour"), whole)


def test_resumed_from_an_older_checkpoint(job: tuple, whole: Ended, tmp_path: Path) -> None:
    """The later ones are set aside, their lines are removed, and the run ends the same."""
    run = stop(2, tmp_path / "run", *job, after=14)
    old = checkpoint_format.checkpoint_path(run.folder, 12)
    resumed = train(2, run.folder, *job, "--resume", old)
    assert resumed.of_kind("resumed")[0]["from"] == str(old)
    assert_went_through(resumed, whole)
    assert "set aside as discarded-step-00000014" in resumed.stderr
    assert [path.name for path in run.folder.glob("checkpoints/discarded-*")] == ["discarded-step-00000014"]
    checkpoint_format.verify(run.folder / "checkpoints" / "discarded-step-00000014")


def test_a_run_that_is_over_is_resumed(job: tuple, whole: Ended, tmp_path: Path) -> None:
    """Nothing changes but the times of result.json, and what the start of a run said in run.json and the report."""
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    before = contents(folder)
    resumed = train(2, folder, *job)
    assert resumed.codes == [0, 0], resumed.status
    assert resumed.status["message"] == "after step 30 of 30"
    assert len(resumed.of_kind("eval")) == 1
    after = contents(folder)
    results = [json.loads(content.pop(str(folder / "result.json"))) for content in (before, after)]
    times = [result.pop("wall_seconds") for result in results]
    assert all(times) and results[0] == results[1]
    records = [json.loads(content.pop(str(folder / "run.json"))) for content in (before, after)]
    assert all(record.pop("command") and record.pop("facts") for record in records)
    assert records[0] == records[1]
    assert all(content.pop(str(folder / "report.html")) for content in (before, after))
    assert before == after


def test_killed_between_the_last_step_and_the_export(job: tuple, whole: Ended, tmp_path: Path) -> None:
    def before(rank: int) -> None:
        from warmup.training.run import finish

        finish.export_model = lambda *args: os.kill(os.getpid(), signal.SIGKILL)

    run = train(2, tmp_path / "run", *job, before=before)
    assert run.codes == [-signal.SIGKILL, 1]
    assert len(run.of_kind("eval")) == 1 and not (run.folder / "model").exists()
    assert_went_through(train(2, run.folder, *job), whole)


def test_what_is_refused(job: tuple, documents: Path, labelled: tuple[Path, Path], tmp_path: Path) -> None:
    """A resumed run that would be another one ends with code 2 and names the field; the directory is as it was."""
    run = stop(2, tmp_path / "run", *job, after=2).folder
    other = tmp_path / "other.jsonl"
    other.write_text("".join(line + "\n" for line in documents.read_text().splitlines()[:-1]))
    old = checkpoint_format.checkpoint_path(run, 2)
    cases = {
        ("--seed", 1): "seed: the checkpoint",
        ("--model", "mini"): "model: the checkpoint",
        ("--dropout", 0): "dropout: the checkpoint",
        ("--data.mask_rate", 0.3): "data.mask_rate: the checkpoint",
        ("--recipe.optimizer", "sgd"): "recipe.optimizer: the checkpoint",
        ("--data.train_files", other): "data: its content or the tokenizer is not what",
        ("--data.max_length", 20): "data: its content or the tokenizer is not what",
        ("--resume", old, "--seed", 1): "seed: the checkpoint",
        ("--resume", "never"): "is occupied",
        ("--resume", run / "checkpoints"): "",
        ("--resume", tmp_path / "nowhere"): "nowhere is neither auto, never, a checkpoint nor a run directory",
    }
    before = contents(run)
    for arguments, message in cases.items():
        refused = train(1, run, *job, *arguments)
        assert refused.codes == [2], (arguments, refused.status)
        assert message in refused.status["message"] and "\n" not in refused.status["message"]
        assert "Traceback" not in refused.stderr
        assert contents(run) == before, arguments
    without = [argument for argument in job if argument not in ("--resume", "auto")]
    refused = train(2, run, *without)
    assert refused.codes == [2, 2]
    assert "is occupied" in refused.status["message"] and "--resume auto" in refused.status["message"]
    assert contents(run) == before


# --- other ranks, the same batch ---


def assert_same_training(folder: Path, reference: Ended, world_sizes: list[int], job: tuple, stops: list[int]) -> None:
    """On other ranks from each of these steps on: as the reference to rounding, and each sample once."""
    for world_size, after in zip(world_sizes, stops, strict=False):
        stop(world_size, folder, *job, after=after)
    run = train(world_sizes[-1], folder, *job)
    assert run.codes == [0] * world_sizes[-1], run.status
    for name in ("step", "samples", "consumed_samples", "tokens", "lr"):
        assert run.column(name) == reference.column(name), name
    for name in ("loss", "grad_norm"):
        assert run.column(name) == pytest.approx(reference.column(name), rel=1e-4), name
    assert difference(folder, reference.folder) < 1e-4
    assert [line["loss"] for line in run.of_kind("eval")] == pytest.approx(
        [line["loss"] for line in reference.of_kind("eval")], rel=1e-4
    )
    assert_each_sample_once(folder)
    resumed = run.of_kind("resumed")
    assert [(line["world_size_before"], line["world_size"], line["step"]) for line in resumed] == [
        *zip(world_sizes, world_sizes[1:], stops, strict=False)
    ]
    assert all(line["global_batch_size_before"] == line["global_batch_size"] for line in resumed)
    assert all(line["lr_before"] == line["lr"] for line in resumed)


def test_other_ranks_with_dropout(recipe: tuple, tmp_path: Path) -> None:
    """4, 2, 1, 3 ranks, changed once in the warmup and twice in the decay. A step always has 12 micro-batches of 2."""
    job = (*recipe, "--batch.global_size", BATCH, "--batch.per_device", 2)
    reference = train(4, tmp_path / "reference", *job)
    assert reference.column("step") == list(range(1, STEPS + 1)), reference.status
    assert_same_training(tmp_path / "run", reference, [4, 2, 1, 3], job, [5, 13, 21])


def test_other_ranks_that_split_the_batch_unevenly(recipe: tuple, tmp_path: Path) -> None:
    """At 3 per device 3 ranks split 24 samples into 9 micro-batches of 2 and 3; the others into 8."""
    job = (*recipe, "--batch.global_size", BATCH, "--batch.per_device", 3, "--dropout", 0)
    reference = train(4, tmp_path / "reference", *job)
    assert_same_training(tmp_path / "run", reference, [4, 2, 1, 3], job, [5, 13, 21])


def test_256_samples_on_7_ranks(recipe: tuple, tmp_path: Path) -> None:
    """35 micro-batches of 7 and 8 samples; resumed on 2 ranks and 32 micro-batches."""
    job = (*recipe, "--batch.global_size", 256, "--batch.per_device", 8, "--dropout", 0)
    job = (*job, "--recipe.reference_batch_size", 256, "--recipe.duration", "6 steps", "--recipe.warmup", "2 steps")
    reference = train(1, tmp_path / "reference", *job)
    assert_same_training(tmp_path / "run", reference, [7, 2], job, [3])


# --- another batch ---


def closed_form(samples: int, batch: int, peak: float = PEAK) -> float:
    """The linear rule's rate at `samples` of a run whose steps have `batch`: up to the peak and down to 0."""
    peak = peak * batch / BATCH
    warmup = round(WARMUP / batch) * batch
    total = -(-DURATION // batch) * batch
    if samples < warmup:
        return peak * min((samples + batch) / warmup, 1.0)
    return peak * max(1 - (samples - warmup) / (total - warmup), 0.0)


def assert_rates(run: Ended, expected: list[float], since: int = 0) -> None:
    """The rates of the steps after step `since`, to 1e-12."""
    assert run.codes == [0] * len(run.codes), run.status
    assert run.column("lr")[since:] == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def elastic(recipe: tuple) -> tuple[object, ...]:
    """6 samples per rank: the global batch follows the ranks."""
    return (*recipe, "--batch.per_device", 6)


@pytest.fixture(scope="module")
def stopped(elastic: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 ranks, a batch of 24, stopped after step 5, in the warmup: at 120 samples."""
    return stop(4, tmp_path_factory.mktemp("stopped") / "run", *elastic, after=5).folder


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it to go on with."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def rates(batch: int, start: int, end: int = DURATION) -> list[float]:
    return [closed_form(samples, batch) for samples in range(start, end, batch)]


def test_another_batch_follows_its_own_plan(elastic: tuple, run: Path) -> None:
    """24, 12, then 18 samples per step: each plan is entered at the same position in samples."""
    stop(2, run, *elastic, after=20)  # 15 steps of 12: at 300 samples, in the decay
    ended = train(3, run, *elastic)
    assert_rates(ended, rates(24, 0, 120) + rates(12, 120, 300) + rates(18, 300))
    assert ended.column("samples")[-1] == 732  # 24 steps of 18: the last begins at 714
    assert [
        (line["step"], line["samples"], line["global_batch_size_before"], line["global_batch_size"])
        for line in ended.of_kind("resumed")
    ] == [(5, 120, 24, 12), (20, 300, 12, 18)]
    assert [line["remaining_steps"] for line in ended.of_kind("resumed")] == [50, 24]
    changes = [(closed_form(120, 24), closed_form(120, 12)), (closed_form(300, 12), closed_form(300, 18))]
    for line, (before, now) in zip(ended.of_kind("resumed"), changes, strict=True):
        assert (line["lr_before"], line["lr"]) == pytest.approx((before, now), rel=1e-12)
    assert ended.status["message"] == "after step 44 of 44"
    assert_each_sample_once(run)


def test_a_warm_change(elastic: tuple, run: Path) -> None:
    """Over 5 steps from the old plan's rate to the new one's, through another kill and without a jump."""
    job = (*elastic, "--elastic.rewarm", "5 steps")
    stop(2, run, *job, after=8)  # in the middle of it
    ended = train(2, run, *job)
    way = [(120 + 12 * number, number / 5) for number in range(5)]
    warm = [closed_form(at, 24) * (1 - part) + closed_form(at, 12) * part for at, part in way]
    assert warm[0] == closed_form(120, 24)
    assert_rates(ended, warm + rates(12, 180), since=5)
    assert [line["remaining_steps"] for line in ended.of_kind("resumed")] == [50, 47]
    assert ended.of_kind("resumed")[0]["lr"] == ended.of_kind("resumed")[0]["lr_before"]


def test_a_change_that_keeps_the_rate(elastic: tuple, run: Path) -> None:
    """The old plan's rate at each position; also where it is then resumed on as many ranks."""
    job = (*elastic, "--elastic.on_change", "keep")
    kept = [closed_form(samples, 24) for samples in range(120, DURATION, 12)]
    stop(2, run, *job, after=12)
    assert_rates(train(2, run, *job), kept, since=5)


def test_a_kept_rate_stays_where_nothing_changes(elastic: tuple, run: Path) -> None:
    """Resumed on as many ranks with `error`, it is not another change."""
    stop(2, run, *elastic, "--elastic.on_change", "keep", after=12)
    kept = [closed_form(samples, 24) for samples in range(120, DURATION, 12)]
    assert_rates(train(2, run, *elastic, "--elastic.on_change", "error"), kept, since=5)


def test_a_change_that_is_refused(elastic: tuple, run: Path) -> None:
    before = contents(run)
    refused = train(2, run, *elastic, "--elastic.on_change", "error")
    assert refused.codes == [2, 2]
    assert "the global batch was 24 and would be 12" in refused.status["message"]
    assert "--batch.global_size 24" in refused.status["message"]
    assert contents(run) == before
    same = train(2, run, *elastic, "--elastic.on_change", "error", "--batch.global_size", 24)
    assert_rates(same, rates(24, 0))
