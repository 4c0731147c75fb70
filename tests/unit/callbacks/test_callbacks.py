"""Plans in transformers' Trainer and in Lightning: the learning rate of every step, and what is refused."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from callbacks import EXPECTED, RECIPE, STEPS, Module, fit, plan_of, reset_accelerate, samples, trainer_of
from harness import ROOT
from lightning.pytorch.callbacks import GradientAccumulationScheduler, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from warmup import Plan, Recipe, Topology, UserError, make_plan
from warmup.callbacks import check_optimizer

SPLITS = [(1, 8, 1), (1, 4, 2)]


@pytest.fixture(autouse=True)
def reset() -> Iterator[None]:
    yield
    reset_accelerate()


def exactly(rates: list[float]) -> object:
    return pytest.approx(rates, rel=1e-12, abs=1e-15)


def test_the_rates_are_what_these_tests_assume() -> None:
    plan = plan_of(1, 8)
    assert (plan.warmup_steps, plan.total_steps, plan.peak_lr) == (3, STEPS, 2e-2)
    assert EXPECTED[2] == EXPECTED[3] == 2e-2 and EXPECTED[-1] == pytest.approx(2e-2 / 9)


# transformers


@pytest.mark.parametrize("split", SPLITS)
def test_every_step_of_trainer_takes_the_rate_of_the_plan_and_logs_it(split, tmp_path: Path) -> None:
    trainer, rates = trainer_of(tmp_path, plan_of(*split))
    trainer.train()
    assert rates == exactly(EXPECTED)
    assert [line["learning_rate"] for line in trainer.state.log_history[:-1]] == exactly(EXPECTED)


@pytest.mark.parametrize("split", SPLITS)
def test_trainer_resumes_where_it_was_also_under_another_recipe(split, tmp_path: Path) -> None:
    first, _ = trainer_of(tmp_path, plan_of(*split), save_strategy="steps", save_steps=7)
    first.train()
    for lr, factor in ((1e-2, 1.0), (5e-3, 0.5)):
        second, rates = trainer_of(tmp_path / "again", plan_of(*split, lr=lr))
        second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
        assert rates == exactly([factor * rate for rate in EXPECTED[7:]])


# 7 steps of 8 samples, then the rest of the 96 in steps of another size, at that size's rates from sample 56 on
CHANGED = [((1, 16), 7 + 3), ((1, 4), 7 + 10), ((1, 5), 7 + 8)]


def _after_56(plan: Plan) -> list[float]:
    return [plan.lr_at(samples) for samples in range(56, 96, plan.global_batch_size)]


@pytest.mark.parametrize(("split", "total_steps"), CHANGED)
@pytest.mark.parametrize("restore", [False, True])
def test_trainer_resumed_at_another_batch_enters_the_plan_at_its_samples(split, total_steps, restore, tmp_path) -> None:
    first, _ = trainer_of(tmp_path, plan_of(1, 8), save_strategy="steps", save_steps=7)
    first.train()
    plan = plan_of(*split)
    options = {"save_strategy": "steps", "restore_callback_states_from_checkpoint": restore}
    path = tmp_path / "checkpoint-7" / "trainer_state.json"
    path.write_text(path.read_text().replace('"save_steps": 7', '"save_steps": 9'))  # Trainer takes it from there
    refused, rates = trainer_of(tmp_path / "again", plan, **options)
    checkpoint = str(tmp_path / "checkpoint-7")
    with pytest.raises(UserError, match=f"the plan has {total_steps} with the 7 before; set max_steps={total_steps}, "):
        refused.train(resume_from_checkpoint=checkpoint)
    assert rates == []
    second, rates = trainer_of(tmp_path / "again", plan, max_steps=total_steps, **options)
    second.train(resume_from_checkpoint=checkpoint)
    assert rates == exactly(_after_56(plan)) and len(rates) == total_steps - 7
    third, rates = trainer_of(tmp_path / "third", plan, max_steps=total_steps)  # again, at the same batch
    third.train(resume_from_checkpoint=str(tmp_path / "again" / "checkpoint-9"))
    assert rates == exactly(_after_56(plan)[2:])


def test_a_checkpoint_of_trainer_without_the_position_is_refused_unless_it_is_given(tmp_path: Path) -> None:
    first, _ = trainer_of(tmp_path, plan_of(1, 8), save_strategy="steps", save_steps=7)
    first.train()
    checkpoint = tmp_path / "checkpoint-7"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert state["stateful_callbacks"].pop("warmup.PlanCallback")["attributes"] == {
        "step": 0, "samples": 0, "global_batch_size": 8,
    }  # fmt: skip
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    second, rates = trainer_of(tmp_path / "again", plan_of(1, 8))
    with pytest.raises(
        UserError, match="^the checkpoint of step 7 was saved without .* resumed_samples=...\\): 7 x the"
    ):
        second.train(resume_from_checkpoint=str(checkpoint))
    assert rates == []
    third, rates = trainer_of(tmp_path / "again", plan_of(1, 8), resumed_samples=56)
    third.train(resume_from_checkpoint=str(checkpoint))
    assert rates == exactly(EXPECTED[7:])


def test_trainer_may_be_trained_twice(tmp_path: Path) -> None:
    trainer, rates = trainer_of(tmp_path, plan_of(1, 8))
    trainer.train()
    trainer.train()
    assert rates == exactly(EXPECTED * 2)


def test_a_step_of_fewer_samples_counts_as_one_in_trainer(tmp_path: Path) -> None:
    """27 samples in micro-batches of 4, two to a step: the fourth step of an epoch has one, of 3 samples."""
    trainer, rates = trainer_of(tmp_path, plan_of(1, 4, 2), samples(27))
    trainer.train()
    assert trainer.state.epoch == 3.0 and rates == exactly(EXPECTED)


@pytest.mark.parametrize(("options", "message"), [
    ({"lr_scheduler_type": "linear"}, "lr_scheduler_type: 'linear' would be a second schedule .*'constant'$"),
    ({"lr_scheduler_type": "constant_with_warmup"}, "lr_scheduler_type: 'constant_with_warmup' would be"),
    ({"max_steps": 13}, "max_steps: this run would take 13 steps and the plan has 12; set max_steps=12"),
    ({"max_steps": -1, "num_train_epochs": 3}, "max_steps: this run would take 15 steps and the plan has 12"),
    ({"per_device_train_batch_size": 4}, "the plan is for 8 samples per step and this run has 4"),
    ({"gradient_accumulation_steps": 2}, "the plan is for 8 samples per step and this run has 16"),
    ({"auto_find_batch_size": True}, "auto_find_batch_size: would change the batch"),
])  # fmt: skip
def test_trainer_that_contradicts_the_plan_is_refused(options, message, tmp_path: Path) -> None:
    trainer, rates = trainer_of(tmp_path, plan_of(1, 8), **options)
    with pytest.raises(ValueError, match=message) as caught:
        trainer.train()
    assert rates == [] and "\n" not in str(caught.value)


def test_numbers_that_the_plan_scales_must_be_the_optimizers() -> None:
    recipe = Recipe(reference_batch_size=8, duration="10 steps", scaled="all", weight_decay=0.1, lr=1.0)
    plan = make_plan(recipe, Topology(1, 32))  # k = 4: betas 0.6 and 0.996, eps 5e-9, decay 0.1 x 4 / 2
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    numbers = {"betas": plan.betas, "eps": plan.eps, "weight_decay": plan.weight_decay}

    def adamw(**other: object) -> torch.optim.Optimizer:
        groups = [{"params": weights[:1], "weight_decay": 0.0}, {"params": weights[1:]}]
        return torch.optim.AdamW(groups, **numbers | other)

    check_optimizer(plan, adamw())
    with pytest.raises(UserError, match=r"^betas: the plan scales \(0.9, 0.999\) to \(0.6, 0.996\), and the optimizer"):
        check_optimizer(plan, adamw(betas=(0.9, 0.999)))
    with pytest.raises(UserError, match=r"^weight_decay: the plan scales 0.1 to 0.2, and the optimizer has 0.1; make"):
        check_optimizer(plan, adamw(weight_decay=0.1))
    unscaled = make_plan(Recipe(reference_batch_size=8, duration="10 steps"), Topology(1, 32))
    check_optimizer(unscaled, torch.optim.AdamW(weights, betas=(0.5, 0.5)))


def test_a_schedule_beside_the_plan_is_refused_by_trainer(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0)
    one_cycle = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    trainer, _ = trainer_of(tmp_path, plan_of(1, 8), optimizers=(optimizer, one_cycle))
    with pytest.raises(ValueError, match="optimizers: StepLR would be a second schedule .*optimizers=.optimizer, None"):
        trainer.train()


def test_a_batch_that_grows_is_refused_by_both(tmp_path: Path) -> None:
    plan = make_plan(Recipe(**RECIPE), Topology(1, 8, 1, 8, "50%", 4))
    trainer, rates = trainer_of(tmp_path, plan)
    with pytest.raises(ValueError, match="^batch.warmup: this loop has one batch size for the whole run"):
        trainer.train()
    assert rates == []
    with pytest.raises(ValueError, match="^batch.warmup: this loop has one batch size for the whole run"):
        fit(plan)


# Lightning


@pytest.mark.parametrize("split", SPLITS)
def test_every_step_in_lightning_takes_the_rate_of_the_plan(split) -> None:
    assert fit(plan_of(*split)) == exactly(EXPECTED)


@pytest.mark.parametrize("split", SPLITS)
def test_lightning_resumes_where_it_was_also_under_another_recipe(split, tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=7, save_top_k=-1)
    fit(plan_of(*split), callbacks=[saving], enable_checkpointing=True)
    for lr, factor in ((1e-2, 1.0), (5e-3, 0.5)):
        rates = fit(plan_of(*split, lr=lr), ckpt_path=str(tmp_path / "step=7.ckpt"))
        assert rates == exactly([factor * rate for rate in EXPECTED[7:]])


@pytest.mark.parametrize(("split", "total_steps"), CHANGED)
def test_lightning_resumed_at_another_batch_enters_the_plan_at_its_samples(split, total_steps, tmp_path) -> None:
    fit(plan_of(1, 8), callbacks=[_saving(tmp_path, 7)], enable_checkpointing=True)
    plan, checkpoint = plan_of(*split), str(tmp_path / "step=7.ckpt")
    with pytest.raises(UserError, match=f"the plan has {total_steps} with the 7 before; set max_steps={total_steps}, "):
        fit(plan, ckpt_path=checkpoint)
    options = {"callbacks": [_saving(tmp_path, 9)], "enable_checkpointing": True, "max_steps": total_steps}
    rates = fit(plan, ckpt_path=checkpoint, **options)
    assert rates == exactly(_after_56(plan)) and len(rates) == total_steps - 7
    rates = fit(plan, ckpt_path=str(tmp_path / "step=9.ckpt"), max_steps=total_steps)  # again, at the same batch
    assert rates == exactly(_after_56(plan)[2:])


def test_a_checkpoint_of_lightning_without_the_position_is_refused_unless_it_is_given(tmp_path: Path) -> None:
    fit(plan_of(1, 8), callbacks=[_saving(tmp_path, 7)], enable_checkpointing=True)
    path = tmp_path / "step=7.ckpt"
    content = torch.load(path, weights_only=False)
    assert content["callbacks"].pop("PlanCallback") == {"step": 0, "samples": 0, "global_batch_size": 8}
    torch.save(content, path)
    with pytest.raises(UserError, match="^the checkpoint of step 7 was saved without PlanCallback's position"):
        fit(plan_of(1, 8), ckpt_path=str(path))
    assert fit(plan_of(1, 8), ckpt_path=str(path), resumed_samples=56) == exactly(EXPECTED[7:])


def _saving(folder: Path, every: int) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)


def test_a_step_of_fewer_samples_counts_as_one_in_lightning() -> None:
    rates = fit(plan_of(1, 4, 2), data=samples(27), max_steps=-1, max_epochs=3)
    assert rates == exactly(EXPECTED)


class Skipping(Module):
    """Skips the update of one step, as a gradient scaler does; Lightning counts it."""

    def optimizer_step(self, epoch, index, optimizer, closure):
        optimizer.step(closure) if self.trainer.global_step != 5 else closure()


def test_a_skipped_step_counts_in_lightning() -> None:
    assert fit(plan_of(1, 8), Skipping()) == exactly(EXPECTED[:5] + EXPECTED[6:])


def test_the_monitor_of_lightning_logs_the_rates_of_the_plan_also_after_a_resumption(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=7, save_top_k=-1)
    for name, ckpt_path, expected in (("a", None, EXPECTED), ("b", str(tmp_path / "step=7.ckpt"), EXPECTED[7:])):
        options = {
            "callbacks": [LearningRateMonitor("step"), saving],
            "log_every_n_steps": 1,
            "enable_checkpointing": True,
        }
        fit(plan_of(1, 8), logger=CSVLogger(tmp_path, name, "0"), ckpt_path=ckpt_path, **options)
        with open(tmp_path / name / "0" / "metrics.csv") as file:
            assert [float(row["lr-AdamW"]) for row in csv.DictReader(file)] == exactly(expected)


class Scheduled(Module):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 5)]


class Manual(Module):
    automatic_optimization = False


@pytest.mark.parametrize(("module", "options", "message"), [
    (Scheduled, {}, "configure_optimizers: returns a second schedule beside the plan's; return the optimizer alone"),
    (Manual, {}, "automatic_optimization: .* use WarmupScheduler in it instead"),
    (Module, {"max_steps": 13}, "max_steps: this run would take 13 steps and the plan has 12; set max_steps=12"),
    (Module, {"max_epochs": 2}, "max_steps: this run would take 10 steps .*, and no number of epochs"),
    (Module, {"batch_size": 4}, "the plan is for 8 samples per step and this run has 4"),
    (Module, {"accumulate_grad_batches": 2}, "the plan is for 8 samples per step and this run has 16"),
    (Module, {"callbacks": [GradientAccumulationScheduler({1: 2})]}, "GradientAccumulationScheduler: changes"),
])  # fmt: skip
def test_lightning_that_contradicts_the_plan_is_refused(module, options, message) -> None:
    lightning_module = module()
    with pytest.raises(ValueError, match=message) as caught:
        fit(plan_of(1, 8), lightning_module, **options)
    assert lightning_module.rates == [] and "\n" not in str(caught.value)


def test_without_lightning_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['lightning'] = None; import warmup.callbacks.lightning"
    root = ROOT
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1 and last.startswith("ImportError: warmup.callbacks.lightning needs Lightning")
    assert last.endswith("pip install lightning") and "During handling" not in ended.stderr
