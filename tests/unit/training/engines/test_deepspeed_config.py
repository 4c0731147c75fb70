"""What a DeepSpeed configuration may say beside the plan."""

from __future__ import annotations

import re
import sys
import warnings
from types import SimpleNamespace

import pytest

from warmup.config.recipe import Recipe
from warmup.errors import UserError
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.training.distributed import environment
from warmup.training.engines import deepspeed as deepspeed_engine

PLAN = make_plan(Recipe("adamw", 1e-3, 48, duration="100 steps", max_grad_norm=0.5), Topology(3, 8, 2))


def test_the_plans_numbers_are_filled_in() -> None:
    given = {"zero_optimization": {"stage": 2}, "gradient_clipping": "auto", "train_micro_batch_size_per_gpu": 8}
    assert deepspeed_engine.complete_config(given, PLAN) == {
        "zero_optimization": {"stage": 2},
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 2,
        "train_batch_size": 48,
        "gradient_clipping": 0.5,
        "zero_force_ds_cpu_optimizer": False,
    }


def test_in_bf16_a_step_that_is_not_finite_is_looked_for() -> None:
    assert deepspeed_engine.complete_config({"bf16": {"enabled": True}}, PLAN)["bf16"] == {
        "enabled": True,
        "check_grad_overflow": True,
    }
    assert deepspeed_engine.complete_config({"bf16": {"enabled": False}}, PLAN)["bf16"] == {"enabled": False}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler: the plan sets the learning rate; take it out"),
        ({"optimizer": {"type": "Adam"}}, "optimizer: recipe.optimizer names it; take it out"),
        ({"train_micro_batch_size_per_gpu": 4}, "train_micro_batch_size_per_gpu is 4 and 8 by the plan"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps is 1 and 2 by the plan"),
        ({"train_batch_size": 64}, "train_batch_size is 64 and 48 by the plan"),
        ({"gradient_clipping": 1.0}, "gradient_clipping is 1.0 and 0.5 by the plan; take it out, or set auto"),
        ({"fp16": {"enabled": True}}, "fp16 is not supported"),
    ],
)
def test_what_contradicts_the_plan_is_refused(given: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        deepspeed_engine.complete_config(given, PLAN)


@pytest.mark.parametrize("on_cpu", [False, True])
def test_operators_are_tried_out_on_cpu_ranks_only(on_cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed does that when its list of them is read: with a compiler, on each rank and on each rank's GPU."""
    tried = []

    class Operators:
        @property
        def __compatible_ops__(self) -> dict[str, bool]:
            tried.append({"deepspeed_shm_comm": True})
            return tried[-1]

    logger = SimpleNamespace(setLevel=lambda level: None)
    stand_in = SimpleNamespace(ops=Operators(), utils=SimpleNamespace(logger=logger))
    monkeypatch.setitem(sys.modules, "deepspeed", stand_in)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("DS_ACCELERATOR", "")
    with warnings.catch_warnings():
        environment.prepare_environment(on_cpu)
    assert tried == ([{"deepspeed_shm_comm": False}] if on_cpu else [])


def test_fsdp_is_refused_where_it_would_not_train(monkeypatch: pytest.MonkeyPatch) -> None:
    environment.check_fsdp(on_cpu=True)  # not requested
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="FSDP needs GPUs"):
        environment.check_fsdp(on_cpu=True)
    with pytest.raises(UserError, match="version 1 is not supported"):
        environment.check_fsdp(on_cpu=False)
    monkeypatch.setenv("FSDP_VERSION", "2")
    environment.check_fsdp(on_cpu=False)
