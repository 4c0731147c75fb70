"""Entities that tags tell of: B-PER I-PER O, as conlleval and seqeval (in its default mode) count them.

A tag that cannot go on begins: I-PER after O, or after I-LOC. So IOB2, IOB1 and BIOES are read alike, and BILOU too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from warmup.training.data.samples import IGNORE_INDEX

_TAG = re.compile("O|([BIESLU])(?:-(.+))?")


@dataclass(frozen=True)
class Scheme:
    """Of each tag, whether it begins an entity, whether it ends one, and the number of its kind, 0 for O."""

    begins_C: torch.Tensor
    ends_C: torch.Tensor
    kind_C: torch.Tensor


def parse_scheme(labels: Sequence[str]) -> Scheme | None:
    """What the tags say; None where they are not all of entities (parts of speech, say)."""
    parts = [_TAG.fullmatch(label) for label in labels]
    if not all(parts):
        return None
    prefixes = [part[1] or "O" for part in parts]
    kinds = sorted({part[2] or "" for part in parts if part[1]})
    return Scheme(
        begins_C=torch.tensor([prefix in "BSU" for prefix in prefixes]),
        ends_C=torch.tensor([prefix in "ESLU" for prefix in prefixes]),
        kind_C=torch.tensor([1 + kinds.index(part[2] or "") if part[1] else 0 for part in parts]),
    )


def count_entities(found_N: torch.Tensor, wanted_N: torch.Tensor, owners_N: torch.Tensor, how: Scheme) -> torch.Tensor:
    """(3,): entities of `found_N` that are in `wanted_N` with the same first word, last word and kind; those of
    `found_N`; those of `wanted_N`. Tags of samples one after the other; owners_N: the samples' numbers. No entity goes
    from one sample into the next. What is IGNORED in `wanted_N` is passed over.
    """
    asked_N = wanted_N != IGNORE_INDEX
    where_N = torch.arange(len(asked_N), device=asked_N.device)
    # The place before each that is asked for; its own where there is none in the sample.
    before_N = torch.where(asked_N, where_N, 0).cummax(0).values.roll(1)
    before_N = torch.where((where_N > 0) & asked_N[before_N] & (owners_N[before_N] == owners_N), before_N, where_N)
    starts_N, kind_N, next_N = _entities(found_N, before_N, asked_N, how)
    true_starts_N, true_kind_N, true_next_N = _entities(wanted_N.clamp(0), before_N, asked_N, how)
    right_N = starts_N & true_starts_N & (kind_N == true_kind_N) & (next_N == true_next_N)
    return torch.stack([right_N.sum(), starts_N.sum(), true_starts_N.sum()])


def _entities(
    tags_N: torch.Tensor, before_N: torch.Tensor, asked_N: torch.Tensor, how: Scheme
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each place, whether an entity starts there, of which kind its tag is, and where what comes next begins."""
    begins_C, ends_C, kind_C = (table.to(tags_N.device) for table in (how.begins_C, how.ends_C, how.kind_C))
    where_N, kind_N = torch.arange(len(tags_N), device=tags_N.device), kind_C[tags_N]
    goes_on_N = (before_N != where_N) & ~begins_C[tags_N] & ~ends_C[tags_N[before_N]]
    goes_on_N &= (kind_N > 0) & (kind_N == kind_N[before_N])
    edges_N = torch.where(asked_N & ~goes_on_N, where_N, len(where_N))
    after_N = torch.cat([edges_N[1:], edges_N.new_full((1,), len(where_N))])
    return asked_N & (kind_N > 0) & ~goes_on_N, kind_N, after_N.flip(0).cummin(0).values.flip(0)
