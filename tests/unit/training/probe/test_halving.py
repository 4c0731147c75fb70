"""Successive halving without training: rungs, budget, who stays, and what is recommended."""

from __future__ import annotations

import math

import pytest

from warmup.training.probe.halving import (
    Candidate,
    Result,
    least_budget,
    lowest_diverged,
    recommend,
    rung_sizes,
    rung_steps,
    search,
    survivors,
)

OWN = Candidate(1.0, "10%")


def result(
    lr: float, loss: float, rung: int = 0, seed: int = 0, steps: int = 100, tried: int = 100, warmup: str = "10%"
) -> Result:
    diverged = "step 7" if loss == math.inf else None
    return Result(Candidate(lr, warmup), rung, seed, steps, tried, loss, diverged)


@pytest.mark.parametrize(
    ("candidates", "sizes"), [(18, [18, 6, 2]), (27, [27, 9, 3]), (21, [21, 7, 3]), (4, [4, 2]), (3, [3]), (1, [1])]
)
def test_a_third_goes_on_down_to_two_or_three(candidates: int, sizes: list[int]) -> None:
    assert rung_sizes(candidates) == sizes


def test_two_thirds_of_the_budget_are_for_the_last_rung() -> None:
    # 3600 steps in three rungs: 600, 600 and 2400.
    assert rung_steps(3600, 0, 3, trials=18) == 600 // 18
    assert rung_steps(3000, 1, 3, trials=6) == 600 // 6
    assert rung_steps(2400, 2, 3, trials=9) == 2400 // 9
    assert rung_steps(90, 0, 1, trials=4) == 22  # all of it in the only rung


@pytest.mark.parametrize(("candidates", "repeats", "least"), [(18, 3, 18 * 20 * 6), (2, 2, 80), (1, 1, 20)])
def test_the_least_budget_gives_each_trial_twenty_steps(candidates: int, repeats: int, least: int) -> None:
    assert least_budget(candidates, repeats) == least
    assert rung_steps(least, 0, len(rung_sizes(candidates)), candidates * (repeats if candidates < 4 else 1)) == 20


def made_search(budget: int, longest: int = 10**6, diverging: float = 64.0) -> list[Result]:
    """18 candidates; the loss is lowest at a rate of 4 and a warmup of 20%, and rates from `diverging` on diverge."""

    def try_one(candidate: Candidate, rung: int, seed: int, steps: int) -> Result:
        diverges = candidate.lr >= diverging
        loss = abs(math.log2(candidate.lr / 4)) + 20 * abs(float(candidate.warmup[:-1]) / 100 - 0.2) + seed / 100
        return result(
            candidate.lr, math.inf if diverges else loss, rung, seed, steps, 5 if diverges else steps, candidate.warmup
        )

    candidates = [Candidate(lr, warmup) for warmup in ("5%", "10%", "20%") for lr in (1.0, 2.0, 4.0, 8.0, 64.0, 128.0)]
    return list(search(candidates, OWN, (0, 1, 2), budget, longest, try_one))


def test_the_best_go_on_with_the_recipes_own_and_the_budget_holds() -> None:
    results = made_search(3600)
    pairs = [[one.candidate for one in results if one.rung == rung and one.seed == 0] for rung in range(3)]
    assert [len(pairs[0]), len(pairs[1]), len(pairs[2])] == [18, 7, 3]
    assert pairs[2] == [Candidate(4.0, "20%"), Candidate(2.0, "20%"), OWN]
    assert {one.seed for one in results if one.rung == 2} == {0, 1, 2}
    assert {one.seed for one in results if one.rung < 2} == {0}
    # Rung 1: 600 / 18 steps. Its 6 diverged trials leave 28 steps each to the others: (3600 - 12 * 33 - 6 * 5) / 5 / 7.
    assert results[0].steps == 33
    assert next(one.steps for one in results if one.rung == 1) == 3174 // 5 // 7
    assert sum(one.tried for one in results) <= 3600


def test_no_trial_is_longer_than_the_run() -> None:
    assert max(one.steps for one in made_search(10**6, longest=50)) == 50


def test_a_search_in_which_all_diverge_ends_with_its_first_rung() -> None:
    results = made_search(3600, diverging=0.5)
    assert {one.rung for one in results} == {0} and len(results) == 18
    found = recommend(results, OWN)
    assert found.chosen is None and found.noise is None


def test_those_that_diverged_do_not_stay_nor_does_the_recipes_own() -> None:
    results = [result(1.0, math.inf), result(2.0, 5.0), result(4.0, 3.0), result(8.0, 4.0)]
    assert survivors(results, 2, OWN) == [Candidate(4.0, "10%"), Candidate(8.0, "10%")]
    results[0] = result(1.0, 9.0)
    assert survivors(results, 2, OWN) == [Candidate(4.0, "10%"), Candidate(8.0, "10%"), OWN]


def of_seeds(lr: float, *losses: float) -> list[Result]:
    return [result(lr, loss, seed=seed) for seed, loss in enumerate(losses)]


def test_the_noise_is_that_of_a_difference_of_means() -> None:
    # Variances 0.01 and 0.03, pooled 0.02, two means of 2: 2 sqrt(0.02 * 2 / 2).
    found = recommend([*of_seeds(2.0, 3.0, 3.0 + 0.02**0.5), *of_seeds(4.0, 5.0, 5.0 + 0.06**0.5)], OWN)
    assert found.noise == pytest.approx(2 * 0.02**0.5, abs=1e-12)
    assert [finalist.candidate.lr for finalist in found.finalists] == [2.0, 4.0]
    assert found.finalists[0].deviation == pytest.approx(0.1, abs=1e-12)


def test_what_the_noise_does_not_tell_from_the_best_is_left_as_it_is() -> None:
    best, other, own = of_seeds(4.0, 3.0, 3.2), of_seeds(2.0, 3.1, 3.3), of_seeds(1.0, 3.15, 3.35)
    assert recommend([*best, *other, *own], OWN).chosen.candidate == OWN  # means 3.1, 3.2, 3.25; noise 0.28
    assert recommend([*best, *other], OWN).chosen.candidate.lr == 4.0  # neither is the recipe's own
    assert recommend([*best, *of_seeds(1.0, 3.5, 3.7)], OWN).chosen.candidate.lr == 4.0  # 3.6 is beyond


def test_without_repeats_the_lowest_loss_counts_and_no_noise_is_known() -> None:
    found = recommend([result(4.0, 3.0), result(1.0, 3.001)], OWN)
    assert found.noise is None and found.chosen.candidate.lr == 4.0 and found.chosen.deviation is None


def test_a_finalist_that_diverged_with_one_seed_is_not_recommended() -> None:
    found = recommend([*of_seeds(4.0, 2.0, math.inf), *of_seeds(1.0, 3.0, 3.1)], OWN)
    assert found.chosen.candidate == OWN and found.finalists[-1].loss == math.inf


def test_the_lowest_rate_that_diverged_is_of_that_warmup() -> None:
    results = [result(8.0, math.inf), result(16.0, math.inf), result(2.0, math.inf, warmup="0%"), result(1.0, 3.0)]
    assert (lowest_diverged(results, "10%"), lowest_diverged(results, "0%")) == (8.0, 2.0)
    assert lowest_diverged(results, "20%") is None
