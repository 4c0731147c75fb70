"""Answers to questions: how they are scored, which tokens they are, and when none is given."""

from __future__ import annotations

import random

import numpy as np
import pytest
import squad_rules
import torch

from warmup.training.data.batching.micro_batch import Targets
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.tasks.metrics.answers import answer_metrics, normalize, null_threshold, score_answer
from warmup.training.tasks.metrics.spans import best_spans, ranked_spans
from warmup.training.tasks.question_answering import _with_probabilities


@pytest.mark.parametrize(
    ("answer", "gold", "exact", "f1"),
    [
        ("The  Eiffel Tower!", ["eiffel tower"], 1.0, 1.0),
        ("Tower", ["Eiffel Tower", "a tower of steel"], 0.0, 2 / 3),
        ("New York", ["York New"], 0.0, 1.0),
        ("theatre", ["atre"], 0.0, 0.0),  # "the" is no word here
        ("東京タワー", ["東京タワー"], 1.0, 1.0),
        ("to be or not to be", ["to be"], 0.0, 0.5),  # a word counts as often as it is in both
        ("", [], 1.0, 1.0),
        ("something", [], 0.0, 0.0),
        ("", ["something"], 0.0, 0.0),
        ("", ["The"], 1.0, 1.0),  # of which nothing is left
    ],
)
def test_scores_worked_out_by_hand(answer: str, gold: list[str], exact: float, f1: float) -> None:
    assert score_answer(answer, gold) == pytest.approx((exact, f1))


def test_scores_are_those_of_the_rules() -> None:
    random_ = random.Random(1)
    words = ["a", "The", "tower", "Tower,", "an", "of", "steel.", "U.S.A.", "theory", "-", "naïve", "\t"]
    for _ in range(500):
        answer, *gold = (" ".join(random_.choices(words, k=random_.randint(1, 5))) for _ in range(3))
        gold = [text for text in gold if squad_rules.words(text)]
        assert score_answer(answer, gold) == pytest.approx(
            (squad_rules.exact_match(answer, gold), squad_rules.f1(answer, gold))
        )
        assert normalize(answer) == " ".join(squad_rules.words(answer))


def test_the_threshold_has_the_best_f1_of_all() -> None:
    generator = np.random.default_rng(2)
    for _ in range(50):
        count = int(generator.integers(1, 12))
        doubts = generator.integers(-3, 4, count).astype(float)  # several are equal
        has_answer = generator.random(count) < 0.5
        f1 = np.where(has_answer, generator.random(count).round(1), 0.0)
        scores = torch.tensor(np.stack([doubts, f1 == 1, f1, ~has_answer, np.ones(count)], 1))
        threshold = null_threshold(scores)
        if has_answer.all():
            assert threshold is None
            continue
        means = {t: np.where(doubts > t, ~has_answer, f1).mean() for t in (-9.0, *doubts)}
        assert means.get(threshold, means[-9.0]) == pytest.approx(max(means.values()))
        assert answer_metrics(1.0, scores)["f1"] == pytest.approx(max(means.values()))


def test_metrics_count_questions_and_targets() -> None:
    """Two windows and one: 6 targets. Without questions that have no answer there always is one."""
    scores = torch.tensor([[50.0, 1.0, 1.0, 0.0, 2.0], [-1.0, 0.0, 0.5, 0.0, 1.0]]).double()
    expected = {"loss": 2.0, "exact_match": 0.5, "f1": 0.75, "targets": 6.0}
    assert answer_metrics(12.0, scores) == expected
    scores[0] = torch.tensor([50.0, 0.0, 0.0, 1.0, 2.0])
    assert answer_metrics(12.0, scores) == expected | {
        "f1": 0.75, "exact_match": 0.5, "f1_has_answer": 0.5, "f1_no_answer": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("max_tokens", [1, 4, 50])
def test_the_best_tokens_are_those_of_all_pairs(max_tokens: int) -> None:
    """Samples in any order, with positions of none between them, and one without a context."""
    generator = torch.Generator().manual_seed(3)
    counts = [7, 1, 12, 3]
    owners = torch.cat([torch.full((count,), sample) for sample, count in zip((2, 0, 3, 1), counts, strict=True)])
    values = torch.zeros(len(owners) + 4, 2, dtype=torch.int64)
    values[[0, 5, 9, 20]] = IGNORE_INDEX
    counted = values[:, 0] != IGNORE_INDEX
    sample_ids = torch.zeros(len(values), dtype=torch.int64).masked_scatter(counted, owners[: int(counted.sum())])
    logits = torch.randn(len(values), 2, generator=generator)
    found = best_spans(logits, Targets(values, sample_ids, 4), max_tokens)
    for sample in range(4):
        own = logits[counted & (sample_ids == sample)].numpy()
        context = own[1:]
        pairs = [
            (float(context[first, 0] + context[last, 1]), first, last)
            for first in range(len(context))
            for last in range(first, min(first + max_tokens, len(context)))
        ]
        assert found[sample, 3].item() == pytest.approx(float(own[0].sum()))
        assert found[sample, 0].item() == pytest.approx(max(pairs, default=(-np.inf,))[0])
        ranked = ranked_spans(context, max_tokens, 5)
        assert [span.score for span in ranked] == pytest.approx(sorted((pair[0] for pair in pairs), reverse=True)[:5])
        if pairs:
            assert (found[sample, 0].item(), *map(int, found[sample, 1:3])) == max(pairs) == tuple(ranked[0])


def test_no_answer_is_given_above_the_threshold() -> None:
    answers = [{"answer": text, "start": 0, "end": 1, "score": score} for text, score in (("x", 2.0), ("y", 1.0))]

    def given(null: float, threshold: float | None) -> list[str]:
        return [answer["answer"] for answer in _with_probabilities(answers, null, threshold)]

    assert given(9.0, None) == ["x", "y"]
    assert given(2.5, 1.0) == ["x", "", "y"]
    assert given(3.5, 1.0) == ["", "x", "y"]
    assert given(0.5, -2.0) == ["", "x", "y"]
    scores = [answer["score"] for answer in _with_probabilities(answers, 2.0, 0.0)]
    assert scores == pytest.approx([0.422319, 0.422319, 0.155362], abs=1e-6)  # e : e : 1
