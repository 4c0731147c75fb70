"""The three engines have the members of the protocol, with its signatures, and `build_engine` chooses among them."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from warmup.config.recipe import Recipe
from warmup.errors import UserError
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.training.engines import Engine, build_engine, fsdp
from warmup.training.engines.ddp import DDPEngine
from warmup.training.engines.deepspeed import DeepSpeedEngine
from warmup.training.engines.fsdp import FSDPEngine

KINDS = {"NO": DDPEngine, "MULTI_GPU": DDPEngine, "DEEPSPEED": DeepSpeedEngine, "FSDP": FSDPEngine}
"""The engine for each distributed type of Accelerate."""
MEMBERS = {name for name in {*vars(Engine), *Engine.__annotations__} if not name.startswith("_")}


def bert() -> PreTrainedModel:
    sizes = dict(vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    return BertForSequenceClassification(BertConfig(**sizes))


def fake_accelerator(kind: str) -> SimpleNamespace:
    """As Accelerate is on two ranks, without any."""

    def prepare(*parts: object) -> tuple[object, ...]:
        if kind != "DEEPSPEED":
            return parts
        model, optimizer = parts
        wrapped = SimpleNamespace(zero_optimization_stage=lambda: 3, optimizer=SimpleNamespace(optimizer=optimizer))
        return wrapped, optimizer

    config = SimpleNamespace(hf_ds_config=SimpleNamespace(config={}))
    return SimpleNamespace(
        distributed_type=SimpleNamespace(value=kind),
        num_processes=2,
        device=torch.device("meta"),
        scaler=None,
        prepare=prepare,
        state=SimpleNamespace(deepspeed_plugin=config),
    )


def build(kind: str, monkeypatch: pytest.MonkeyPatch, optimizer_name: str = "adamw") -> Engine:
    monkeypatch.setattr(fsdp, "_shard", lambda model, accelerator: None)
    model, recipe = bert(), Recipe(optimizer_name, duration="1 steps", scaling="none")
    optimizer = torch.optim.AdamW(model.parameters())
    return build_engine(fake_accelerator(kind), model, optimizer, make_plan(recipe, Topology(2, 8, 3)))


def test_the_protocol_has_these_members() -> None:
    attributes = {"unwrapped_model", "model", "optimizer", "grad_divisor", "lockstep", "loss_scale"}
    methods = {"micro_batch_context", "backward", "reduce_sparse_grads", "update", "state", "warm_up_passes"}
    assert attributes | methods | {"name", "restores_weights", "tensors", "weights", "restore"} == MEMBERS


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_has_all_members(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build(kind, monkeypatch)
    assert type(engine) is KINDS[kind]
    assert {name for name in MEMBERS if not hasattr(engine, name)} == set()
    assert isinstance(engine, Engine)
    assert isinstance(engine.unwrapped_model, PreTrainedModel) and isinstance(engine.optimizer, torch.optim.Optimizer)
    assert isinstance(engine.name, str) and isinstance(engine.state(), dict)
    assert (engine.lockstep, engine.restores_weights, engine.loss_scale) == (kind in ("FSDP", "DEEPSPEED"), False, None)
    assert engine.grad_divisor == (6 if kind == "DEEPSPEED" else 2)  # DeepSpeed averages over 3 micro-batches too


@pytest.mark.parametrize("engine", [DDPEngine, FSDPEngine, DeepSpeedEngine])
def test_the_signatures_are_those_of_the_protocol(engine: type) -> None:
    methods = [name for name in MEMBERS if inspect.isfunction(getattr(Engine, name, None))]
    assert len(methods) == 9
    for name in methods:
        own, declared = inspect.signature(getattr(engine, name)), inspect.signature(getattr(Engine, name))
        assert own.parameters == declared.parameters, name  # names, order, defaults and types
        if name != "micro_batch_context":  # a generator under @contextmanager is one
            assert own.return_annotation == declared.return_annotation, name


def test_an_engine_has_no_public_method_of_its_own() -> None:
    for engine in (DDPEngine, FSDPEngine, DeepSpeedEngine):
        assert {name for name in dir(engine) if not name.startswith("_")} <= MEMBERS


@pytest.mark.parametrize("kind", ["DEEPSPEED", "FSDP"])
def test_an_optimizer_that_needs_whole_weights_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="^recipe.optimizer: lamb needs whole weights, which .* shards; use adamw$"):
        build(kind, monkeypatch, "lamb")


def test_deepspeed_restores_weights_that_it_holds_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build("DEEPSPEED", monkeypatch)
    engine.unwrapped_model.bert.embeddings.requires_grad_(False)  # frozen weights have no master copy
    engine.unwrapped_model.bert.embeddings.bfloat16()
    assert not engine.restores_weights
    engine.unwrapped_model.bfloat16()
    assert engine.restores_weights
