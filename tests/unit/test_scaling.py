"""Scaling rules: the learning rate, the moments and epsilon at k times the batch."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmup.config.recipe import Recipe
from warmup.errors import PlanError
from warmup.plan import Plan, Topology
from warmup.planning import make_plan
from warmup.scaling import factor, noise, resolve, scale_beta, scale_eps

scales = st.fractions(Fraction(1, 1024), 1024, max_denominator=1024)


@pytest.mark.parametrize(
    ("rule", "k", "expected"),
    [
        ("linear", Fraction(32), 32.0),  # Goyal et al. 2017, arXiv:1706.02677, section 2.1: 8192 / 256
        ("linear", Fraction(1, 4), 0.25),
        ("sqrt", Fraction(64), 8.0),  # You et al. 2019, arXiv:1904.00962: 32768 / 512
        ("sqrt", Fraction(1, 4), 0.5),
        ("sqrt", Fraction(17, 16), math.sqrt(1.0625)),  # MLPerf: 8704 / 8192
        ("none", Fraction(64), 1.0),
    ],
)
def test_rules(rule, k, expected):
    assert factor(rule, k) == expected


@given(scales)
def test_no_rule_changes_anything_at_the_reference_and_all_agree_on_the_direction(k):
    assert factor("linear", Fraction(1)) == factor("sqrt", Fraction(1)) == 1.0
    low, high = sorted((1.0, factor("linear", k)))
    assert low <= factor("sqrt", k) <= high
    assert factor("sqrt", k) ** 2 == pytest.approx(factor("linear", k), rel=1e-15)


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [("sgd", "linear"), ("adam", "sqrt"), ("adamw", "sqrt"), ("rmsprop", "sqrt"), ("lamb", "sqrt")],
)
def test_auto_depends_on_the_optimizer(optimizer, rule):
    assert resolve("auto", optimizer) == rule
    assert [resolve(name, optimizer) for name in ("linear", "sqrt", "none", "my:own")] == [
        "linear", "sqrt", "none", "my:own",
    ]  # fmt: skip


def test_a_users_own_rule_is_a_function_of_k(tmp_path, monkeypatch):
    (tmp_path / "own_rule.py").write_text("def cubic(k):\n    return float(k) ** (1 / 3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert factor("own_rule:cubic", Fraction(8)) == pytest.approx(2.0, rel=1e-15)


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(PlanError, match="^recipe.scaling: 'linaer' is none of linear, sqrt, none, noise, nor modu"):
        factor("linaer", Fraction(2))


# Malladi et al. 2022, arXiv:2205.10287, definitions 2 and 3, from betas 0.9, 0.999 and eps 1e-8
@pytest.mark.parametrize(
    ("k", "betas", "eps"), [(4, (0.6, 0.996), 5e-9), (8, (0.2, 0.992), 3.5355339e-9), (0.25, (0.975, 0.99975), 2e-8)]
)
def test_sde(k, betas, eps):
    assert [scale_beta(beta, Fraction(k), "sde") for beta in (0.9, 0.999)] == pytest.approx(betas, rel=1e-12)
    assert scale_eps(1e-8, Fraction(k), "sde") == pytest.approx(eps, rel=1e-8)


def test_sde_refuses_a_beta_at_or_below_zero_and_says_where_it_is_valid():
    with pytest.raises(PlanError) as caught:
        scale_beta(0.9, Fraction(16), "sde")  # 1 - 16 * 0.1
    for part in ("recipe.beta_scaling", "beta 0.9 to -0.6 at k = 16", "k < 10 only", "half-life"):
        assert part in str(caught.value)
    with pytest.raises(PlanError, match="k < 2 only"):
        scale_beta(0.5, Fraction(2), "sde")  # exactly 0


@pytest.mark.parametrize(("beta", "scaled"), [(0.9, 0.1853020), (0.999, 0.9841194)])
def test_half_life_at_16(beta, scaled):
    """0.9^16 and 0.999^16: the half-life in samples stays (Marek et al. 2025, arXiv:2507.07101)."""
    assert scale_beta(beta, Fraction(16), "half-life") == pytest.approx(scaled, abs=1e-7)
    assert scale_eps(1e-8, Fraction(16), "half-life") == 1e-8


@given(st.floats(0.5, 0.9999), st.fractions(Fraction(1, 16), 1024, max_denominator=64))
def test_half_life_in_samples_is_kept(beta, k):
    scaled = scale_beta(beta, k, "half-life")
    assert 0 <= scaled < 1
    if scaled > 1e-300:
        assert math.log(0.5) / math.log(scaled) * float(k) == pytest.approx(math.log(0.5) / math.log(beta), rel=1e-9)


@given(st.floats(0.9, 0.9999), st.integers(1, 3), st.integers(1, 3))
def test_sde_in_two_steps_is_sde_in_one(beta, first, second):
    once = scale_beta(beta, Fraction(first * second), "sde")
    assert scale_beta(scale_beta(beta, Fraction(first), "sde"), Fraction(second), "sde") == pytest.approx(
        once, rel=1e-9
    )


@pytest.mark.parametrize("rule", ["none", "sde", "half-life"])
def test_an_unused_moment_stays_zero_and_k_1_changes_nothing(rule):
    assert scale_beta(0.0, Fraction(64), rule) == 0.0
    assert scale_beta(0.999, Fraction(1), rule) == pytest.approx(0.999, rel=1e-15)
    assert scale_eps(1e-6, Fraction(1), rule) == 1e-6


@pytest.mark.parametrize("k", [Fraction(1, 8), Fraction(64)])
def test_off_means_unchanged(k):
    assert (scale_beta(0.9, k, "none"), scale_eps(1e-8, k, "none")) == (0.9, 1e-8)


def test_sde_ends_exactly_at_its_limit() -> None:
    """0.9 as a float is a little less than 9/10; at k = 10 it must not slip through as a beta of 2e-16."""
    with pytest.raises(PlanError, match="it is valid for k < 10 only"):
        scale_beta(0.9, Fraction(10), "sde")


# Every rule with every optimizer, by plans at batches of 1 to 256 of recipes at 16

OPTIMIZERS = ("sgd", "adamw", "adam", "rmsprop", "lamb", "adafactor")
KS = (Fraction(1, 16), Fraction(1, 4), Fraction(1), Fraction(2), Fraction(4), Fraction(16))
every_k = pytest.mark.parametrize("k", KS, ids=str)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def at(k: Fraction, optimizer: str, **recipe: object) -> Plan:
    fields = {"lr": 0.003, "reference_batch_size": 16, "duration": "100 steps", "weight_decay": 0.01}
    return make_plan(Recipe(optimizer, **fields | recipe), Topology(1, int(16 * k)))


def nearly(value: float) -> object:
    return pytest.approx(value, rel=1e-12)


@every_k
@every_optimizer
def test_the_peak_by_every_rule(optimizer, k):
    x, adaptive = float(k), optimizer != "sgd"
    assert at(k, optimizer, scaling="linear").peak_lr == nearly(0.003 * x)
    assert at(k, optimizer, scaling="sqrt").peak_lr == nearly(0.003 * math.sqrt(x))
    assert at(k, optimizer, scaling="none").peak_lr == 0.003
    assert at(k, optimizer, scaling="auto").peak_lr == nearly(0.003 * (math.sqrt(x) if adaptive else x))
    gain = x * (16 + 100) / (16 * x + 100)
    plan = at(k, optimizer, scaling="noise", noise_scale="100 samples")
    assert plan.peak_lr == nearly(0.003 * (math.sqrt(gain) if adaptive else gain))


# 1 - k(1 - 0.9) and 1 - k(1 - 0.999), exactly; at k = 16 the first would be -0.6
SDE = dict(zip(KS, ((0.99375, 0.9999375), (0.975, 0.99975), (0.9, 0.999), (0.8, 0.998), (0.6, 0.996)), strict=False))


@pytest.mark.parametrize("k", SDE, ids=str)
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "lamb"])
def test_the_betas_by_every_rule(optimizer, k):
    x = float(k)
    sde = at(k, optimizer, beta_scaling="sde")
    assert sde.betas == nearly(SDE[k]) and sde.eps == nearly(1e-8 / math.sqrt(x))
    half_life = at(k, optimizer, beta_scaling="half-life")
    assert half_life.betas == nearly((math.exp(x * math.log(0.9)), math.exp(x * math.log(0.999))))
    assert half_life.eps == 1e-8 and half_life.momentum_correction == 1
    mixed = at(k, optimizer, beta_scaling="none,sde")
    assert mixed.betas == nearly((0.9, SDE[k][1])) and mixed.eps == sde.eps
    assert at(k, optimizer).betas == (0.9, 0.999)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "lamb"])
def test_the_betas_at_16(optimizer):
    """0.9^16 = 0.185..., written out; only beta2 has a value by sde there."""
    plan = at(Fraction(16), optimizer, beta_scaling="half-life,sde")
    assert plan.betas == nearly((0.1853020188851841, 0.984)) and plan.eps == nearly(2.5e-9)
    with pytest.raises(PlanError, match="beta 0.9 to -0.6 at k = 16"):
        at(Fraction(16), optimizer, beta_scaling="sde")


@every_k
def test_alpha_and_momentum_by_every_rule(k):
    x = float(k)
    sde = at(k, "rmsprop", beta_scaling="sde")
    assert (sde.alpha, sde.momentum, sde.eps) == nearly((1 - x / 100, 0.9, 1e-8 / math.sqrt(x)))
    for optimizer in ("rmsprop", "sgd"):
        plan = at(k, optimizer, beta_scaling="half-life", scaling="sqrt")
        correction = (1 - math.exp(x * math.log(0.9))) / 0.1
        assert (plan.momentum, plan.momentum_correction) == nearly((math.exp(x * math.log(0.9)), correction))
        assert plan.alpha == nearly(math.exp(x * math.log(0.99)) if optimizer == "rmsprop" else 0.99)
        assert plan.peak_lr == nearly(0.003 * math.sqrt(x) * correction)


@every_k
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_weight_decay_by_timescale(optimizer, k):
    """lr * decay / B is that of the reference, whatever the rule of the rate and its cap."""
    x, rule = float(k), {"weight_decay_scaling": "timescale"}
    assert at(k, optimizer, scaling="linear", **rule).weight_decay == nearly(0.01)
    assert at(k, optimizer, scaling="sqrt", **rule).weight_decay == nearly(0.01 * math.sqrt(x))
    assert at(k, optimizer, scaling="none", **rule).weight_decay == nearly(0.01 * x)
    capped = at(k, optimizer, scaling="linear", max_lr=0.004, **rule)
    assert capped.weight_decay == nearly(0.01 * max(1, x * 0.003 / 0.004))
    for plan in (capped, at(k, optimizer, scaling="noise", noise_scale="9 samples", **rule)):
        assert plan.peak_lr * plan.weight_decay / plan.global_batch_size == nearly(0.003 * 0.01 / 16)
    assert at(k, optimizer).weight_decay == 0.01


@every_k
def test_the_weight_decay_of_a_corrected_momentum(k):
    """SGD's decay goes through the momentum: rate / (1 - momentum) * decay / B is that of the reference."""
    plan = at(k, "sgd", beta_scaling="half-life", weight_decay_scaling="timescale", max_lr=0.01)
    rate = plan.peak_lr / (1 - plan.momentum)
    assert rate * plan.weight_decay / plan.global_batch_size == nearly(0.003 / (1 - 0.9) * 0.01 / 16)


