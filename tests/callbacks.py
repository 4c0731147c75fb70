"""Runs of a 2-layer BERT in transformers' Trainer and in Lightning that record the learning rate of each step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from accelerate.state import AcceleratorState, GradientState
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from warmup import Plan, Recipe, Topology, make_plan
from warmup.callbacks import lightning, transformers

STEPS = 12
# At a batch of 8, twice the reference: a peak of 2e-2, 24 samples = 3 steps of warmup, 96 samples = 12 steps in all.
RECIPE = {"lr": 1e-2, "reference_batch_size": 4, "warmup": "6 steps", "duration": "24 steps"}
EXPECTED = [2e-2 * (step + 1) / 3 for step in range(3)] + [2e-2 * (1 - (step - 3) / 9) for step in range(3, STEPS)]


def plan_of(*topology: int, **recipe: Any) -> Plan:
    return make_plan(Recipe(**RECIPE | recipe), Topology(*topology))


def samples(count: int = 40) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    return [{"input_ids": torch.randint(5, 50, (6,)), "labels": torch.tensor(index % 2)} for index in range(count)]


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=8,
        )
    )  # fmt: skip


def recorded(optimizer: torch.optim.Optimizer) -> list[float]:
    """A list to which the learning rate is appended whenever the optimizer is about to step."""
    rates: list[float] = []
    optimizer.register_step_pre_hook(lambda inner, args, kwargs: rates.append(float(inner.param_groups[0]["lr"])))
    return rates


def reset_accelerate() -> None:
    """Remove the state that Trainer leaves in this process; ranks that are forked later would inherit it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def trainer_of(folder: Path, plan: Plan, data: list | None = None, **options: Any) -> tuple[Trainer, list[float]]:
    """A Trainer with the plan's topology, unless `options` override it, and the rates that its steps will have."""
    optimizers = options.pop("optimizers", (None, None))
    resumed_samples = options.pop("resumed_samples", None)
    arguments = {
        "per_device_train_batch_size": plan.per_device_batch_size,
        "gradient_accumulation_steps": plan.accumulation,
        "max_steps": plan.total_steps,
        "lr_scheduler_type": "constant",
        "learning_rate": 7.0,  # which no step may have
    }
    quiet = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True}
    trainer = Trainer(
        bert(),
        TrainingArguments(str(folder), **quiet | arguments | options),
        train_dataset=data or samples(),
        callbacks=[transformers.PlanCallback(plan, resumed_samples)],
        optimizers=optimizers,
    )
    return trainer, recorded(trainer.create_optimizer())


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = bert()

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        return self.model(**batch).loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=7.0)
        self.rates = recorded(optimizer)
        return optimizer


def fit(plan: Plan, module: Module | None = None, data: list | None = None, **options: Any) -> list[float]:
    """The rates of the steps of a Lightning Trainer with the plan's topology, unless `options` override it."""
    module = module or Module()
    own = lightning.PlanCallback(plan, options.pop("resumed_samples", None))
    callbacks = [*options.pop("callbacks", []), own]
    ckpt_path, batch_size = options.pop("ckpt_path", None), options.pop("batch_size", plan.per_device_batch_size)
    arguments = {
        "devices": plan.world_size, "accumulate_grad_batches": plan.accumulation, "max_steps": plan.total_steps,
        "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "enable_checkpointing": False, "strategy": "ddp" if plan.world_size > 1 else "auto",
    }  # fmt: skip
    trainer = pl.Trainer(callbacks=callbacks, **arguments | options)
    trainer.fit(module, DataLoader(data or samples(), batch_size=batch_size, shuffle=True), ckpt_path=ckpt_path)
    assert trainer.world_size == plan.world_size
    return module.rates
