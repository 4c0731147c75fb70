"""The promise: one global batch, cut in any way, is the same training."""

from __future__ import annotations

import re

import pytest
from harness import assert_same_training, train


@pytest.fixture(scope="module", params=["mlm", "classification", "regression"])
def job(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.getfixturevalue(request.param)


def test_with_dropout_at_the_same_per_device_batch(job: tuple[str, ...], tmp_path) -> None:
    """1 x 4, 2 x 2 and 4 x 1 (world size x accumulation), 8 samples per rank and micro-batch, dropout on."""
    cuts = {(1, 4): "a", (2, 2): "b", (4, 1): "c"}
    runs = {
        cut: train(cut[0], tmp_path / name, *job, "--batch.per_device", 8, "--batch.accumulation", cut[1])
        for cut, name in cuts.items()
    }
    assert runs[1, 4].column("loss")[-1] < runs[1, 4].column("loss")[0]
    assert runs[1, 4].column("samples") == [32 * step for step in range(1, 31)]
    for cut in ((2, 2), (4, 1)):
        assert_same_training(runs[cut], runs[1, 4], steps=30, rel=1e-5)
    # Evaluation adds up to the same bits on any world size where the weights are the same; here to rounding.
    evaluations = [run.of_kind("eval")[-1] for run in runs.values()]
    assert {line["targets"] for line in evaluations} == {evaluations[0]["targets"]}
    assert [line["loss"] for line in evaluations] == pytest.approx([evaluations[0]["loss"]] * 3, rel=1e-4)
    if "pearson" in evaluations[0]:
        assert [line["pearson"] for line in evaluations] == pytest.approx([evaluations[0]["pearson"]] * 3, abs=1e-3)


def test_without_dropout_at_any_per_device_batch(job: tuple[str, ...], tmp_path) -> None:
    """1 x 32, 2 ranks of 5 at most (4 micro-batches), and 3 ranks, which do not divide 32."""
    whole = train(1, tmp_path / "a", *job, "--dropout", 0, "--batch.per_device", 32)
    by_size = ("--dropout", 0, "--batch.global_size", 32, "--batch.per_device")
    assert_same_training(train(2, tmp_path / "b", *job, *by_size, 5), whole, steps=30, rel=1e-5)
    assert_same_training(train(3, tmp_path / "c", *job, *by_size, 8), whole, steps=30, rel=1e-5)


def test_a_regression_in_rows_is_the_padded_one(regression: tuple[str, ...], tmp_path) -> None:
    job = (*regression, "--dropout", 0, "--batch.global_size", 32, "--batch.per_device", 16)
    padded = train(1, tmp_path / "a", *job, "--speed.packing", "false", "--speed.masked_only", "false")
    assert_same_training(train(2, tmp_path / "b", *job), padded, steps=30, rel=1e-5)


def test_going_on_with_a_text_with_dropout(clm: tuple[str, ...], tmp_path) -> None:
    """1 x 2 and 2 x 1; without dropout, on 1 to 3 ranks: test_clm.py."""
    job = (*clm, "--batch.per_device", 16)
    whole = train(1, tmp_path / "a", *job, "--batch.accumulation", 2)
    assert whole.column("loss")[-1] < 0.9 * whole.column("loss")[0]
    assert_same_training(train(2, tmp_path / "b", *job), whole, steps=20, rel=1e-5)


@pytest.mark.parametrize("task", ["multi_label", "multiple_choice", "question_answering"])
def test_other_tasks_with_dropout(task: str, request: pytest.FixtureRequest, tmp_path) -> None:
    """1 x 2 and 2 x 1; without dropout, on 1 to 3 ranks: test_task_contract.py."""
    job = (*request.getfixturevalue(task), "--batch.per_device", 16)
    whole = train(1, tmp_path / "a", *job, "--batch.accumulation", 2)
    assert sum(whole.column("loss")[-5:]) < 0.98 * sum(whole.column("loss")[:5])
    assert_same_training(train(2, tmp_path / "b", *job), whole, steps=20, rel=1e-5)


def test_simulated_ranks_are_the_real_ones(classification: tuple[str, ...], tmp_path) -> None:
    """--as_world_size 4 --test on one rank: the hashes, rates and losses of a real 4-rank run."""
    job = (*classification, "--test", "--batch.per_device", 8)
    simulated = train(1, tmp_path / "a", *job, "--as-world-size", 4)
    real = train(4, tmp_path / "b", *job)
    assert simulated.codes == [0] and real.codes == [0] * 4, (simulated.status, real.status)
    found = [
        re.findall(r"step (\d+)  lr (\S+)  loss (\S+)  .* samples (\w{64})", run.stdout) for run in (simulated, real)
    ]
    assert len(found[0]) == len(found[1]) == 5
    for ours, theirs in zip(*found, strict=True):
        assert (ours[0], ours[1], ours[3]) == (theirs[0], theirs[1], theirs[3])
        assert float(ours[2]) == pytest.approx(float(theirs[2]), rel=1e-6)
    assert "PASS" in simulated.stdout and "PASS" in real.stdout


def test_more_micro_batches_than_samples(classification: tuple[str, ...], tmp_path) -> None:
    """5 samples on 3 ranks of 1: 6 micro-batches, one of them empty and computed with weight 0."""
    job = (*classification, "--dropout", 0, "--batch.global_size", 5, "--recipe.duration", "160 samples")
    job = (*job, "--recipe.warmup", "32 samples")
    uneven = train(3, tmp_path / "a", *job, "--batch.per_device", 1)
    assert_same_training(uneven, train(1, tmp_path / "b", *job, "--batch.per_device", 5), steps=32, rel=1e-5)


def test_with_lr_multipliers_and_gradient_checkpointing(classification: tuple[str, ...], tmp_path) -> None:
    """Frozen embeddings, less rate for lower layers, more for the head: on 1 rank, and on 2 with checkpointed layers,
    dropout on. What is frozen stays what it was.
    """
    from safetensors.torch import load_file

    ratios = ("--recipe.layer_decay", 0.5, "--recipe.lr_ratios", "embeddings=0", "classifier=5")
    job = (*classification, *ratios, "--batch.per_device", 8, "--checkpoint.every", "10 steps", "--checkpoint.keep", 9)
    whole = train(1, tmp_path / "a", *job, "--batch.accumulation", 2, "--recipe.reference_batch_size", 16)
    checkpointed = ("--speed.gradient_checkpointing", "true", "--recipe.reference_batch_size", 16)
    run = train(2, tmp_path / "b", *job, *checkpointed)
    assert_same_training(run, whole, steps=30, rel=1e-5)
    assert "lr multiplied by 0.25 to 5" in run.stderr and "weights frozen" in run.stderr
    early, late = (
        load_file(tmp_path / "b" / "checkpoints" / f"step-{step:08d}" / "model.safetensors") for step in (10, 30)
    )
    same = {name for name in early if (early[name] == late[name]).all()}
    assert same == {name for name in early if ".embeddings." in name}


@pytest.mark.parametrize("name", ["lamb", "adafactor"])
def test_optimizers_of_other_libraries(name: str, classification: tuple[str, ...], tmp_path) -> None:
    job = (*classification, "--dropout", 0, "--recipe.optimizer", name, "--recipe.reference_batch_size", 16)
    job = (*job, "--recipe.lr", 1e-2)
    whole = train(1, tmp_path / "a", *job, "--batch.per_device", 16)
    assert_same_training(train(2, tmp_path / "b", *job, "--batch.per_device", 8), whole, steps=30, rel=1e-4)
    losses = whole.column("loss")
    assert sum(losses[-5:]) < 0.98 * sum(losses[:5])
