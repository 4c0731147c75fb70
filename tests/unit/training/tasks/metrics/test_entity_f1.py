"""Entities are counted as seqeval counts them, and each sample by itself."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from warmup.training.data.batching.micro_batch import Targets
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.tasks.metrics import entity_f1, entity_metrics, tag_metrics

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BIOES = ("O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("a", "b-c")))
BILOU = ("O", *(f"{prefix}-{kind}" for prefix in "BILU" for kind in "xy"))
UNTYPED = ("B", "I", "O")


def entities_of(tags: list[str]) -> set[tuple[int, int, str]]:
    """(first, last, type), by walking over the tags of one sentence: BILOU's L and U as E and S."""
    entities, first, before = set(), None, "O"
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.replace("L-", "E-").replace("U-", "S-").partition("-")
        old_prefix, _, old_kind = before.replace("L-", "E-").replace("U-", "S-").partition("-")
        continues = prefix in "IE" and old_prefix in "BI" and kind == old_kind
        if first is not None and not continues:
            entities.add((first, index - 1, old_kind))
            first = None
        if prefix != "O" and first is None:
            first = index
        before = tag
    return entities


def count(preds: list[list[str]], true_tags: list[list[str]], labels: tuple[str, ...], gaps: bool = False) -> list:
    """`count_entities` of sentences one after the other, with positions between them that have no label: of all types
    together.
    """
    pred_ids, label_ids, sample_ids = [], [], []
    for sample, pair in enumerate(zip(preds, true_tags, strict=True)):
        for pred, true_tag in zip(*pair, strict=True):
            pred_ids += [labels.index(pred), *([2] if gaps else [])]
            label_ids += [labels.index(true_tag), *([IGNORE_INDEX] if gaps else [])]
            sample_ids += [sample] * (1 + gaps)
    preds_N, labels_N, samples_N = (torch.tensor(ids, dtype=torch.int64) for ids in (pred_ids, label_ids, sample_ids))
    targets = Targets(labels_N, samples_N, len(preds))
    counts_SW = entity_f1.count_entities(preds_N, targets, entity_f1.parse_scheme(labels))
    return counts_SW.view(len(preds), 3, -1).sum(-1).tolist()


def sentences(labels: tuple[str, ...]) -> st.SearchStrategy:
    pair = st.lists(st.tuples(st.sampled_from(labels), st.sampled_from(labels)), min_size=1, max_size=9)
    return st.lists(pair, min_size=1, max_size=4)


@pytest.mark.parametrize("labels", [BIO, BIOES, BILOU, UNTYPED])
@given(data=st.data(), gaps=st.booleans())
@settings(max_examples=150, deadline=None)
def test_against_a_walk_over_the_tags(labels: tuple[str, ...], data: st.DataObject, gaps: bool) -> None:
    pairs = data.draw(sentences(labels))
    preds, true_tags = ([[pair[side] for pair in sentence] for sentence in pairs] for side in (0, 1))
    entities = [(entities_of(ours), entities_of(theirs)) for ours, theirs in zip(preds, true_tags, strict=True)]
    expected = [[len(ours & theirs), len(ours), len(theirs)] for ours, theirs in entities]
    assert count(preds, true_tags, labels, gaps) == expected


@pytest.mark.parametrize("labels", [BIO, BIOES, UNTYPED])
def test_against_seqeval(labels: tuple[str, ...]) -> None:
    from seqeval.metrics import f1_score, precision_score, recall_score

    random = np.random.default_rng(len(labels))
    for size in (1, 5, 60):
        true_tags = [random.choice(labels, random.integers(1, 12)).tolist() for _ in range(size)]
        noise = [random.choice(labels, len(tags)).tolist() for tags in true_tags]
        kept = [random.random(len(tags)) < 0.8 for tags in true_tags]
        triples = zip(true_tags, noise, kept, strict=True)
        preds = [[t if k else o for t, o, k in zip(*row, strict=True)] for row in triples]
        counts_S3 = torch.tensor(count(preds, true_tags, labels))
        correct_and_total_S2 = torch.tensor([[0.0, 1.0]]).expand(size, -1)
        metrics = entity_metrics(1.0, torch.cat([correct_and_total_S2, counts_S3], 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about scores that are 0 / 0
            theirs = [score(true_tags, preds) for score in (precision_score, recall_score, f1_score)]
        assert [metrics[name] for name in ("precision", "recall", "f1")] == pytest.approx(theirs, rel=1e-12)


def test_by_hand() -> None:
    """Tjong Kim Sang and De Meulder 2003: an entity is right only if it is the same as a whole."""
    true_tags = ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-LOC", "O"]
    preds = ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "I-LOC", "I-PER"]  # two places are one; an I- begins a person
    assert count([preds], [true_tags], BIO) == [[1, 3, 3]]
    assert count([["I-PER"]], [["B-PER"]], BIO) == [[1, 1, 1]]
    assert count([["I-PER", "I-LOC"]], [["O", "O"]], BIO) == [[0, 2, 0]]
    assert count([["B-PER"], ["I-PER"]], [["B-PER"], ["I-PER"]], BIO) == [[1, 1, 1]] * 2  # no entity over two samples
    assert count([["B-PER", "I-PER"]], [["B-PER", "I-PER"]], BIO) == [[1, 1, 1]]


def test_samples_without_labels_count_nothing() -> None:
    """In the order of the samples' numbers, whatever order they are laid out in."""
    scheme = entity_f1.parse_scheme(BIO)
    labels_N = torch.tensor([1, 2, IGNORE_INDEX, 3, IGNORE_INDEX, 4])
    targets = Targets(labels_N, torch.tensor([3, 3, 0, 1, 1, 1]), 5)
    counts = entity_f1.count_entities(torch.tensor([1, 2, 1, 3, 2, 3]), targets, scheme)
    assert counts.view(5, 3, 2)[..., 0].tolist() == [[0, 0, 0], [0, 2, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]  # LOC
    assert counts.view(5, 3, 2)[..., 1].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]]  # PER


@pytest.mark.parametrize(
    ("labels", "known"),
    [(BIO, True), (BIOES, True), (("I", "B"), True), (("NOUN", "VERB"), False), (("O", "B_PER"), False),
     (("O", "X-PER"), False), (("0", "1"), False), (("O", "B-"), False)],
)  # fmt: skip
def test_which_tags_name_entities(labels: tuple[str, ...], known: bool) -> None:
    assert (entity_f1.parse_scheme(labels) is not None) == known


def test_metrics_of_tags_against_torchmetrics() -> None:
    """Macro F1, over the tags that occur: one of five is neither predicted nor a label."""
    from torchmetrics.functional.classification import multiclass_f1_score

    random = np.random.default_rng(0)
    preds, labels = (torch.from_numpy(random.integers(0, 4, 300)) for _ in range(2))
    count_tags = partial(torch.bincount, minlength=5)
    table = torch.stack([count_tags(preds[preds == labels]), count_tags(preds), count_tags(labels)]).view(1, -1)
    table = table.double()
    metrics = tag_metrics(600.0, torch.cat([table, torch.zeros_like(table)]))
    assert metrics == {
        "loss": 2.0,
        "accuracy": float((preds == labels).double().mean()),
        "f1": pytest.approx(float(multiclass_f1_score(preds, labels, 5, average="macro")), rel=1e-6),
        "targets": 300.0,
    }
