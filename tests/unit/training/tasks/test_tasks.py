"""What holds for the loss and the results of every task, with logits that are a function of the tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_samples import (
    CLS,
    SEP,
    VOCABULARY,
    collate,
    mlm,
    objective,
    random_samples,
    samples,
    targets_of,
)
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from warmup.config import Config
from warmup.config.tasks import TASKS
from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import MicroBatch, to_device, zero_weight
from warmup.training.data.samples import IGNORE_INDEX, Samples
from warmup.training.models.input_layout import InputLayout
from warmup.training.tasks import REGISTRY, create_task
from warmup.training.tasks.losses import cross_entropy_sum
from warmup.training.tasks.metrics import correct_and_total

CPU = torch.device("cpu")
LABELS = {
    "mlm": [()],
    "clm": [()],
    "classification": [("a", "b", "c")],
    "multi-label": [("a", "b", "c")],
    "regression": [("value",)],
    "token-classification": [("O", "B-x", "I-x", "B-y", "I-y"), ("NOUN", "VERB", "DET")],
    "multiple-choice": [("score",)],
    "question-answering": [("start", "end")],
}
CASES = [(task, labels) for task, several in LABELS.items() for labels in several]


def test_every_task_is_tested_here() -> None:
    assert list(LABELS) == list(REGISTRY) == list(TASKS)


def labelled_samples(task: str, labels: tuple[str, ...], count: int) -> Samples:
    random = np.random.default_rng(1)
    bodies = [random.integers(5, VOCABULARY, random.integers(0, 14)).tolist() for _ in range(count)]
    rows, columns = [[CLS, *body, SEP] for body in bodies], {}
    if task in ("classification", "regression"):
        numbers = random.normal(size=count) if task == "regression" else random.integers(0, len(labels), count)
        columns = {"second_start": list(map(len, rows)), "label": numbers.tolist()}
    if task == "multiple-choice":
        rows = [sequence for row in rows for sequence in (row, [CLS, 7, SEP], [CLS, 9, 9, SEP])]
        is_right = (random.integers(0, 3, count)[:, None] == np.arange(3)).ravel().tolist()
        columns = {"second_start": [1] * 3 * count, "is_first": [True, False, False] * count}
        columns |= {"number": [0, 1, 2] * count, "is_right": is_right}
    if task == "question-answering":
        rows = [[CLS, 7, SEP, *row[1:]] for row in rows]
        columns = {"second_start": [3] * count, "context_length": [len(row) - 4 for row in rows]}
        answers = [random.integers(3, len(row) - 1) if len(row) > 4 else 0 for row in rows]
        columns |= {"answer_start": answers, "answer_end": answers}
    if task == "multi-label":
        there = random.random((count, len(labels))) < 0.5
        columns = {"second_start": list(map(len, rows)), "label": [np.flatnonzero(row).tolist() for row in there]}
    if task == "token-classification":
        tags = [np.where(random.random(len(body)) < 0.7, random.integers(0, len(labels), len(body)), IGNORE_INDEX)
                for body in bodies]  # fmt: skip
        columns = {"token_labels": [[IGNORE_INDEX, *row.tolist(), IGNORE_INDEX] for row in tags]}
    return samples(rows, create_task(Config(task=task)).whole_rows, **columns)


def made_logits(task: str, labels: tuple[str, ...], batch: MicroBatch) -> torch.Tensor:
    """Logits (N, C) at the positions of a batch: of the token there, or of all tokens of the sequence."""
    classes = len(labels) or VOCABULARY
    table_VC = torch.from_numpy(np.random.default_rng(2).normal(size=(VOCABULARY, classes))).float()
    if task in ("classification", "multi-label", "multiple-choice", "regression"):
        return table_VC[batch.input_ids.sum(1) % VOCABULARY]
    logits_NC = table_VC[batch.input_ids.flatten()[batch.positions_N]]
    if task == "question-answering":
        return logits_NC
    even_N = batch.positions_N % batch.input_ids.shape[1] % 2 == 0  # where the label gets the largest logit
    return logits_NC + 9.0 * torch.eye(classes)[batch.targets] * even_N[:, None]


@pytest.mark.parametrize(("task", "labels"), CASES)
def test_results_of_a_sample_do_not_depend_on_the_batch(
    task: str, labels: tuple[str, ...], tokenizer: BertTokenizerFast
) -> None:
    """One row per sample, exactly the same alone, among others and in any order; the losses add up to the same sum."""
    built, rows = objective(task, tokenizer, labels), labelled_samples(task, labels, 24)

    def compute(indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        batch = collate(built, rows, indices)
        logits = made_logits(task, labels, batch)
        return built.results(logits, targets_of(batch)), built.losses(logits, targets_of(batch)).sum()

    results, loss = compute(np.arange(24))
    assert results.shape == (24, built.width) and results.dtype == torch.float64
    assert len(results.unique(dim=0)) > 5  # so that a mix-up of samples would show
    for parts in ([[i] for i in range(24)], np.array_split(np.arange(24), 5)):
        alone = [compute(np.asarray(part)) for part in parts]
        assert torch.equal(torch.cat([part[0] for part in alone]), results)
        assert sum(float(part[1]) for part in alone) == pytest.approx(float(loss), rel=1e-5)
    shuffled = np.random.default_rng(3).permutation(24)
    assert torch.equal(compute(shuffled)[0], results[torch.from_numpy(shuffled)])
    repeated = np.array([7, 7, 3, 7])
    assert torch.equal(compute(repeated)[0], results[torch.from_numpy(repeated)])


@pytest.mark.parametrize(("task", "labels"), CASES)
def test_a_batch_of_zero_weight_counts_nothing(
    task: str, labels: tuple[str, ...], tokenizer: BertTokenizerFast
) -> None:
    built, rows = objective(task, tokenizer, labels), labelled_samples(task, labels, 6)
    batch = zero_weight(collate(built, rows, range(6)))
    assert (batch.target_count, batch.token_count, batch.sample_count) == (0, 0, 6)
    logits = torch.randn(len(batch.targets), len(labels) or VOCABULARY, requires_grad=True)
    loss = built.training_loss_sum(logits, targets_of(batch)) + built.losses(logits, targets_of(batch)).sum()
    loss.backward()
    assert loss.item() == 0.0 and not logits.grad.any()
    results = built.results(logits, targets_of(batch))
    assert results.shape == (6, built.width) and not results.any()


def test_zero_weight_has_no_loss_and_no_gradient(tokenizer: BertTokenizerFast) -> None:
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    model = BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, **sizes))
    full = collate(mlm(tokenizer), random_samples(4), range(4))
    batch = zero_weight(full)
    assert (batch.target_count, batch.token_count) == (0, 0) and full.target_count > 0
    assert batch.inputs is full.inputs and batch.targets.shape == full.targets.shape
    inputs, targets = to_device(lay_out(batch, InputLayout()), CPU)
    logits = model(**inputs).logits
    loss = cross_entropy_sum(logits, targets)
    loss.backward()
    assert loss.item() == 0.0
    assert all((parameter.grad == 0).all() for parameter in model.bert.parameters())  # zeros, not None: DDP waits
    assert not correct_and_total(logits, targets).any()
    inputs, targets = to_device(lay_out(full, InputLayout()), CPU)
    cross_entropy_sum(model(**inputs).logits, targets).backward()
    assert any((parameter.grad != 0).any() for parameter in model.bert.parameters())


def test_the_head_reads_some_position_if_there_is_no_target(tokenizer: BertTokenizerFast) -> None:
    layout = InputLayout(logits="positions", positions_in="head")
    full = collate(mlm(tokenizer), random_samples(4), range(4))
    inputs, targets = to_device(lay_out(zero_weight(full), layout), CPU)
    assert torch.equal(inputs["positions"], full.positions_N)  # all of weight 0
    assert targets.values.tolist() == [IGNORE_INDEX] * full.target_count
    empty = collate(mlm(tokenizer), samples([[CLS, SEP]] * 2), range(2))
    assert empty.positions_N.tolist() == [] and empty.target_count == 0
    inputs, targets = to_device(lay_out(empty, layout), CPU)
    assert inputs["positions"].tolist() == [0] and targets.values.tolist() == [IGNORE_INDEX]  # weight 0, but not none
    assert targets.sample_ids_N.tolist() == [0] and targets.sample_count == 2
    assert torch.equal(correct_and_total(torch.zeros(1, 1, 5), targets), torch.zeros(2, 2).double())
