"""Optimizers: what the plan says, and no decay on biases and norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn, optim

from warmup.config import Recipe
from warmup.plan import Plan, Topology, make_plan
from warmup.training import optimizer
from warmup.training.outcome import UserError


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
    made = optimizer.build(model, plan())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [(group["weight_decay"], [names[id(p)] for p in group["params"]]) for group in made.param_groups]
    assert groups == [
        (0.2, ["words.weight", "linear.weight"]),
        (0.0, ["linear.bias", "norm.weight", "norm.bias"]),
    ]


def test_a_step_decays_weights_alone() -> None:
    model = Small()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    made = optimizer.build(model, plan())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    made.step()
    for name, parameter in model.named_parameters():  # AdamW: w - lr * decay * w at a gradient of 0
        factor = 1 - 4e-3 * 0.2 if name in ("words.weight", "linear.weight") else 1
        torch.testing.assert_close(parameter.detach(), before[name] * factor, rtol=1e-6, atol=0)


def test_no_empty_groups() -> None:
    assert [group["weight_decay"] for group in optimizer.build(nn.LayerNorm(3), plan()).param_groups] == [0.0]
    assert [g["weight_decay"] for g in optimizer.build(nn.Linear(3, 3, bias=False), plan()).param_groups] == [0.2]


@pytest.mark.parametrize(("name", "kind", "wanted"), [
    ("adamw", optim.AdamW, {"betas": (0.8**4, 0.99**4), "eps": 1e-6, "fused": True}),
    ("adam", optim.Adam, {"betas": (0.8**4, 0.99**4), "eps": 1e-6, "fused": True}),
    ("sgd", optim.SGD, {"momentum": 0.7**4, "fused": True, "nesterov": False, "dampening": 0}),
    ("rmsprop", optim.RMSprop, {"alpha": 0.95**4, "eps": 1e-6, "momentum": 0.7**4, "centered": False}),
])  # fmt: skip
def test_each_optimizer_has_the_plans_numbers(name: str, kind: type, wanted: dict) -> None:
    """A batch of 32 at a reference of 8: k = 4, lr * k (Goyal et al. 2017), beta^k."""
    made = optimizer.build(Small(), plan(optimizer=name, betas=(0.8, 0.99), eps=1e-6, momentum=0.7, alpha=0.95))
    assert type(made) is kind
    for group in made.param_groups:
        assert group["lr"] == pytest.approx(4e-3, rel=1e-12)
        for field, value in wanted.items():
            assert group[field] == pytest.approx(value, rel=1e-12), field


def test_lamb_can_be_planned_for_but_not_trained_with() -> None:
    with pytest.raises(UserError, match="^recipe.optimizer: lamb can be planned for but not trained with; use adamw$"):
        optimizer.refuse_unknown("lamb")
    assert [optimizer.refuse_unknown(name) for name in ("adamw", "adam", "rmsprop", "sgd")] == [None] * 4
