"""Evaluations at the same steps whatever happens, an end without improvement, and the best model exported."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest
from harness import Ended, assert_killed, assert_same_end, killed_after, train
from safetensors.torch import load_file
from sharding_engines import zero

from warmup.config import Config
from warmup.config.run import Evaluation
from warmup.errors import UserError
from warmup.training.checkpoints import format as checkpoint_format

BATCH, STEPS = 32, 24


@pytest.fixture(scope="module")
def job(classification: tuple[str, ...]) -> tuple[object, ...]:
    """A classifier that learns well for some steps, and then too fast."""
    return (
        *classification, "--recipe.duration", f"{STEPS} steps", "--recipe.warmup", "0 steps", "--recipe.lr", 5e-3,
        "--batch.global_size", BATCH, "--batch.per_device", 16, "--checkpoint.every", "3 steps", "--resume", "auto",
    )  # fmt: skip


@pytest.fixture(scope="module")
def impatient(job: tuple) -> tuple[object, ...]:
    return (*job, "--evaluation.every", 2, "--evaluation.patience", 2, "--evaluation.export", "best")


def evaluated(run: Ended) -> list[int]:
    return [line["step"] for line in run.of_kind("eval")]


def result(run: Ended) -> dict:
    return json.loads((run.folder / "result.json").read_text())


def best_of(run: Ended) -> dict:
    """The line of the first evaluation with the lowest loss."""
    return min(run.of_kind("eval"), key=lambda line: line["loss"])


def ends_at(losses: list[float], patience: int) -> int | None:
    """How many evaluations there are until one is the last of `patience` in a row that are no lower than all before."""
    for count in range(patience + 1, len(losses) + 1):
        if min(losses[: count - patience]) <= min(losses[count - patience : count]):
            return count
    return None


def assert_stopped_early(run: Ended, patience: int = 2) -> None:
    """At the evaluation where it should by the losses that it logged, and with the best model."""
    assert run.codes == [0] * len(run.codes), (run.status, run.stderr[-2000:])
    losses = [line["loss"] for line in run.of_kind("eval")]
    assert ends_at(losses, patience) == len(losses)
    last, best, said = evaluated(run)[-1], best_of(run), result(run)
    assert evaluated(run) == list(range(2, last + 1, 2)) and run.column("step")[-1] == last < STEPS
    assert (said["outcome"], said["stopped_early"], said["step"], said["total_steps"]) == ("done", True, last, STEPS)
    assert run.status["message"] == (
        f"after step {last} of {STEPS}; stopped early: {patience} evaluations in a row without a better loss than that "
        f"of step {best['step']}"
    )
    assert_exported(run, best)


def assert_exported(run: Ended, line: dict) -> None:
    """The model of this evaluation, as its checkpoint has it, and its metrics."""
    said = result(run)
    assert said["exported_step"] == line["step"]
    assert said["metrics"] == {name: line[name] for name in said["metrics"]} and "loss" in said["metrics"]
    ours = load_file(run.folder / "model" / "model.safetensors")
    theirs = load_file(checkpoint_format.checkpoint_path(run.folder, line["step"]) / checkpoint_format.MODEL)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.numpy().tobytes() == theirs[name].numpy().tobytes(), name
    assert f"After step {line['step']}, on " in (run.folder / "model" / "README.md").read_text()


@pytest.fixture(scope="module")
def stopped(impatient: tuple, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Ended]:
    """The job on 1 and on 2 ranks, from its start to its early end."""
    folder = tmp_path_factory.mktemp("stopped")
    return {size: train(size, folder / str(size), *impatient) for size in (1, 2)}


@pytest.fixture
def copied(stopped: dict[int, Ended], tmp_path: Path) -> Path:
    """The run of one rank, to go on with."""
    return Path(shutil.copytree(stopped[1].folder, tmp_path / "run"))


# When


@pytest.mark.parametrize(
    ("every", "size"), [("5", 160), ("0.3 epochs", 180), ("100 samples", 100), ("15%", Fraction(12 * BATCH * 15, 100))]
)
def test_at_the_first_step_past_each_multiple(job: tuple, tmp_path: Path, every: str, size: Fraction) -> None:
    """Also where 2 ranks were killed, and 1 went on from a checkpoint or the best one before."""
    job = (*job, "--recipe.duration", "12 steps", "--evaluation.every", every, "--recipe.lr", 5e-4)
    assert_killed(train(2, tmp_path / "run", *job, before=killed_after(8)), 8)
    run = train(1, tmp_path / "run", *job, "--evaluation.export", "best")
    assert run.codes == [0], run.status
    assert [line["step"] in (6, 7, 8) for line in run.of_kind("resumed")] == [True]
    wanted = {ceil(Fraction(number * size, BATCH)) for number in range(1, 100)} | {12}
    assert evaluated(run) == sorted(step for step in wanted if step <= 12)
    assert best_of(run)["step"] == 12 and result(run)["stopped_early"] is False
    assert_exported(run, best_of(run))  # the last one, which is the best


def test_stopped_where_one_is_due(job: tuple, tmp_path: Path) -> None:
    """It is not begun: the run that goes on makes it first."""
    job = (*job, "--recipe.duration", "6 steps", "--evaluation.every", "2 steps")

    def before(rank: int) -> None:
        from warmup.training.distributed.preemption import PreemptionHandler

        calls = iter([False, False, False, False, True])  # once a step, and in the evaluation of step 2
        PreemptionHandler.stop_requested = lambda self: next(calls)

    run = train(1, tmp_path / "run", *job, before=before)
    assert run.status["outcome"] == "stopped" and run.column("step")[-1] == 4 and evaluated(run) == [2]
    assert (result(run)["exported_step"], result(run)["stopped_early"]) == (None, False)
    assert evaluated(train(1, tmp_path / "run", *job)) == [2, 4, 6]


# The end


def test_an_early_end(stopped: dict[int, Ended]) -> None:
    """On 1 and 2 ranks after the same step."""
    for run in stopped.values():
        assert_stopped_early(run)
        assert evaluated(run)[-1] - best_of(run)["step"] == 4 and best_of(run)["step"] > 2
    assert evaluated(stopped[1]) == evaluated(stopped[2])


@pytest.mark.parametrize("size", [1, 2])
def test_killed_while_it_was_losing_patience(
    stopped: dict[int, Ended], impatient: tuple, tmp_path: Path, size: int
) -> None:
    """With one evaluation without improvement in the checkpoint that it goes on from: the same end, to the bit."""
    last = evaluated(stopped[size])[-1]
    job = (*impatient, "--checkpoint.every", "1 steps")
    assert_killed(train(size, tmp_path / "run", *job, before=killed_after(last - 1)), last - 1)
    state = checkpoint_format.read_state(checkpoint_format.checkpoint_path(tmp_path / "run", last - 1))
    assert state["evaluations"]["without_improvement"] == 1
    run = train(size, tmp_path / "run", *job)
    assert [line["step"] for line in run.of_kind("resumed")] == [last - 1]
    assert_stopped_early(run)
    assert_same_end(run.folder, stopped[size].folder)
    assert run.of_kind("eval") == stopped[size].of_kind("eval")


def test_what_is_over_is_over(stopped: dict[int, Ended], impatient: tuple, copied: Path) -> None:
    """Until there is more patience."""
    last = evaluated(stopped[1])[-1]
    again = train(1, copied, *impatient)
    assert_stopped_early(again)
    assert "is of the run's end; stopped early: 2 evaluations in a row" in again.stderr
    assert again.lines == stopped[1].lines and result(again)["metrics"] == result(stopped[1])["metrics"]
    assert_same_end(copied, stopped[1].folder)
    on = train(1, copied, *impatient, "--evaluation.patience", "null")
    assert on.codes == [0], on.status
    assert evaluated(on) == list(range(2, STEPS + 1, 2)) and on.column("step") == list(range(1, STEPS + 1))
    assert [line["step"] for line in on.of_kind("resumed")] == [last]
    assert result(on)["stopped_early"] is False
    assert_exported(on, best_of(on))


def test_a_best_model_that_was_damaged(stopped: dict[int, Ended], impatient: tuple, copied: Path) -> None:
    """The run is not lost: the last one is exported, and it is said."""
    last, best = stopped[1].of_kind("eval")[-1], best_of(stopped[1])["step"]
    file = checkpoint_format.checkpoint_path(copied, best) / checkpoint_format.MODEL
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    run = train(1, copied, *impatient)
    assert run.codes == [0], run.status
    assert f"warning: the best model, of step {best}, is lost, so the last one is exported: " in run.stderr
    assert "model.safetensors is not what was written" in run.stderr
    assert_exported(run, last)


def test_the_best_where_weights_are_divided(mlm: tuple, tmp_path: Path) -> None:
    """Under DeepSpeed's ZeRO 3, of a model whose word embeddings are its output's too; a rate too high to learn."""
    pytest.importorskip("deepspeed")
    job = (
        *mlm, "--recipe.duration", "6 steps", "--recipe.warmup", "4 steps", "--recipe.lr", 1, "--batch.global_size", 32,
        "--evaluation.every", 1, "--evaluation.metric", "perplexity", "--evaluation.export", "best",
    )  # fmt: skip
    run = train(2, tmp_path / "run", *job, env=zero(3) | {"ACCELERATE_DEEPSPEED_ZERO3_INIT": "false"})
    assert run.codes == [0, 0], run.status
    assert evaluated(run) == [1, 2, 3, 4, 5, 6] and best_of(run)["step"] < 6
    assert_exported(run, best_of(run))


def test_on_in_another_run_directory(stopped: dict[int, Ended], impatient: tuple, copied: Path, tmp_path: Path) -> None:
    """The best one comes along."""
    best, job = best_of(stopped[1]), (*impatient, "--evaluation.patience", 3, "--resume", copied)
    run = train(1, tmp_path / "other", *job)
    assert run.codes == [0], run.status
    assert run.of_kind("resumed")[0]["step"] == evaluated(stopped[1])[-1]
    shutil.rmtree(copied)
    losses = [line["loss"] for line in stopped[1].of_kind("eval") + run.of_kind("eval")]
    assert ends_at(losses, 3) == len(losses) or result(run)["step"] == STEPS
    assert_exported(run, min([best, best_of(run)], key=lambda line: line["loss"]))


# Refused


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("mlm", {"metric": "f1"}, "evaluation.metric: 'f1' is none of those of mlm: loss, perplexity, accuracy"),
        (
            "regression",
            {"metric": "accuracy"},
            "evaluation.metric: 'accuracy' is none of those of regression: loss, mse, pearson, spearman",
        ),
        ("classification", {"metric": "targets"}, "evaluation.metric: 'targets' is none of those of classification: "),
        ("mlm", {"patience": 3}, "evaluation.patience: 3 needs evaluations on the way: give evaluation.every, "),
        ("mlm", {"export": "best"}, "evaluation.export: best needs evaluations on the way: give evaluation.every, "),
    ],
)
def test_what_evaluations_cannot_give(task: str, settings: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Config(task=task, evaluation=Evaluation(**settings))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    Config(task=task, evaluation=Evaluation(every=5, patience=3, export="best"))


def test_refused_before_anything_is_made(job: tuple, tmp_path: Path) -> None:
    run = train(2, tmp_path / "run", *job, "--evaluation.metric", "bleu")
    assert run.codes == [2, 2] and run.status["message"].startswith("evaluation.metric: 'bleu' is none of those of ")
    assert not run.folder.exists()
