"""Token classification: tags of words are compared sample by sample, however samples are laid out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_samples import (
    CLS,
    SEP,
    TOKEN_LAYOUTS,
    collate,
    dense_targets,
    objective,
    samples,
    targets_of,
    token_ids_of_logits,
)
from seqeval.metrics.sequence_labeling import get_entities

from warmup.training.data.batching.layout import lay_out
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.models.input_layout import InputLayout

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def test_targets_are_the_labels_of_the_first_tokens_of_words(tokenizer) -> None:
    labels = [[IGNORE_INDEX, 3, IGNORE_INDEX, 0, IGNORE_INDEX], [IGNORE_INDEX, 1, IGNORE_INDEX]]
    batch = collate(
        objective("token-classification", tokenizer, BIO),
        samples([[CLS, 9, 10, 11, SEP], [CLS, 12, SEP]], token_labels=labels),
        [1, 0],
    )
    assert dense_targets(batch).tolist() == [[*labels[1], IGNORE_INDEX, IGNORE_INDEX], labels[0]]
    assert batch.targets.tolist() == [1, 3, 0] and batch.sample_ids_N.tolist() == [0, 1, 1]
    assert (batch.sample_count, batch.target_count, batch.token_count) == (2, 3, 8)


@pytest.mark.parametrize("name", TOKEN_LAYOUTS)
@pytest.mark.parametrize("labels", [BIO, ("NOUN", "VERB", "DET", "ADJ")])
def test_results_of_every_layout(name: str, labels: tuple[str, ...], tokenizer) -> None:
    """Samples of several lengths with tokens that have no label; logits are a function of the token alone."""
    random = np.random.default_rng(7)
    bodies = [random.integers(5, 200, random.integers(1, 14)).tolist() for _ in range(12)]
    tags = [
        [int(random.integers(len(labels))) if random.random() < 0.7 else IGNORE_INDEX for _ in body] for body in bodies
    ]
    rows = samples(
        [[CLS, *body, SEP] for body in bodies], token_labels=[[IGNORE_INDEX, *row, IGNORE_INDEX] for row in tags]
    )
    task = objective("token-classification", tokenizer, labels)
    logits_VC = torch.from_numpy(random.normal(size=(200, len(labels))))
    for body, row in zip(bodies, tags, strict=True):  # so that some are right
        for token, tag in zip(body, row, strict=True):
            if tag != IGNORE_INDEX:
                logits_VC[token, tag] += 1.0
    batch = lay_out(collate(task, rows, range(12)), TOKEN_LAYOUTS[name])
    logits = logits_VC[token_ids_of_logits(batch, TOKEN_LAYOUTS[name])]
    preds = [[int(logits_VC[t].argmax()) for t, tag in zip(*pair) if tag != IGNORE_INDEX] for pair in zip(bodies, tags)]
    true_tags = [[tag for tag in row if tag != IGNORE_INDEX] for row in tags]
    results = task.results(logits, targets_of(batch))
    assert results.shape == (12, task.width)
    correct = [sum(ours == theirs for ours, theirs in zip(*pair)) for pair in zip(preds, true_tags)]
    assert (sum(correct) > 5, batch.target_count) == (True, sum(map(len, true_tags)))
    for sample, (ours, theirs) in enumerate(zip(preds, true_tags, strict=True)):
        if labels == BIO:
            entities = [set(get_entities([labels[tag] for tag in side])) for side in (ours, theirs)]
            counts = [len(entities[0] & entities[1]), len(entities[0]), len(entities[1])]
            assert results[sample, :2].tolist() == [correct[sample], len(theirs)]
            assert results[sample, 2:].view(3, -1).sum(1).tolist() == counts
        else:
            flat = [np.array(side, int) for side in (ours, theirs)]
            per_tag = [[(flat[0] == tag)[flat[0] == flat[1]].sum() for tag in range(4)]]
            per_tag += [[(side == tag).sum() for tag in range(4)] for side in flat]
            assert results[sample].tolist() == np.concatenate(per_tag).tolist()
    labels_N, logits_NC = batch.targets.flatten(), logits.flatten(0, -2).float()
    labelled_N = labels_N != IGNORE_INDEX
    expected = torch.nn.functional.cross_entropy(logits_NC[labelled_N], labels_N[labelled_N], reduction="sum")
    assert int(labelled_N.sum()) == batch.target_count
    assert float(task.losses(logits, targets_of(batch)).sum()) == pytest.approx(float(expected), rel=1e-6)


def test_a_batch_without_targets(tokenizer) -> None:
    rows = samples([[CLS, 9, SEP]], token_labels=[[IGNORE_INDEX] * 3])
    for labels in (BIO, ("NOUN", "VERB")):
        task = objective("token-classification", tokenizer, labels)
        batch = lay_out(collate(task, rows, [0]), InputLayout(logits="positions", rows=True, packed=True))
        logits = torch.zeros(1, 1, len(labels), requires_grad=True)
        assert task.results(logits, targets_of(batch)).sum() == 0
        loss = task.training_loss_sum(logits, targets_of(batch))
        loss.backward()
        assert loss.item() == 0.0 and not logits.grad.any()
        assert set(task.metrics(0.0, torch.zeros(1, task.width)).values()) == {0.0}
