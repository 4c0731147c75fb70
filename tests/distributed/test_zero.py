"""DeepSpeed's ZeRO gives the training of DistributedDataParallel, and goes on from and to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import (
    Ended,
    assert_each_sample_once,
    assert_killed,
    assert_same_training,
    killed_after,
    scale_losses,
    train,
)
from sharding_engines import zero

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow
BATCH = 24


@pytest.mark.parametrize("task", ["mlm", "classification"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_same_training(task: str, accumulation: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    job = (*request.getfixturevalue(task), "--batch.per_device", 8, "--batch.accumulation", accumulation)
    job = (*job, "--recipe.duration", "80 steps", "--recipe.reference_batch_size", 4 * accumulation)
    job = (*job, "--recipe.scaled", "all", "--recipe.weight_decay", 0.5)  # at k = 4: betas 0.6 and 0.996, decay 1
    job = (*job, "--batch.evaluation", 40)  # 3 batches of labelled texts: one rank has one less
    reference = train(2, tmp_path / "ddp", *job)
    plan = json.loads((reference.folder / "plan.json").read_text())
    assert (plan["betas"], plan["weight_decay"], plan["reference_weight_decay"]) == ([0.6, 0.996], 1.0, 0.5)
    for stage in (1, 2, 3):
        assert_same_training(train(2, tmp_path / f"zero{stage}", *job, env=zero(stage)), reference, steps=20, rel=1e-4)


def test_evaluations_on_the_way_leave_weights_that_can_be_trained(clm: tuple[str, ...], tmp_path: Path) -> None:
    """Those of a GPT-2 are large enough for DeepSpeed to divide them."""
    job = (*clm, "--recipe.duration", "6 steps", "--batch.per_device", 16, "--evaluation.every", 2)
    reference = train(2, tmp_path / "ddp", *job)
    assert_same_training(train(2, tmp_path / "zero3", *job, env=zero(3)), reference, steps=6, rel=1e-4)


@pytest.fixture(scope="module")
def job(mlm: tuple[str, ...]) -> tuple[object, ...]:
    """20 steps of 24 with a checkpoint every 4 steps, without dropout, so that any split gives the same."""
    batch = ("--batch.global_size", BATCH, "--batch.per_device", 4, "--recipe.reference_batch_size", BATCH)
    job = (*mlm, *batch, "--recipe.duration", "20 steps", "--dropout", 0, "--checkpoint.every", "4 steps")
    return (*job, "--log.samples", "true", "--resume", "auto")


@pytest.fixture(scope="module")
def whole(job: tuple, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The job under DistributedDataParallel on 2 ranks, from its start to its end."""
    return train(2, tmp_path_factory.mktemp("whole") / "run", *job)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_killed_and_resumed(stage: int, job: tuple, whole: Ended, tmp_path: Path) -> None:
    """Two steps after a checkpoint, on as many ranks."""
    run = train(2, tmp_path / "run", *job, env=zero(stage), before=killed_after(10))
    assert_killed(run, 10)
    run = train(2, tmp_path / "run", *job, env=zero(stage))
    (resumed,) = run.of_kind("resumed")
    assert resumed["step"] == 8
    assert_same_training(run, whole, steps=20, rel=1e-4)
    assert_each_sample_once(run.folder)


def test_any_engine_goes_on_from_any_other(job: tuple, whole: Ended, tmp_path: Path) -> None:
    """Stage 2 on 2 ranks, 3 on 3, none on 2, 1 on 1, 3 on 2: each killed where it has just saved."""
    hops = [(2, 2, 4), (3, 3, 8), (0, 2, 12), (1, 1, 16), (3, 2, None)]
    for stage, world_size, step in hops:
        run = train(world_size, tmp_path / "run", *job, env=zero(stage), before=killed_after(step))
        if step:
            assert_killed(run, step)
    assert [line["world_size"] for line in run.of_kind("resumed")] == [3, 2, 1, 2]
    assert_same_training(run, whole, steps=20, rel=1e-4)
    assert_each_sample_once(run.folder)


