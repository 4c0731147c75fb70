"""The gradient noise scale, from the squared norms of a step's gradient and of those of its micro-batches.

McCandlish et al. 2018 (arXiv:1812.06162), equation 2.9 and appendix A.1: N = tr(Sigma) / |G|^2, in samples, with the
mean gradient G and the covariance Sigma of the gradients of single samples. Both are estimated without bias, and each
is averaged over steps before they are divided. Here the small batches are all micro-batches of a step, on whichever
rank, and they may have unequal numbers of targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

EVERY = 8
"""Steps from one measurement of the micro-batches to the next. Their norms are what it costs."""
MIN_MEASUREMENTS = 10
"""Fewer say too little about how much they scatter."""
_Z = 1.96  # of a 95 % interval
_DECAY = 3  # of the weights of the averages


class PartSums(NamedTuple):
    """Sums over the parts of a step's gradient, which are those of its micro-batches and add up to it."""

    square_norms: float
    """Of the parts' squared norms."""
    square_targets: float
    """Of the squares of their numbers of targets."""


class Estimate(NamedTuple):
    """A noise scale in samples, with a 95 % interval. None stands for what may be infinite."""

    noise_scale: float | None
    noise_scale_low: float | None
    noise_scale_high: float | None


def gradient_variance(square_norm: float, samples: int, targets: int, parts: PartSums) -> float | None:
    """An unbiased estimate of tr(Sigma) from one step.

    A part with t of the step's T targets is (t / T) G and noise. The noise of one is independent of another's, so the
    products of different parts estimate |G|^2: they add up to |step|^2 - sum |part|^2, and their factors to
    1 - sum (t / T)^2. What |step|^2 has more is tr(Sigma) / samples. How the noise depends on t does not matter. With
    equal parts these are the estimates of the paper's appendix A.1.

    Args:
        square_norm: |step|^2.
        samples: in the step.
        targets: in the step.
        parts: the sums over its parts.

    Returns:
        tr(Sigma) of the gradients of single samples, or None if only one part has targets.
    """
    factors = 1 - parts.square_targets / targets**2
    if factors < 1e-9:
        return None
    signal = (square_norm - parts.square_norms) / factors
    return samples * (square_norm - signal)


