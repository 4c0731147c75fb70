"""Which tokens of a context are the answer: the best pairs of a first and a last one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from warmup.training.data.batching.micro_batch import Targets
from warmup.training.data.samples import IGNORE_INDEX


class Span(NamedTuple):
    """Tokens of a window's context."""

    score: float
    """That of its first token as a start and that of its last one as an end, added up."""
    first: int
    """Number of its first token among those of the context in this window, from 0."""
    last: int


def best_spans(logits: torch.Tensor, targets: Targets, max_tokens: int) -> torch.Tensor:
    """The best answer in each window, and the score of none.

    Args:
        logits: (..., 2), as many as there are targets: the scores of each position as the first and as the last token
            of the answer. The first position of a sample stands for no answer, the others are those of its context.
        targets: values (N, 2): IGNORE_INDEX at positions that do not count.
        max_tokens: the most tokens of an answer.

    Returns:
        (samples, 4) float64: the score of the best answer, -inf if there is none; its first and its last token among
        those of the context, from 0 (0 if there is none); the score of no answer. All 0 for a sample without targets.
    """
    samples = targets.sample_count
    owners_N = targets.sample_ids_N.where(targets.values[:, 0] != IGNORE_INDEX, samples)
    owners_N, order_N = owners_N.sort(stable=True)  # the positions of a sample one after another
    scores_N2 = logits.flatten(0, -2).float()[order_N]
    begins_S = torch.searchsorted(owners_N, torch.arange(samples, device=owners_N.device)).clamp_max(len(owners_N) - 1)
    is_context_N = torch.cat([owners_N.new_zeros(1, dtype=torch.bool), owners_N[1:] == owners_N[:-1]])
    best_N, lengths_N = _best_from_each(scores_N2, owners_N, is_context_N, max_tokens)
    best_S = best_N.new_full((samples + 1,), -torch.inf).scatter_reduce(0, owners_N, best_N, "amax")
    positions_N = torch.arange(len(owners_N), device=owners_N.device)
    candidates_N = positions_N.where((best_N == best_S[owners_N]) & is_context_N, len(owners_N) - 1)
    where_S = candidates_N.new_full((samples + 1,), len(owners_N) - 1).scatter_reduce(
        0, owners_N, candidates_N, "amin"
    )[:samples]
    first_S = where_S - begins_S - 1
    found_S = best_S[:samples] > -torch.inf
    first_S, last_S = (tokens_S.where(found_S, 0) for tokens_S in (first_S, first_S + lengths_N[where_S]))
    found = best_S[:samples], first_S, last_S, scores_N2[begins_S].sum(1)
    has_targets_S1 = (owners_N[begins_S] == torch.arange(samples, device=owners_N.device))[:, None]
    return torch.stack([values_S.double() for values_S in found], 1).where(has_targets_S1, 0.0)


def _best_from_each(
    scores_N2: torch.Tensor, owners_N: torch.Tensor, is_context_N: torch.Tensor, max_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The score of the best answer that begins at each position, and how far after it the answer ends."""
    starts_N, ends_N = scores_N2.unbind(1)
    best_N, lengths_N = torch.full_like(starts_N, -torch.inf), torch.zeros_like(owners_N)
    for length in range(min(max_tokens, len(owners_N))):
        begin, end = slice(len(owners_N) - length), slice(length, None)
        scores = starts_N[begin] + ends_N[end]
        better = is_context_N[begin] & (owners_N[begin] == owners_N[end]) & (scores > best_N[begin])
        best_N[begin] = scores.where(better, best_N[begin])
        lengths_N[begin] = torch.where(better, length, lengths_N[begin])
    return best_N, lengths_N


def ranked_spans(scores_C2: np.ndarray, max_tokens: int, count: int) -> list[Span]:
    """The best answers in one window, the best one first; of equal ones the one that begins first, then the shortest.

    Args:
        scores_C2: the scores of each token of the context as the first and as the last token of the answer.
        max_tokens: the most tokens of an answer.
        count: how many to return, at most.
    """
    if not len(scores_C2):
        return []
    starts_C, ends_C = scores_C2.T
    padded = np.concatenate([ends_C, np.full(max_tokens - 1, -np.inf, ends_C.dtype)])
    scores_CL = starts_C[:, None] + np.lib.stride_tricks.sliding_window_view(padded, max_tokens)
    best = np.argsort(-scores_CL, axis=None, kind="stable")[:count]
    firsts, lengths = np.unravel_index(best, scores_CL.shape)
    found = zip(scores_CL.flat[best].tolist(), firsts.tolist(), lengths.tolist(), strict=True)
    return [Span(score, first, first + length) for score, first, length in found if score > -np.inf]
