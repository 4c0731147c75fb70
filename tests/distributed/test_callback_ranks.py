"""The plan in transformers' Trainer and in Lightning, on two real gloo ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist
from callbacks import EXPECTED, fit, plan_of, samples, trainer_of
from harness import run_ranks
from lightning.pytorch.callbacks import ModelCheckpoint

CUTS = [(2, 4, 1), (2, 2, 2)]
EXACTLY = pytest.approx(EXPECTED, rel=1e-12, abs=1e-15)
RESUMED = pytest.approx(EXPECTED[7:], rel=1e-12, abs=1e-15)


def _trainer(rank: int, cut: tuple[int, int, int], folder: Path) -> tuple[list, list, list]:
    first, rates = trainer_of(folder, plan_of(*cut), save_strategy="steps", save_steps=7)
    first.train()
    second, resumed = trainer_of(folder / "again", plan_of(*cut))
    second.train(resume_from_checkpoint=str(folder / "checkpoint-7"))
    assert dist.get_world_size() == first.args.world_size == 2 and dist.get_backend() == "gloo"
    return rates, resumed, [line["learning_rate"] for line in first.state.log_history[:-1]]


@pytest.mark.parametrize("cut", CUTS)
def test_the_ranks_of_trainer_take_the_rates_of_the_plan_before_and_after_a_resumption(cut, tmp_path: Path) -> None:
    ranks = run_ranks(2, _trainer, cut, tmp_path)
    assert [rank.error for rank in ranks] == [None, None]
    for rank in ranks:
        rates, resumed, _ = rank.value
        assert rates == EXACTLY and resumed == RESUMED
    assert ranks[0].value[2] == EXACTLY  # only rank 0 keeps all of the log


def _split(rank: int, folder: Path) -> list[float]:
    """The loader's batch is that of all ranks."""
    trainer, rates = trainer_of(folder, plan_of(1, 8), accelerator_config={"split_batches": True})
    trainer.train()
    assert trainer.args.world_size == 2 and trainer.state.epoch == pytest.approx(12 / 5)
    return rates


def test_a_batch_that_trainer_splits_over_the_ranks_is_counted_once(tmp_path: Path) -> None:
    ranks = run_ranks(2, _split, tmp_path)
    assert [rank.error for rank in ranks] == [None, None]
    assert [rank.value for rank in ranks] == [EXACTLY, EXACTLY]


def _lightning(rank: int, cut: tuple[int, int, int], folder: Path) -> tuple[list, list]:
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=7, save_top_k=-1)
    rates = fit(plan_of(*cut), callbacks=[saving], enable_checkpointing=True)
    resumed = fit(plan_of(*cut), ckpt_path=str(folder / "step=7.ckpt"))
    return rates, resumed


@pytest.mark.parametrize("cut", CUTS)
def test_the_ranks_of_lightning_take_the_rates_of_the_plan_before_and_after_a_resumption(cut, tmp_path: Path) -> None:
    ranks = run_ranks(2, _lightning, cut, tmp_path)
    assert [rank.error for rank in ranks] == [None, None]
    assert [rank.value for rank in ranks] == [(EXACTLY, RESUMED)] * 2


def _resumed(rank: int, folder: Path, which: str) -> list[float]:
    """The rest of a run of two ranks on one, with half the batch: 56 of 96 samples are done in 7 steps."""
    plan = plan_of(1, 4)
    if which == "lightning":
        return fit(plan, ckpt_path=str(folder / "step=7.ckpt"), max_steps=17)
    trainer, rates = trainer_of(folder / "less", plan, max_steps=17)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-7"))
    return rates


@pytest.mark.parametrize(("which", "first"), [("transformers", _trainer), ("lightning", _lightning)])
def test_on_fewer_ranks_the_plan_is_entered_at_the_samples_trained_on(which, first, tmp_path: Path) -> None:
    assert [rank.error for rank in run_ranks(2, first, CUTS[0], tmp_path)] == [None, None]
    (alone,) = run_ranks(1, _resumed, tmp_path, which)
    assert alone.error is None
    assert alone.value == pytest.approx([plan_of(1, 4).lr_at(samples) for samples in range(56, 96, 4)], rel=1e-12)


def _other_plan(rank: int, folder: Path, which: str) -> None:
    plan = plan_of(2, 4, lr=(1e-2, 3e-2)[rank])
    if which == "lightning":
        fit(plan, data=samples(8))
    else:
        trainer_of(folder, plan)[0].train()


@pytest.mark.parametrize("which", ["transformers", "lightning"])
def test_ranks_with_different_plans_end_before_the_first_step(which, tmp_path: Path) -> None:
    for rank in run_ranks(2, _other_plan, tmp_path, which):
        assert "RanksDisagree: ranks disagree on lr: rank 0 has 0.01, rank 1 0.03" in rank.error
