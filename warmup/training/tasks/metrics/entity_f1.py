"""Entities in tags such as B-PER I-PER O, counted as conlleval does, and seqeval in its default mode.

A tag that cannot continue an entity begins one: I-PER after O, or after I-LOC. So IOB2, IOB1 and BIOES are all read
rightly, and BILOU too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from warmup.training.data.batching.micro_batch import Targets
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.tasks.metrics import correct_and_total, sum_by_sample

_TAG = re.compile("O|([BIESLU])(?:-(.+))?")


@dataclass(frozen=True)
class Scheme:
    """What each tag says."""

    begins_C: torch.Tensor
    """Whether it begins an entity."""
    ends_C: torch.Tensor
    """Whether it ends one."""
    type_C: torch.Tensor
    """Number of the entity's type, from 1 in the order of `types`; 0 for O."""
    types: tuple[str, ...]
    """Names of the types; "" of the one that has no name."""


def is_entity_tag(label: str) -> bool:
    """Whether a tag says where an entity begins or goes on, or is O."""
    return _TAG.fullmatch(label) is not None


def parse_scheme(labels: Sequence[str]) -> Scheme | None:
    """The scheme of these tags, by their names; None unless all are tags of entities (parts of speech are not)."""
    parts = [match for label in labels if (match := _TAG.fullmatch(label))]
    if len(parts) < len(labels):
        return None
    prefixes = [part[1] or "O" for part in parts]
    types = sorted({part[2] or "" for part in parts if part[1]})
    return Scheme(
        begins_C=torch.tensor([prefix in "BSU" for prefix in prefixes]),
        ends_C=torch.tensor([prefix in "ESLU" for prefix in prefixes]),
        type_C=torch.tensor([1 + types.index(part[2] or "") if part[1] else 0 for part in parts]),
        types=tuple(types),
    )


def entity_counts(logits: torch.Tensor, targets: Targets, scheme: Scheme) -> torch.Tensor:
    """(samples, 2 + 3 T): correct tags, all tags; then correct, predicted and labelled entities of each type."""
    preds_N = logits.flatten(0, -2).argmax(-1)
    return torch.cat([correct_and_total(logits, targets), count_entities(preds_N, targets, scheme)], 1)


def count_entities(preds_N: torch.Tensor, targets: Targets, scheme: Scheme) -> torch.Tensor:
    """Count entities in each sample.

    Args:
        preds_N: predicted tags, sample after sample.
        targets: the labels; those that are IGNORE_INDEX are passed over.
        scheme: what the tags say.

    Returns:
        (samples, 3 T), for each of the T types: predicted entities whose first word, last word and type are those of a
        labelled one; predicted entities; labelled entities. No entity continues from one sample into the next.
    """
    labels_N, samples_N = targets.values.flatten(), targets.sample_ids_N
    counted_N = labels_N != IGNORE_INDEX
    where_N = torch.arange(len(counted_N), device=counted_N.device)
    # The counted position before each one in its sample; its own if there is none.
    before_N = torch.where(counted_N, where_N, 0).cummax(0).values.roll(1)
    has_before_N = (where_N > 0) & counted_N[before_N] & (samples_N[before_N] == samples_N)
    before_N = torch.where(has_before_N, before_N, where_N)
    starts_N, type_N, next_N = _entities(preds_N, before_N, counted_N, scheme)
    true_starts_N, true_type_N, true_next_N = _entities(labels_N.clamp(0), before_N, counted_N, scheme)
    correct_N = starts_N & true_starts_N & (type_N == true_type_N) & (next_N == true_next_N)
    types_T = torch.arange(1, len(scheme.types) + 1, device=type_N.device)
    is_type_NT, is_true_type_NT = type_N[:, None] == types_T, true_type_N[:, None] == types_T
    counts = (correct_N[:, None] & is_type_NT, starts_N[:, None] & is_type_NT, true_starts_N[:, None] & is_true_type_NT)
    return sum_by_sample(torch.cat(counts, 1), targets)


@functools.lru_cache(maxsize=8)  # each copy to a GPU would wait for it
def _tables_on(device: torch.device, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return scheme.begins_C.to(device), scheme.ends_C.to(device), scheme.type_C.to(device)


def _entities(
    tags_N: torch.Tensor, before_N: torch.Tensor, counted_N: torch.Tensor, scheme: Scheme
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each position: whether an entity starts there, the type of its tag, and where the next tag, or run of tags,
    starts that does not belong to it.
    """
    begins_C, ends_C, type_C = _tables_on(tags_N.device, scheme)
    where_N, type_N = torch.arange(len(tags_N), device=tags_N.device), type_C[tags_N]
    continues_N = (before_N != where_N) & ~begins_C[tags_N] & ~ends_C[tags_N[before_N]]
    continues_N &= (type_N > 0) & (type_N == type_N[before_N])
    edges_N = torch.where(counted_N & ~continues_N, where_N, len(where_N))
    after_N = torch.cat([edges_N[1:], edges_N.new_full((1,), len(where_N))])
    return counted_N & (type_N > 0) & ~continues_N, type_N, after_N.flip(0).cummin(0).values.flip(0)
