"""Answers to questions in the words of a text, scored as SQuAD's are.

Sources: exact match and F1, Rajpurkar et al. 2016, "SQuAD", arXiv:1606.05250, section 6.1; questions without an answer
and the threshold for them, Rajpurkar et al. 2018, "Know What You Don't Know", arXiv:1806.03822.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize(answer: str) -> str:
    """An answer without case, ASCII punctuation, English articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def score_answer(answer: str, gold: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) of an answer, each from 0 to 1 and by the right answer that it is closest to.

    Args:
        answer: the answer; "" for none.
        gold: the right answers; none, or none of which anything is left, if it is right to give none.
    """
    found = normalize(answer)
    right = [text for text in map(normalize, gold) if text] or [""]
    return float(found in right), max(_f1(found.split(), text.split()) for text in right)


def _f1(found: list[str], right: list[str]) -> float:
    if not found or not right:
        return float(found == right)
    common = sum((Counter(found) & Counter(right)).values())
    return 2 * common / (len(found) + len(right))


def answer_metrics(loss_sum: float, scores_Q5: torch.Tensor) -> dict[str, float]:
    """Of the best answer to each question, or of none where `null_threshold` says so.

    Args:
        loss_sum: of the start and the end in each window, which are two targets.
        scores_Q5: by how much the score of no answer is above that of the best one; exact match and F1 of the best one;
            that of no answer; the number of windows.
    """
    doubts_Q, exact_Q, f1_Q, unanswered_Q, windows_Q = scores_Q5.unbind(1)
    threshold = null_threshold(scores_Q5)
    gives_none_Q = doubts_Q > (math.inf if threshold is None else threshold)
    exact_Q, f1_Q = unanswered_Q.where(gives_none_Q, exact_Q), unanswered_Q.where(gives_none_Q, f1_Q)
    targets = 2 * float(windows_Q.sum())
    metrics = {"loss": loss_sum / targets, "exact_match": float(exact_Q.mean()), "f1": float(f1_Q.mean())}
    if threshold is not None:
        has_answer_Q = unanswered_Q == 0
        for name, of_kind_Q in (("has_answer", has_answer_Q), ("no_answer", ~has_answer_Q)):
            metrics[f"f1_{name}"] = float(f1_Q[of_kind_Q].mean()) if of_kind_Q.any() else 0.0
    return metrics | {"targets": targets}


def null_threshold(scores_Q5: torch.Tensor) -> float | None:
    """By how much the score of no answer must be above that of the best one for none to be given: the value with the
    best F1.

    Args:
        scores_Q5: as `answer_metrics`.

    Returns:
        One of the differences that occur, or a number below all of them, the lowest of those that are as good; None if
        each question has an answer.
    """
    doubts_Q, _, f1_Q, unanswered_Q, _ = scores_Q5.numpy().T
    if not unanswered_Q.any():
        return None
    order = np.argsort(doubts_Q, kind="stable")
    doubts_Q, gains_Q = doubts_Q[order], (f1_Q - unanswered_Q)[order]
    total = np.concatenate([[0.0], np.cumsum(gains_Q)])  # that the questions up to each one gain by their answers
    parts_equal = np.concatenate([[False], doubts_Q[1:] == doubts_Q[:-1], [False]])
    best = int(np.where(parts_equal, -np.inf, total).argmax())
    return float(doubts_Q[best - 1] if best else doubts_Q[0] - 1)
