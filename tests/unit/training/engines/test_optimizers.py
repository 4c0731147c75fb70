"""Optimizers: what the plan says, and no decay on biases and norms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn, optim
from transformers import BertConfig, BertForSequenceClassification

from warmup.config.recipe import Recipe
from warmup.errors import UserError
from warmup.plan import Plan, Topology
from warmup.planning import make_plan
from warmup.scheduler import WarmupScheduler
from warmup.training.engines.optimizers import build_optimizer, check_shardable, describe_groups, lr_multipliers


def plan(**recipe: object) -> Plan:
    """At four times the reference batch, by the linear rule and with half-life scaling of the betas."""
    given = dict(lr=1e-3, reference_batch_size=8, duration="100 steps", weight_decay=0.2, beta_scaling="half-life")
    return make_plan(Recipe(**(given | recipe)), Topology(2, 8, 2), num_samples=1000)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.linear, self.norm = nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3)
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)


def test_biases_and_norms_are_not_decayed() -> None:
    model = Small()
    optimizer = build_optimizer(model, plan())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [(group["weight_decay"], [names[id(p)] for p in group["params"]]) for group in optimizer.param_groups]
    assert groups == [
        (0.2, ["words.weight", "linear.weight"]),
        (0.0, ["linear.bias", "norm.weight", "norm.bias"]),
    ]


def test_a_step_decays_weights_alone() -> None:
    model = Small()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, plan())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    for name, parameter in model.named_parameters():  # AdamW: w - lr * decay * w at a gradient of 0
        factor = 1 - 4e-3 * 0.2 if name in ("words.weight", "linear.weight") else 1
        torch.testing.assert_close(parameter.detach(), before[name] * factor, rtol=1e-6, atol=0)


def test_no_empty_groups() -> None:
    assert [group["weight_decay"] for group in build_optimizer(nn.LayerNorm(3), plan()).param_groups] == [0.0]
    assert [g["weight_decay"] for g in build_optimizer(nn.Linear(3, 3, bias=False), plan()).param_groups] == [0.2]


@pytest.mark.parametrize(("name", "kind", "expected"), [
    ("adamw", optim.AdamW, {"betas": (0.8**4, 0.99**4), "eps": 1e-6, "fused": True}),
    ("adam", optim.Adam, {"betas": (0.8**4, 0.99**4), "eps": 1e-6, "fused": True}),
    ("sgd", optim.SGD, {"momentum": 0.7**4, "fused": True, "nesterov": False, "dampening": 0}),
    ("rmsprop", optim.RMSprop, {"alpha": 0.95**4, "eps": 1e-6, "momentum": 0.7**4, "centered": False}),
])  # fmt: skip
def test_each_optimizer_has_the_plans_numbers(name: str, kind: type, expected: dict) -> None:
    """A batch of 32 at a reference of 8: k = 4, lr * k (Goyal et al. 2017), beta^k, and where there is a momentum its
    correction.
    """
    correction = (1 - 0.7**4) / (1 - 0.7) if "momentum" in expected else 1
    optimizer = build_optimizer(Small(), plan(optimizer=name, betas=(0.8, 0.99), eps=1e-6, momentum=0.7, alpha=0.95))
    assert type(optimizer) is kind
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(4e-3 * correction, rel=1e-12)
        for field, value in expected.items():
            assert group[field] == pytest.approx(value, rel=1e-12), field


@pytest.mark.parametrize(("name", "max_lr", "decay"), [
    ("adamw", None, 0.4), ("adamw", 1e-3, 0.8), ("sgd", None, 0.2), ("sgd", 2e-3, 0.4),
])  # fmt: skip
def test_the_scaled_weight_decay_is_the_optimizers(name: str, max_lr: float | None, decay: float) -> None:
    """At k = 4: decay x 4 x lr / peak, where the peak is 2 lr (sqrt) or 4 lr (linear) unless it is capped. A step
    takes rate x decay off the weights, and nothing off biases.
    """
    rules = {"scaling": "auto", "beta_scaling": "none", "weight_decay_scaling": "timescale", "momentum": 0.0}
    scaled, model = plan(optimizer=name, max_lr=max_lr, **rules), Small()
    optimizer = build_optimizer(model, scaled)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [pytest.approx(decay, rel=1e-12), 0.0]
    before = model.linear.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    torch.testing.assert_close(model.linear.weight.detach(), before * (1 - scaled.peak_lr * decay))


def quadratic_path(given: Plan, samples: int) -> list[float]:
    """SGD on w^2 / 2 from 1, by the plan's optimizer and scheduler: w at every 64 samples."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = build_optimizer(model, given)
    WarmupScheduler(optimizer, given)
    path = []
    for step in range(1, samples // given.global_batch_size + 1):
        model.weight.grad = model.weight.detach().clone()
        optimizer.step()
        if step * given.global_batch_size % 64 == 0:
            path.append(model.weight.item())
    return path


@pytest.mark.parametrize("batch", [4, 32, 64])
def test_the_corrected_momentum_follows_the_reference_more_closely(batch: int) -> None:
    """At equal samples, at k = 1/4, 2 and 4. Without the correction the effective rate would be 3.9 times what it
    should be at k = 1/4 (0.1 / 0.026), and 0.29 of it at k = 4 (0.1 / 0.344).
    """
    rules = {"optimizer": "sgd", "lr": 1e-3, "reference_batch_size": 16, "weight_decay": 0.0, "momentum": 0.9}
    recipe = Recipe(**rules, duration="400 steps", warmup="20 steps", decay="constant", beta_scaling="half-life")
    scaled = make_plan(recipe, Topology(1, batch))
    uncorrected = replace(scaled, peak_lr=scaled.peak_lr / scaled.momentum_correction)
    reference = quadratic_path(make_plan(recipe, Topology(1, 16)), 6400)
    distances = [
        max(abs(a - b) for a, b in zip(quadratic_path(given, 6400), reference, strict=True))
        for given in (scaled, uncorrected)
    ]
    assert distances[0] < 0.05 * distances[1]


def test_lamb_scales_each_update_to_its_weight() -> None:
    """You et al. 2020 (arXiv:1904.00962v3), algorithm 2, without correction of bias: m = (1 - b1) g, v = (1 - b2) g^2,
    u = m / (sqrt(v) + eps) + decay w, w - lr |w| / |u| u.
    """
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(model, plan(optimizer="lamb", betas=(0.9, 0.99), eps=1e-6, beta_scaling="none"))
    weight, grad = model.weight.detach().clone().double(), torch.randn(2, 3, dtype=torch.float64)
    model.weight.grad, model.bias.grad = grad.float(), torch.zeros(2)
    optimizer.step()
    update = 0.1 * grad / (0.01 * grad**2).sqrt().add(1e-6) + 0.2 * weight
    expected = weight - 4e-3 * weight.norm() / update.norm() * update
    torch.testing.assert_close(model.weight.detach().double(), expected, rtol=1e-5, atol=1e-7)


def test_adafactor_keeps_rows_and_columns_alone() -> None:
    """Shazeer and Stern 2018: of a matrix of 4 x 3, 4 + 3 numbers."""
    model = nn.Linear(3, 4)
    optimizer = build_optimizer(model, plan(optimizer="adafactor", beta_scaling="none"))
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    state = optimizer.state[model.weight]
    assert sum(value.numel() for name, value in state.items() if name != "step") == 4 + 3
    assert {group["lr"] for group in optimizer.param_groups} == {4e-3}


@pytest.mark.parametrize("name", ["lamb", "adafactor"])
def test_an_engine_that_shards_weights_refuses_optimizers_that_need_them_whole(name: str) -> None:
    with pytest.raises(UserError, match=f"^recipe.optimizer: {name} needs whole weights, which X shards; use adamw"):
        check_shardable(name, "X")
    check_shardable("adamw", "X")


# --- learning rate multipliers ---


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8, num_labels=2
    )
    return BertForSequenceClassification(config)


