"""A request to stop during an evaluation: all ranks heed it within a few micro-batches, and the evaluation is made
again after the resumption, with the same numbers.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import LOGGED, Ended, assert_same_end, assert_same_training, train
from sharding_engines import fsdp2, zero

from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.run.evaluate import STOP_CHECK_EVERY

STEPS = 6


@pytest.fixture(scope="module")
def job(classification: tuple[str, ...]) -> tuple[object, ...]:
    """6 steps on 2 ranks with an evaluation every 2: 100 samples in 50 micro-batches, 25 of each rank."""
    return (
        *classification, "--recipe.duration", f"{STEPS} steps", "--recipe.warmup", "0 steps", "--recipe.lr", 1e-3,
        "--batch.global_size", 32, "--batch.per_device", 16, "--batch.evaluation", 2, "--checkpoint.every", "null",
        "--evaluation.every", "2 steps", "--evaluation.patience", 9, "--evaluation.export", "best", "--resume", "auto",
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(job: tuple, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    run = train(2, tmp_path_factory.mktemp("whole") / "run", *job)
    assert run.codes == [0, 0] and [line["step"] for line in run.of_kind("eval")] == [2, 4, 6], run.status
    return run


def interrupted(
    step: int, micro_batch: int, rank: int, folder: Path, number: int = signal.SIGTERM
) -> Callable[[int], None]:
    """A signal, or with 0 the end of the time limit, comes to one rank in its n-th micro-batch of the evaluation after
    a step. Each rank notes in `folder` how many micro-batches it computed in that evaluation.
    """

    def before(this: int) -> None:
        from warmup.training.distributed.preemption import PreemptionHandler
        from warmup.training.run import finish, training_run
        from warmup.training.run.evaluate import Evaluator

        compute, evaluate, now, count, late = Evaluator._compute, training_run.evaluate, -1, 0, False

        def noted(run: training_run.TrainingRun) -> bool:
            nonlocal now, count
            now, count = run.train_step.clock.step, 0
            ended = evaluate(run)
            if now == step:
                (folder / f"computed-{this}").write_text(str(count))
            return ended

        def computed(self: Evaluator, *args: object) -> object:
            nonlocal count, late
            count += 1
            if (now, count, this) == (step, micro_batch, rank):
                if number:
                    os.kill(os.getpid(), number)
                late = True
            return compute(self, *args)

        Evaluator._compute, training_run.evaluate, finish.evaluate = computed, noted, noted
        if not number:
            PreemptionHandler.stop_requested = lambda self: late

    return before


def computed(folder: Path) -> list[int]:
    return [int((folder / f"computed-{rank}").read_text()) for rank in range(2)]


def assert_resumes_as(run: Path, whole: Ended, job: tuple) -> None:
    """The same training, the same evaluations, each once in the log, and the same model."""
    resumed = train(2, run, *job)
    assert resumed.codes == [0, 0], (resumed.status, resumed.stderr[-2000:])
    assert_same_end(run, whole.folder)
    assert resumed.of_kind("eval") == whole.of_kind("eval")
    for name in LOGGED:
        assert resumed.column(name) == whole.column(name), name
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (run, whole.folder))
    for name in ("outcome", "metrics", "exported_step", "step", "stopped_early"):
        assert ours[name] == theirs[name], name
    states = [checkpoint_format.read_state(checkpoint_format.checkpoint_path(f, STEPS)) for f in (run, whole.folder)]
    assert states[0]["evaluations"] == states[1]["evaluations"]


@pytest.mark.parametrize(
    ("step", "micro_batch", "rank", "number"),
    [(2, 5, 1, signal.SIGTERM), (4, 1, 0, signal.SIGUSR1), (STEPS, 6, 1, signal.SIGTERM), (STEPS, 3, 0, 0)],
    ids=["SIGTERM on the way", "SIGUSR1 on the way", "SIGTERM at the end", "the time limit at the end"],
)
def test_stopped_in_an_evaluation(
    step: int, micro_batch: int, rank: int, number: int, job: tuple, whole: Ended, tmp_path: Path
) -> None:
    before = interrupted(step, micro_batch, rank, tmp_path, number)
    run = train(2, tmp_path / "run", *job, before=before)
    assert run.codes == [0, 0] and run.status["outcome"] == "stopped", (run.status, run.stderr[-2000:])
    assert f"after step {step} of {STEPS}; go on with --resume auto" in run.status["message"]
    counts = computed(tmp_path)
    assert counts[0] == counts[1] and micro_batch <= counts[0] <= micro_batch + STOP_CHECK_EVERY["cpu"]
    assert [line["step"] for line in run.of_kind("eval")] == list(range(2, step, 2))
    assert not (run.folder / "model").exists()
    newest, skipped = checkpoint_format.newest_valid(run.folder)
    assert (newest, skipped) == (checkpoint_format.checkpoint_path(run.folder, step), [])
    assert_resumes_as(run.folder, whole, job)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ZeRO 3", "FSDP2"])
def test_stopped_in_an_evaluation_of_sharded_weights(engine: str, job: tuple, whole: Ended, tmp_path: Path) -> None:
    """Stopped under an engine that shards, and gone on under it; the numbers are those of whole weights."""
    stop = interrupted(2, 5, 1, tmp_path)
    if engine == "ZeRO 3":
        pytest.importorskip("deepspeed")
        run = train(2, tmp_path / "run", *job, before=stop, env=zero(3))
        resumed = train(2, run.folder, *job, env=zero(3))
    else:
        run = train(2, tmp_path / "run", *job, before=fsdp2(stop))
        resumed = train(2, run.folder, *job, before=fsdp2())
    assert run.status["outcome"] == "stopped", (run.status, run.stderr[-2000:])
    assert computed(tmp_path)[0] == computed(tmp_path)[1] <= 5 + STOP_CHECK_EVERY["cpu"]
    assert run.of_kind("eval") == []
    assert_same_training(resumed, whole, steps=STEPS, rel=1e-4)
    for ours, theirs in zip(resumed.of_kind("eval"), whole.of_kind("eval"), strict=True):
        assert ours["step"] == theirs["step"] and ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_killed_in_the_evaluation_at_the_end(job: tuple, whole: Ended, tmp_path: Path) -> None:
    """What was trained is saved by then."""
    run = train(2, tmp_path / "run", *job, before=interrupted(STEPS, 20, 0, tmp_path, signal.SIGKILL))
    assert run.codes == [-signal.SIGKILL, 1]
    assert checkpoint_format.newest_valid(run.folder)[0] == checkpoint_format.checkpoint_path(run.folder, STEPS)
    assert_resumes_as(run.folder, whole, job)


def test_stopped_in_an_evaluation_and_resumed_elsewhere(job: tuple, whole: Ended, tmp_path: Path) -> None:
    """The new run directory has the checkpoint of the evaluation that is made there."""
    run = train(2, tmp_path / "run", *job, before=interrupted(2, 5, 1, tmp_path))
    other = train(2, tmp_path / "other", *job, "--resume", run.folder)
    assert other.codes == [0, 0], (other.status, other.stderr[-2000:])
    assert other.of_kind("eval") == whole.of_kind("eval")
    assert_same_end(other.folder, whole.folder)


def test_freezing_on_the_way(job: tuple, tmp_path: Path) -> None:
    """The optimizer state of what is frozen by now is dropped; what is frozen does not change any more."""
    from safetensors.torch import load_file

    run = train(2, tmp_path / "run", *job, before=interrupted(2, 5, 1, tmp_path))
    before = load_file(checkpoint_format.checkpoint_path(run.folder, 2) / checkpoint_format.MODEL)
    frozen = train(2, run.folder, *job, "--recipe.lr_ratios", '["embeddings=0"]')
    assert frozen.codes == [0, 0], (frozen.status, frozen.stderr[-2000:])
    assert "recipe.lr_ratios was [], is ('embeddings=0',)" in frozen.stderr
    assert "embeddings=0" in (run.folder / "config.yaml").read_text()
    after = load_file(checkpoint_format.checkpoint_path(run.folder, STEPS) / checkpoint_format.MODEL)
    same = {name for name in before if before[name].equal(after[name])}
    assert same and same == {name for name in before if ".embeddings." in name}
    states = load_file(checkpoint_format.checkpoint_path(run.folder, STEPS) / checkpoint_format.OPTIMIZER)
    assert states and not any(".embeddings." in name for name in states)
    again = train(2, run.folder, *job, "--recipe.duration", f"{STEPS + 2} steps")  # thawed: their state begins anew
    assert again.codes == [0, 0], (again.status, again.stderr[-2000:])
    assert any(".embeddings." in name for name in load_file(
        checkpoint_format.checkpoint_path(run.folder, STEPS + 2) / checkpoint_format.OPTIMIZER
    ))  # fmt: skip