@every_k
@pytest.mark.parametrize(("optimizer", "limit"), [("sgd", "linear"), ("adamw", "sqrt"), ("rmsprop", "sqrt")])
def test_the_limits_of_noise(optimizer, limit, k):
    """N far below the batch: none. N far above it: linear for SGD, sqrt for adaptive optimizers."""
    low = at(k, optimizer, scaling="noise", noise_scale="1e-15 samples")
    assert low.peak_lr == nearly(0.003)
    assert at(k, optimizer, scaling="noise", noise_scale="0 samples").peak_lr == 0.003
    high = at(k, optimizer, scaling="noise", noise_scale="1e18 samples")
    assert high.peak_lr == nearly(at(k, optimizer, scaling=limit).peak_lr)


def test_noise_is_the_gain_of_adascale():
    """Johnson et al. 2020, arXiv:2007.05105: (s + m) / (s / S + m) at s / m = 7 and S = 8 is 64 / 15."""
    assert noise(Fraction(8), Fraction(7)) == nearly(64 / 15)


@given(scales, st.floats(0, 1e6))
def test_noise_lies_between_none_and_linear(k, ratio):
    low, high = sorted((1.0, float(k)))
    assert low * (1 - 1e-12) <= noise(k, ratio) <= high * (1 + 1e-12)
    assert noise(k, ratio, adaptive=True) == nearly(math.sqrt(noise(k, ratio)))