def of_part(multipliers: dict[str, float], part: str) -> set[float]:
    values = {ratio for name, ratio in multipliers.items() if f".{part}." in f".{name}."}
    assert values
    return values


def test_layers_have_less_the_deeper_they_are(bert: nn.Module) -> None:
    """The code of BEiT (Bao et al. 2022) gives layer i of 0 ... L + 1 the multiplier decay^(L + 1 - i), embeddings
    being 0 and the head L + 1. Here L = 3.
    """
    multipliers = lr_multipliers(bert, 0.5, ())
    assert of_part(multipliers, "embeddings") == {1 / 16}
    assert [of_part(multipliers, f"layer.{number}") for number in range(3)] == [{1 / 8}, {1 / 4}, {1 / 2}]
    assert of_part(multipliers, "classifier") == of_part(multipliers, "pooler") == {1.0}
    assert set(lr_multipliers(bert, 1.0, ()).values()) == {1.0}


def test_parts_have_ratios_of_their_own_times_their_layers(bert: nn.Module) -> None:
    given = ("classifier=10", "encoder=2", "encoder.layer.1=0", "layer.2.attention=3", "word_embeddings=0.5")
    multipliers = lr_multipliers(bert, 0.5, given)
    assert of_part(multipliers, "classifier") == {10.0}
    assert of_part(multipliers, "layer.0") == {2 / 8} and of_part(multipliers, "layer.1") == {0.0}
    assert of_part(multipliers, "layer.2.attention") == {3 / 2} and of_part(multipliers, "layer.2.output") == {2 / 2}
    assert of_part(multipliers, "word_embeddings") == {0.5 / 16} and of_part(multipliers, "position_embeddings") == {
        1 / 16
    }


