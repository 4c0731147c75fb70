"""Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): many pairs in short trials, few in long ones.

Standard library only, and no training: what tries a candidate is passed in.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

KEPT = 3
"""One in so many candidates goes on to the next rung."""
FINALISTS = 2
"""Candidates of the last rung at least, besides the recipe's own."""
LEAST_STEPS = 20
"""Steps of the shortest trial that can say something."""


@dataclass(frozen=True)
class Candidate:
    """A pair to try."""

    lr: float
    """As `recipe.lr`: at the reference batch."""
    warmup: str
    """As `recipe.warmup`."""


@dataclass(frozen=True)
class Result:
    """What one trial of a candidate showed."""

    candidate: Candidate
    rung: int
    """Counted from 0."""
    seed: int
    steps: int
    """Of the whole trial."""
    tried: int
    """Steps that it took: less where it diverged on the way."""
    loss: float
    """The held-out loss at its end; infinite if it diverged."""
    diverged: str | None
    """In words, when and how; None if it did not."""


Try = Callable[[Candidate, int, int, int], Result]
"""Tries a candidate: called with it, the rung, the seed and the steps."""


def rung_sizes(candidates: int) -> list[int]:
    """The number of candidates in each rung: a third of those of the rung before, down to two or three."""
    sizes = [candidates]
    while sizes[-1] > KEPT:
        sizes.append(max(math.ceil(sizes[-1] / KEPT), FINALISTS))
    return sizes


def rung_steps(budget: int, rung: int, rungs: int, trials: int) -> int:
    """The steps of each trial of a rung.

    Two thirds of the whole budget are for the last rung, whose trials are repeated and decide; the others share the
    rest equally. What trials that diverged have left over goes to the rungs after them.

    Args:
        budget: steps that are left.
        rung: counted from 0.
        rungs: of the whole search.
        trials: in this rung.
    """
    weights = _weights(rungs)
    return budget * weights[rung] // (sum(weights[rung:]) * trials)


def _weights(rungs: int) -> list[int]:
    """How the budget is shared among the rungs."""
    return [1] * (rungs - 1) + [max(2 * (rungs - 1), 1)]


def least_budget(candidates: int, repeats: int) -> int:
    """The budget with which no trial is shorter than LEAST_STEPS.

    Args:
        candidates: of the first rung.
        repeats: trials of each candidate of the last rung.
    """
    sizes = rung_sizes(candidates)
    weights = _weights(len(sizes))
    trials = [size + (rung > 0) for rung, size in enumerate(sizes)]  # the recipe's own pair may come on top
    trials[-1] *= repeats
    return max(-(-LEAST_STEPS * count * sum(weights) // weight) for count, weight in zip(trials, weights, strict=True))


def search(
    candidates: Sequence[Candidate], own: Candidate, seeds: Sequence[int], budget: int, longest: int, try_one: Try
) -> Iterator[Result]:
    """Try candidates in rungs of ever longer trials, each on those that did best in the rung before.

    Args:
        candidates: all of them.
        own: the recipe's own, one of the candidates: it stays until it diverges, to be compared with the others.
        seeds: each candidate of the last rung is tried with all of them, those of earlier rungs with the first.
        budget: the most steps of all trials together.
        longest: the most steps of a trial.
        try_one: makes a trial.

    Yields:
        Each trial's result as it is made.
    """
    sizes, left = rung_sizes(len(candidates)), budget
    going_on = list(candidates)
    for rung in range(len(sizes)):
        of_rung = seeds if rung == len(sizes) - 1 else seeds[:1]
        if not going_on:
            return
        steps = min(rung_steps(left, rung, len(sizes), len(going_on) * len(of_rung)), longest)
        results = []
        for candidate in going_on:
            for seed in of_rung:
                results.append(try_one(candidate, rung, seed, steps))
                left -= results[-1].tried
                yield results[-1]
        going_on = survivors(results, sizes[rung + 1], own) if rung + 1 < len(sizes) else []


def survivors(results: Sequence[Result], count: int, own: Candidate) -> list[Candidate]:
    """The `count` candidates with the lowest losses, and `own`, without those that diverged."""
    trained = sorted((result for result in results if not result.diverged), key=lambda result: result.loss)
    return [result.candidate for place, result in enumerate(trained) if place < count or result.candidate == own]


@dataclass(frozen=True)
class Finalist:
    """A candidate of the last rung."""

    candidate: Candidate
    loss: float
    """The mean over the seeds; infinite if one of them diverged."""
    deviation: float | None
    """The standard deviation over the seeds; None with fewer than two."""


@dataclass(frozen=True)
class Recommendation:
    """What the last rung says."""

    finalists: list[Finalist]
    """The lowest loss first."""
    noise: float | None
    """By how much the means of two finalists may differ by chance, about 95 %; None without repeats."""
    chosen: Finalist | None
    """None if every candidate diverged."""


def recommend(results: Sequence[Result], own: Candidate) -> Recommendation:
    """The pair to use: the one with the lowest mean loss, or `own` where the noise does not tell the two apart.

    Args:
        results: of all rungs.
        own: the recipe's own pair.
    """
    last = max(result.rung for result in results)
    losses: dict[Candidate, list[float]] = {}
    for result in results:
        if result.rung == last:
            losses.setdefault(result.candidate, []).append(result.loss)
    finalists = sorted((_finalist(*found) for found in losses.items()), key=lambda finalist: finalist.loss)
    trained = [finalist for finalist in finalists if math.isfinite(finalist.loss)]
    if not trained:
        return Recommendation(finalists, None, None)
    noise = _noise([losses[finalist.candidate] for finalist in trained])
    alike = [one for one in trained if one.candidate == own and one.loss <= trained[0].loss + (noise or 0)]
    chosen = alike[0] if alike else trained[0]
    return Recommendation(finalists, noise, chosen)


def _finalist(candidate: Candidate, losses: Sequence[float]) -> Finalist:
    finite = len(losses) > 1 and all(map(math.isfinite, losses))
    mean = statistics.mean(losses) if all(map(math.isfinite, losses)) else math.inf
    return Finalist(candidate, mean, statistics.stdev(losses) if finite else None)


def _noise(losses: Sequence[Sequence[float]]) -> float | None:
    """2 s sqrt(2 / n): twice the standard error of the difference of two means of n losses, with s pooled."""
    n = len(losses[0])
    return 2 * math.sqrt(statistics.mean(map(statistics.variance, losses)) * 2 / n) if n > 1 else None


def lowest_diverged(results: Sequence[Result], warmup: str) -> float | None:
    """The lowest rate that diverged in any trial with this warmup; None if none did."""
    return min((one.candidate.lr for one in results if one.diverged and one.candidate.warmup == warmup), default=None)