@pytest.mark.parametrize("stage", [2, 3])
def test_weights_in_full_precision_come_back_where_bf16_is_computed(stage: int, job: tuple, tmp_path: Path) -> None:
    """Rounded to bf16 they differ by 4e-3 and the losses after it by 5e-4."""
    env = zero(stage, ACCELERATE_MIXED_PRECISION="bf16")
    job = (*job, "--recipe.duration", "12 steps")
    reference = train(2, tmp_path / "whole", *job, env=env)
    train(2, tmp_path / "run", *job, env=env, before=killed_after(8))
    run = train(2, tmp_path / "run", *job, env=env)
    assert reference.codes == run.codes == [0, 0] and len(run.of_kind("resumed")) == 1
    assert run.column("loss")[8:] == pytest.approx(reference.column("loss")[8:], rel=1e-4)


def test_a_scheduler_or_a_micro_batch_beside_the_plan(mlm: tuple[str, ...], tmp_path: Path) -> None:
    """A DeepSpeed configuration of the user's own ends the run on all ranks before it trains."""
    for name, given, message in (
        ("scheduler", {"type": "WarmupLR"}, "scheduler: the plan sets the learning rate; take it out"),
        ("train_micro_batch_size_per_gpu", 4, "train_micro_batch_size_per_gpu is 4 and 8 by the plan"),
    ):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"zero_optimization": {"stage": 2}, name: given}))
        env = zero(2, ACCELERATE_DEEPSPEED_CONFIG_FILE=str(file))
        run = train(2, tmp_path / name, *mlm, "--recipe.scaling", "none", "--batch.per_device", 8, env=env)
        assert run.codes == [2, 2] and message in run.status["message"], run.status
        assert not (tmp_path / name).exists()


def test_fsdp_on_cpu_ranks(mlm: tuple[str, ...], tmp_path: Path) -> None:
    run = train(2, tmp_path / "run", *mlm, env={"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})
    assert run.codes == [2, 2] and "launcher: FSDP needs GPUs" in run.status["message"]


@pytest.mark.parametrize("stage", [2, 3])
def test_a_step_that_is_not_finite_is_skipped(stage: int, job: tuple, tmp_path: Path) -> None:
    """On rank 1 the loss of the fifth step is infinite: no rank applies it, and its samples are not counted."""

    def before(rank: int) -> None:
        from warmup.training.run.train_step import TrainStep

        whole_step, infinite = TrainStep._step, False

        def step(self: TrainStep) -> object:
            nonlocal infinite
            infinite = rank == 1 and self.clock.consumed_samples == 4 * BATCH
            return whole_step(self)

        scale_losses(lambda: float("inf") if infinite else 1.0)
        TrainStep._step = step

    run = train(2, tmp_path / "run", *job, env=zero(stage), before=before)
    assert run.codes == [0, 0], run.status
    (skipped,) = run.of_kind("skipped")
    assert (skipped["step"], skipped["samples"], skipped["consumed_samples"]) == (4, 4 * BATCH, 5 * BATCH)
    assert run.column("step") == list(range(1, 21)) and run.column("consumed_samples")[4] == 6 * BATCH
    assert run.column("lr")[4] == pytest.approx(1e-3 * 5 / 10)  # the rate follows the applied samples
    assert run.column("loss")[-1] < run.column("loss")[0]


def test_state_in_host_memory(job: tuple, whole: Ended, tmp_path: Path) -> None:
    """ZeRO's offloading keeps the recipe's own optimizer."""
    env = zero(2, ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE="cpu")
    run = train(2, tmp_path / "run", *job, env=env, before=killed_after(8))
    assert_killed(run, 8)
    assert_same_training(train(2, tmp_path / "run", *job, env=env), whole, steps=20, rel=1e-4)


@pytest.mark.parametrize("stage", [2, 3])
def test_frozen_weights_and_rates_by_layer(stage: int, job: tuple, tmp_path: Path) -> None:
    """Killed and resumed; what is frozen has neither state nor a copy in full precision."""
    job = (*job, "--recipe.layer_decay", 0.5, "--recipe.lr_ratios", "position_embeddings=0", "layer.0=0")
    reference = train(2, tmp_path / "ddp", *job)
    assert_killed(train(2, tmp_path / "run", *job, env=zero(stage), before=killed_after(8)), 8)
    assert_same_training(train(2, tmp_path / "run", *job, env=zero(stage)), reference, steps=20, rel=1e-4)