@dataclass
class NoiseScale:
    """Averages of tr(Sigma) and |G|^2 over the steps of a run, in which later steps weigh more.

    The weights are those of polynomial-decay averaging (Shamir and Zhang 2013, arXiv:1212.1824, section 4): the later
    half of the steps has more than nine tenths, so that the averages follow a noise scale that changes.
    """

    measurements: int = 0
    variance: float = 0.0
    """Average of tr(Sigma)."""
    signal: float = 0.0
    """Average of |G|^2."""
    weight_squares: float = 0.0
    """Sum of the squares of the averages' weights, whose sum is 1."""
    last_variance: float = 0.0
    last_signal: float = 0.0
    scatter_variance: float = 0.0
    """How much single measurements of tr(Sigma) scatter: the average of half the squared difference of successive
    ones, in which a slow change does not count."""
    scatter_signal: float = 0.0
    """The same of |G|^2."""
    scatter_product: float = 0.0
    """The same of both together, with the product of their differences."""
    steps: int = 0
    """Since the last measurement."""
    square_norms: float = 0.0
    """Sum of the squared norms of these steps' gradients, which cost nothing."""
    inverse_samples: float = 0.0
    """Sum of 1 / samples of these steps."""

    def is_due(self, step: int) -> bool:
        """Whether to measure the micro-batches of the step after this many."""
        return (step + 1) % EVERY == 0

    def add_step(self, grad_norm: float, samples: int, targets: int, parts: PartSums | None) -> None:
        """Add an applied step.

        Args:
            grad_norm: the norm of its gradient, before clipping.
            samples: in the whole step.
            targets: in the whole step.
            parts: what its micro-batches add up to, if they were measured.
        """
        self.steps += 1
        self.square_norms += grad_norm**2
        self.inverse_samples += 1 / samples
        variance = gradient_variance(grad_norm**2, samples, targets, parts) if parts and targets else None
        if variance is None or not math.isfinite(variance):
            return
        # E |step|^2 = |G|^2 + tr(Sigma) / samples: the paper's equation A.1.
        signal = (self.square_norms - variance * self.inverse_samples) / self.steps
        self.steps, self.square_norms, self.inverse_samples = 0, 0.0, 0.0
        self._add(variance, signal)

    def _add(self, variance: float, signal: float) -> None:
        self.measurements += 1
        weight = _weight(self.measurements)
        self.variance += weight * (variance - self.variance)
        self.signal += weight * (signal - self.signal)
        self.weight_squares = (1 - weight) ** 2 * self.weight_squares + weight**2
        if self.measurements > 1:
            by_variance, by_signal = variance - self.last_variance, signal - self.last_signal
            weight = _weight(self.measurements - 1)
            self.scatter_variance += weight * (by_variance**2 / 2 - self.scatter_variance)
            self.scatter_signal += weight * (by_signal**2 / 2 - self.scatter_signal)
            self.scatter_product += weight * (by_variance * by_signal / 2 - self.scatter_product)
        self.last_variance, self.last_signal = variance, signal

    def estimate(self) -> Estimate:
        """The noise scale and its interval, from the averages.

        The error of 1 / N = |G|^2 / tr(Sigma) is nearly normal, as its divisor is well known. |G|^2 may be zero to
        within its error; then N has no upper limit.
        """
        if self.measurements < MIN_MEASUREMENTS or self.variance <= 0:
            return Estimate(None, None, None)
        inverse = self.signal / self.variance
        scatter = self.scatter_signal - 2 * inverse * self.scatter_product + inverse**2 * self.scatter_variance
        error = _Z * math.sqrt(max(scatter, 0) * self.weight_squares) / self.variance
        return Estimate(*(1 / value if value > 0 else None for value in (inverse, inverse + error, inverse - error)))

    def state_dict(self) -> dict[str, int | float]:
        """All averages, as JSON."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> NoiseScale:
        """What `state_dict` returned. Raises ValueError, which names the field, where it did not."""
        for name, initial in cls().state_dict().items():
            value: Any = state.get(name)
            if type(value) not in (int, type(initial)) or not math.isfinite(value):
                raise ValueError(f"{name} is {value!r:.60} and should be a finite number")
        return cls(**{name: state[name] for name in cls().state_dict()})


def describe(estimate: Estimate, batch_size: int, ranks: int) -> str:
    """What an estimate means for the batch, for more ranks and for the scaling rules, in one sentence or two.

    A run with batches of B needs 1 + B / N times the samples of one with very small batches, and 1 + N / B times the
    steps of one with very large ones (McCandlish et al. 2018, equation 2.11 and section 2.3).

    Args:
        estimate: what was measured.
        batch_size: B, the global batch size.
        ranks: number of ranks that it lies on.
    """
    scale = estimate.noise_scale
    if scale is None:
        if estimate.noise_scale_low is None:
            return "noise scale: not known: too few steps were measured, or the noise hides the gradient"
        return (
            f"noise scale: above {estimate.noise_scale_low:,.0f} samples, more cannot be told: more ranks pay, and the "
            "linear and sqrt rules hold up to there"
        )
    interval = f"{estimate.noise_scale_low or 0:,.0f} to {estimate.noise_scale_high or math.inf:,.0f}"
    if batch_size < scale:
        rules = "the linear and sqrt rules hold up to about there"
    else:
        rules = f'for larger batches use recipe.scaling: noise with recipe.noise_scale: "{scale:.0f} samples"'
    return (
        f"noise scale: {scale:,.0f} samples ({interval}). Batches of {batch_size} need {1 + batch_size / scale:.2f} "
        f"times the samples of very small ones; ranks with as many samples each pay up to about "
        f"{max(1, round(scale * ranks / batch_size))}; {rules}"
    )


def _weight(number: int) -> float:
    """That of the newest of so many values in an average."""
    return (_DECAY + 1) / (number + _DECAY)
