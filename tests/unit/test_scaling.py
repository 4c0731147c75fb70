"""Scaling rules: the learning rate, the moments and epsilon at k times the batch."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmup.errors import PlanError
from warmup.scaling import factor, resolve, scale_beta, scale_eps

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