def test_layer_1_is_not_layer_10() -> None:
    model = nn.ModuleDict({"layer": nn.ModuleList(nn.Linear(1, 1) for _ in range(11))})
    multipliers = lr_multipliers(nn.ModuleDict({"encoder": model}), 1.0, ("layer.1=0",))
    assert [name for name, ratio in multipliers.items() if ratio == 0] == [
        "encoder.layer.1.weight",
        "encoder.layer.1.bias",
    ]


def test_the_rate_of_each_group_is_the_plans_times_its_multiplier(bert: nn.Module) -> None:
    """4e-3 at the peak, after 2 steps of warmup."""
    given = plan(warmup="8 steps", decay="constant")
    optimizer = build_optimizer(bert, given, 0.5, ("classifier=10", "embeddings=0"))
    scheduler = WarmupScheduler(optimizer, given)
    assert {group["lr_multiplier"] for group in optimizer.param_groups} == {10.0, 1.0, 0.5, 0.25, 0.125}
    for step in range(4):
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(4e-3 * min((step + 1) / 2, 1) * group["lr_multiplier"], rel=1e-12)
        scheduler.seek((step + 1) * given.global_batch_size)
    frozen = {name for name, parameter in bert.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in bert.named_parameters() if ".embeddings." in name}
    words = (
        f"lr multiplied by 0.125 to 10; {sum(p.numel() for p in bert.bert.embeddings.parameters()):,} weights frozen"
    )
    assert describe_groups(bert, optimizer) == words


def test_a_part_that_is_not_there(bert: nn.Module) -> None:
    with pytest.raises(UserError, match="^recipe.lr_ratios: no weight has 'clasifier' in its name; there are bert.emb"):
        build_optimizer(bert, plan(), 1.0, ("clasifier=10",))
    with pytest.raises(UserError, match="^recipe.lr_ratios: freezes every weight$"):
        build_optimizer(bert, plan(), 1.0, ("bert=0", "classifier=0"))
