"""Entities are counted as seqeval counts them, and samples are kept apart whatever way they are laid out in."""

from __future__ import annotations

import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_samples import CLS, SEP, collate, samples

from warmup.config import Config
from warmup.training import tasks
from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import MicroBatch
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.models.input_layout import UNPACKED, InputLayout
from warmup.training.tasks import entity_f1
from warmup.training.tasks.metrics import entity_metrics, tag_metrics

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BIOES = ("O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("a", "b-c")))
BILOU = ("O", *(f"{prefix}-{kind}" for prefix in "BILU" for kind in "xy"))
KINDLESS = ("B", "I", "O")


def entities_of(tags: list[str]) -> set[tuple[int, int, str]]:
    """(first, last, kind), told by walking over the tags of one sentence: BILOU's L and U as E and S."""
    found, first, before = set(), None, "O"
    for number, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.replace("L-", "E-").replace("U-", "S-").partition("-")
        old_prefix, _, old_kind = before.replace("L-", "E-").replace("U-", "S-").partition("-")
        goes_on = prefix in "IE" and old_prefix in "BI" and kind == old_kind
        if first is not None and not goes_on:
            found.add((first, number - 1, old_kind))
            first = None
        if prefix != "O" and first is None:
            first = number
        before = tag
    return found


def counted(found: list[list[str]], wanted: list[list[str]], labels: tuple[str, ...], gaps: bool = False) -> list[int]:
    """`entities.count` of sentences one after the other, with places between that are not asked for."""
    numbers, owners = ([], []), []
    for owner, pair in enumerate(zip(found, wanted, strict=True)):
        for tags in zip(*pair, strict=True):
            for place, tag in zip(numbers, tags, strict=True):
                place += [labels.index(tag), *([IGNORE_INDEX if place is numbers[1] else 2] if gaps else [])]
            owners += [owner] * (1 + gaps)
    found_N, wanted_N, owners_N = (torch.tensor(values, dtype=torch.int64) for values in (*numbers, owners))
    return entity_f1.count_entities(found_N, wanted_N, owners_N, entity_f1.parse_scheme(labels)).tolist()


def sentences(labels: tuple[str, ...]) -> st.SearchStrategy:
    pair = st.lists(st.tuples(st.sampled_from(labels), st.sampled_from(labels)), min_size=1, max_size=9)
    return st.lists(pair, min_size=1, max_size=4)


@pytest.mark.parametrize("labels", [BIO, BIOES, BILOU, KINDLESS])
@given(data=st.data(), gaps=st.booleans())
@settings(max_examples=150, deadline=None)
def test_against_a_walk_over_the_tags(labels: tuple[str, ...], data: st.DataObject, gaps: bool) -> None:
    pairs = data.draw(sentences(labels))
    found, wanted = ([[pair[side] for pair in sentence] for sentence in pairs] for side in (0, 1))
    there = [(entities_of(ours), entities_of(theirs)) for ours, theirs in zip(found, wanted, strict=True)]
    right = sum(len(ours & theirs) for ours, theirs in there)
    assert counted(found, wanted, labels, gaps) == [right, *(sum(map(len, side)) for side in zip(*there, strict=True))]


@pytest.mark.parametrize("labels", [BIO, BIOES, KINDLESS])
def test_against_seqeval(labels: tuple[str, ...]) -> None:
    from seqeval.metrics import f1_score, precision_score, recall_score

    random = np.random.default_rng(len(labels))
    for count in (1, 5, 60):
        wanted = [random.choice(labels, random.integers(1, 12)).tolist() for _ in range(count)]
        noise = [random.choice(labels, len(tags)).tolist() for tags in wanted]
        kept = [random.random(len(tags)) < 0.8 for tags in wanted]
        found = [[t if k else o for t, o, k in zip(*row, strict=True)] for row in zip(wanted, noise, kept, strict=True)]
        counts = counted(found, wanted, labels)
        metrics = entity_metrics(1.0, torch.tensor([[0.0, 1.0, *counts]]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scores that are 0 / 0
            theirs = [score(wanted, found) for score in (precision_score, recall_score, f1_score)]
        assert [metrics[name] for name in ("precision", "recall", "f1")] == pytest.approx(theirs, rel=1e-12)


def test_by_hand() -> None:
    """Tjong Kim Sang and De Meulder 2003: an entity is right only if it is the same as a whole."""
    wanted = ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-LOC", "O"]
    found_ = ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "I-LOC", "I-PER"]  # two places are one; an I- begins a person
    assert counted([found_], [wanted], BIO) == [1, 3, 3]
    assert counted([["I-PER"]], [["B-PER"]], BIO) == [1, 1, 1]
    assert counted([["I-PER", "I-LOC"]], [["O", "O"]], BIO) == [0, 2, 0]
    assert counted([["B-PER"], ["I-PER"]], [["B-PER"], ["I-PER"]], BIO) == [2, 2, 2]  # not one over two samples
    assert counted([["B-PER", "I-PER"]], [["B-PER", "I-PER"]], BIO) == [1, 1, 1]


@pytest.mark.parametrize(
    ("labels", "known"),
    [(BIO, True), (BIOES, True), (("I", "B"), True), (("NOUN", "VERB"), False), (("O", "B_PER"), False),
     (("O", "X-PER"), False), (("0", "1"), False), (("O", "B-"), False)],
)  # fmt: skip
def test_which_tags_are_of_entities(labels: tuple[str, ...], known: bool) -> None:
    assert (entity_f1.parse_scheme(labels) is not None) == known


def tagging(tokenizer, labels: tuple[str, ...]) -> tasks.Task:
    return tasks.build_task(Config(task="token-classification"), SimpleNamespace(tokenizer=tokenizer, labels=labels))


READINGS = {
    "padded": UNPACKED,
    "positions": InputLayout(positions=True),
    "rows": InputLayout(rows=True),
    "packed": InputLayout(rows=True, packs=True),
    "dense": InputLayout(rows=True, packs=True, dense=True),
}


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize("labels", [BIO, ("NOUN", "VERB", "DET", "ADJ")])
def test_results_of_every_layout(name: str, labels: tuple[str, ...], tokenizer) -> None:
    """Samples of several lengths, pieces that are not asked for; logits are a function of the token alone."""
    random = np.random.default_rng(7)
    bodies = [random.integers(5, 200, random.integers(1, 14)).tolist() for _ in range(12)]
    tags = [
        [int(random.integers(len(labels))) if random.random() < 0.7 else IGNORE_INDEX for _ in body] for body in bodies
    ]
    rows = samples([[CLS, *body, SEP] for body in bodies], label=[[IGNORE_INDEX, *row, IGNORE_INDEX] for row in tags])
    task, logits_VC = tagging(tokenizer, labels), torch.from_numpy(random.normal(size=(200, len(labels))))
    for body, row in zip(bodies, tags, strict=True):  # so that some are right
        for token, tag in zip(body, row, strict=True):
            if tag != IGNORE_INDEX:
                logits_VC[token, tag] += 1.0
    batch = lay_out(collate(task, rows, range(12)), READINGS[name])
    logits = logits_VC[_tokens_read(batch, READINGS[name])]
    found = [[int(logits_VC[t].argmax()) for t, tag in zip(*pair) if tag != IGNORE_INDEX] for pair in zip(bodies, tags)]
    wanted = [[tag for tag in row if tag != IGNORE_INDEX] for row in tags]
    results = task.results(logits, batch.targets, batch.owners)
    assert results.shape == (1, task.width)
    right = sum(ours == theirs for pair in zip(found, wanted) for ours, theirs in zip(*pair))
    total = sum(map(len, wanted))
    assert (right > 5, batch.target_count) == (True, total)
    if labels == BIO:
        names = [[[labels[tag] for tag in row] for row in side] for side in (found, wanted)]
        assert results.tolist() == [[right, total, *counted(*names, BIO)]]
    else:
        flat = [np.concatenate([np.array(row, int) for row in side]) for side in (found, wanted)]
        per_tag = [[(flat[0] == tag)[flat[0] == flat[1]].sum() for tag in range(4)]]
        per_tag += [[(side == tag).sum() for tag in range(4)] for side in flat]
        assert results.tolist() == [np.concatenate(per_tag).tolist()]
    plain = torch.nn.functional.cross_entropy
    wanted_N, logits_NC = batch.targets.flatten(), logits.flatten(0, -2).float()
    assert float(task.loss_sum(logits, batch.targets)) == pytest.approx(
        float(plain(logits_NC[wanted_N != IGNORE_INDEX], wanted_N[wanted_N != IGNORE_INDEX], reduction="sum")), rel=1e-6
    )


def _tokens_read(batch: MicroBatch, reading: InputLayout) -> torch.Tensor:
    """The ids of the places whose logits a model would give, in its shapes."""
    ids = batch.inputs["input_ids"]
    if reading.positions:
        return ids.flatten()[batch.inputs["positions"]]
    if not reading.rows or reading.dense:
        return ids
    return ids.gather(1, batch.inputs["read"]).flatten()[batch.inputs["kept"]][:, None]


def test_a_batch_that_asks_nothing(tokenizer) -> None:
    rows = samples([[CLS, 9, SEP]], label=[[IGNORE_INDEX] * 3])
    for labels in (BIO, ("NOUN", "VERB")):
        task = tagging(tokenizer, labels)
        batch = lay_out(collate(task, rows, [0]), InputLayout(rows=True, packs=True))
        logits = torch.zeros(1, 1, len(labels), requires_grad=True)
        assert task.results(logits, batch.targets, batch.owners).sum() == 0
        loss = task.training_loss(logits, batch.targets)
        loss.backward()
        assert float(loss.detach()) == 0.0 and not logits.grad.any()
        assert set(task.metrics(0.0, torch.zeros(1, task.width)).values()) == {0.0}


def test_scores_of_tags_against_torchmetrics() -> None:
    """Macro F1, over the tags that there are: of five one is neither found nor true."""
    from torchmetrics.functional.classification import multiclass_f1_score

    random = np.random.default_rng(0)
    found, wanted = (torch.from_numpy(random.integers(0, 4, 300)) for _ in range(2))
    how = partial(torch.bincount, minlength=5)
    table = torch.stack([how(found[found == wanted]), how(found), how(wanted)]).view(1, -1).double()
    metrics = tag_metrics(600.0, torch.cat([table, torch.zeros_like(table)]))
    assert metrics == {
        "loss": 2.0,
        "accuracy": float((found == wanted).double().mean()),
        "f1": pytest.approx(float(multiclass_f1_score(found, wanted, 5, average="macro")), rel=1e-6),
        "targets": 300.0,
    }
