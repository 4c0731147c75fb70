"""The gradient noise scale: arithmetic on gradients of known mean and covariance."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from warmup.noise_scale import MIN_MEASUREMENTS, Estimate, NoiseScale, PartSums, describe, gradient_variance

WIDTH = 50


def measured(parts: list[int], noise_scale: float, steps: int = 400, seed: int = 0) -> NoiseScale:
    """Steps of gradients whose noise scale is known, each a mean over samples that lie in parts of these sizes."""
    random = np.random.default_rng(seed)
    signal_D = np.full(WIDTH, 1 / math.sqrt(WIDTH))  # |G|^2 = 1
    spread_D = random.uniform(0.5, 1.5, WIDTH)
    spread_D *= math.sqrt(noise_scale / (spread_D**2).sum())  # tr(Sigma) = N
    average, samples = NoiseScale(), sum(parts)
    for _ in range(steps):
        means = [signal_D + random.normal(size=WIDTH) * spread_D / math.sqrt(count) for count in parts]
        in_step = [count / samples * mean for count, mean in zip(parts, means, strict=True)]
        norms = sum(float(part @ part) for part in in_step)
        squares = sum(count**2 for count in parts)
        whole = sum(in_step)
        average.add_step(float(np.linalg.norm(whole)), samples, samples, PartSums(norms, squares))
    return average


@pytest.mark.parametrize("parts", [[8] * 4, [16, 16], [3, 9, 8, 12], [1] * 32], ids=str)
@pytest.mark.parametrize("noise_scale", [4.0, 40.0])
def test_the_true_noise_scale_is_found(parts: list[int], noise_scale: float) -> None:
    """Whether the parts lie on ranks, are accumulated or both makes no difference to what is summed over them."""
    found, low, high = measured(parts, noise_scale, steps=2000).estimate()
    assert found == pytest.approx(noise_scale, rel=0.1)
    assert low is not None and high is not None and low < found < high
    assert high / low < 1.5


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(60):
        _, low, high = measured([4, 4, 4, 4], 20.0, steps=100, seed=seed).estimate()
        held += (low or 0) <= 20 <= (high or math.inf)
    assert held >= 52  # 57 of 60 are 95 %


def test_two_equal_parts_by_the_papers_equations() -> None:
    """McCandlish et al. 2018, appendix A.1: |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b) and
    S = (|G_b|^2 - |G_B|^2) / (1 / b - 1 / B), with |G_b|^2 averaged over the small batches.
    """
    first, second = np.array([3.0, 1.0]), np.array([1.0, -2.0])  # gradients of 8 samples each
    whole = (first + second) / 2
    small, large = (first @ first + second @ second) / 2, whole @ whole
    expected = (small - large) / (1 / 8 - 1 / 16)
    parts = PartSums((first @ first + second @ second) / 4, 8**2 + 8**2)
    assert gradient_variance(large, 16, 16, parts) == pytest.approx(expected, rel=1e-12)
    assert gradient_variance(large, 16, 16, PartSums(large, 16**2)) is None  # one part alone tells nothing


def test_too_few_steps_say_nothing_and_a_state_goes_on() -> None:
    few = measured([8, 8], 10.0, steps=MIN_MEASUREMENTS - 1)
    assert few.estimate() == Estimate(None, None, None)
    assert describe(few.estimate(), 16, 2) == (
        "noise scale: not known: too few steps were measured, or the noise hides the gradient"
    )
    again = NoiseScale.from_state_dict(json.loads(json.dumps(few.state_dict())))
    for average in (few, again):
        average.add_step(1.5, 16, 16, PartSums(1.4, 128))
    assert few.estimate() == again.estimate() != Estimate(None, None, None)
    with pytest.raises(ValueError, match=r"^variance is None and should be a finite number$"):
        NoiseScale.from_state_dict({**few.state_dict(), "variance": None})


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (
            Estimate(2000.0, 1500.0, None),
            "noise scale: 2,000 samples (1,500 to inf). Batches of 500 need 1.25 times the samples of very small ones; "
            "ranks with as many samples each pay up to about 16; the linear and sqrt rules hold up to about there",
        ),
        (
            Estimate(100.0, 80.0, 130.0),
            "noise scale: 100 samples (80 to 130). Batches of 500 need 6.00 times the samples of very small ones; "
            "ranks with as many samples each pay up to about 1; for larger batches use recipe.scaling: noise with "
            'recipe.noise_scale: "100 samples"',
        ),
        (
            Estimate(None, 700.0, None),
            "noise scale: above 700 samples, more cannot be told: more ranks pay, and the linear and sqrt rules hold "
            "up to there",
        ),
    ],
)
def test_what_it_means_is_said(estimate: Estimate, expected: str) -> None:
    assert describe(estimate, 500, 4) == expected
