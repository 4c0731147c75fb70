"""Tasks: what is asked of a sample is exact, and the same whoever computes it."""

from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_samples import CLS, MASK, PAD, SEP, UNK, VOCABULARY, collate, mlm, random_samples, samples
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from warmup.config import Config
from warmup.errors import UserError
from warmup.training import tasks
from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import to_device, zero_weight
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.models.input_layout import InputLayout

# Masked language modelling


def test_masks_are_80_10_10(tokenizer: BertTokenizerFast) -> None:
    """Devlin et al. 2018, section 3.1. Bounds are five standard deviations of a binomial."""
    rows = random_samples(2000)
    batch = collate(mlm(tokenizer), rows, range(2000))
    original, _, _ = rows.take(np.arange(2000))
    original, found, chosen = torch.from_numpy(original), batch.inputs["input_ids"], batch.targets != IGNORE_INDEX
    assert (batch.targets[chosen] == original[chosen]).all()
    assert (found[~chosen] == original[~chosen]).all()
    assert int(chosen.sum()) == batch.target_count > 8000
    assert not torch.isin(original[chosen], torch.arange(5)).any()  # special tokens are never asked for
    masked, kept = found[chosen] == MASK, found[chosen] == original[chosen]
    other = ~masked & ~kept
    assert not torch.isin(found[chosen][other], torch.arange(5)).any()  # nor drawn
    count = batch.target_count
    same = 0.1 / (VOCABULARY - 5)  # another token may be the same one
    for found_, share in ((masked, 0.8), (kept, 0.1 + same), (other, 0.1 - same)):
        assert abs(int(found_.sum()) - count * share) < 5 * math.sqrt(count * share * (1 - share))
    # Every regular token is drawn as a replacement, about as often as any: chi-square of 195 - 1 freedom.
    drawn = np.bincount(found[chosen][other].numpy(), minlength=VOCABULARY)[5:]
    assert drawn.min() >= 0 and ((drawn - drawn.mean()) ** 2).sum() / drawn.mean() < 194 + 5 * math.sqrt(2 * 194)
    assert (drawn > 0).mean() > 0.95


def test_every_place_of_a_sample_is_chosen_as_often(tokenizer: BertTokenizerFast) -> None:
    rows = samples([[CLS, *range(10, 30), SEP]] * 4000)
    chosen = (collate(mlm(tokenizer), rows, range(4000)).targets != IGNORE_INDEX).sum(0).numpy()
    assert chosen[0] == chosen[-1] == 0 and chosen.sum() == 4000 * 3
    places = chosen[1:-1]
    # Three of twenty without replacement: 17/19 of a chi-square of 19 freedom, beyond 40 in 0.1% of all cases.
    spread = ((places - 600) ** 2 / 600).sum()
    assert spread < 40  # measured: 10.7


@pytest.mark.parametrize("rate", ["0.15", "0.01", "0.5", "0.99"])
def test_the_number_of_targets_of_each_sample(tokenizer: BertTokenizerFast, rate: str) -> None:
    """max(1, round(rate * n)), half rounded up: create_pretraining_data.py of Devlin et al. 2018, there with n of all
    tokens and Python's round, which takes half to even."""
    sizes = range(0, 121)
    rows = samples([[CLS, *[9] * size, SEP] for size in sizes])
    batch = collate(mlm(tokenizer, float(rate)), rows, sizes)
    wanted = [min(size, max(1, math.floor(Fraction(rate) * size + Fraction(1, 2)))) for size in sizes]
    assert (batch.targets != IGNORE_INDEX).sum(1).tolist() == wanted
    assert batch.target_count == sum(wanted)
    assert batch.token_count == sum(sizes) + 2 * 121
    if rate == "0.15":  # by hand
        assert [wanted[size] for size in (0, 1, 3, 9, 10, 16, 17, 30, 100)] == [0, 1, 1, 1, 2, 2, 3, 5, 15]


def test_special_tokens_within_a_text_are_not_chosen(tokenizer: BertTokenizerFast) -> None:
    rows = samples([[CLS, UNK, 7, SEP, MASK, SEP]] * 50)
    batch = collate(mlm(tokenizer, 0.9), rows, range(50))
    assert ((batch.targets != IGNORE_INDEX).sum(0) == torch.tensor([0, 0, 50, 0, 0, 0])).all()


@given(st.lists(st.integers(0, 19), min_size=1, max_size=8), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_masks_do_not_depend_on_the_company(indices: list[int], epoch: int) -> None:
    task, rows = COMPANY
    together = collate(task, rows, indices, epoch)
    for row, index in enumerate(indices):
        alone = collate(task, rows, [index], epoch)
        length = int(rows.lengths[index])
        assert (together.inputs["input_ids"][row, :length] == alone.inputs["input_ids"][0]).all()
        assert (together.targets[row, :length] == alone.targets[0]).all()
        assert (together.inputs["input_ids"][row, length:] == PAD).all()
        assert (together.targets[row, length:] == IGNORE_INDEX).all()
        assert together.inputs["attention_mask"][row].tolist() == [1] * length + [0] * (
            together.targets.shape[1] - length
        )


@pytest.fixture(scope="module", autouse=True)
def company(tokenizer: BertTokenizerFast) -> None:
    global COMPANY
    COMPANY = mlm(tokenizer), random_samples(20)


def test_masks_differ_by_epoch_and_seed_and_sample(tokenizer: BertTokenizerFast) -> None:
    task, rows = mlm(tokenizer), samples([[CLS, *range(10, 50), SEP]] * 20)
    first = collate(task, rows, range(20), epoch=0, seed=1).targets
    assert (first == collate(task, rows, range(20), epoch=0, seed=1).targets).all()
    for other in (
        collate(task, rows, range(20), epoch=1, seed=1).targets,
        collate(task, rows, range(20), epoch=0, seed=2).targets,
        first.roll(1, 0),
    ):
        assert not (first == other).all(1).any()


def test_evaluation_masks_are_of_the_sample_alone(tokenizer: BertTokenizerFast) -> None:
    task, rows = mlm(tokenizer), random_samples(20)
    indices = np.array([3, 19, 5])
    first = tasks.evaluation_batch(task, rows, indices)
    again = tasks.evaluation_batch(mlm(tokenizer), rows, indices)  # there is no seed of a run to tell it
    assert (first.targets == again.targets).all()
    assert (first.inputs["input_ids"] == again.inputs["input_ids"]).all()
    for seed in range(5):
        assert not (collate(task, rows, indices, seed=seed).targets == first.targets).all()


def test_a_tokenizer_without_a_mask_token() -> None:
    bare = BertTokenizerFast(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4})
    bare.mask_token = None
    with pytest.raises(UserError, match="data.tokenizer: has no mask token"):
        mlm(bare)


# Classification


def test_classification_batches(tokenizer: BertTokenizerFast) -> None:
    pair = [CLS, 10, 11, SEP, 12, SEP]
    rows = samples([pair, [CLS, 13, SEP], [CLS, SEP, 14, SEP]], first=[4, 3, 2], label=[2, 0, 1])
    task = tasks.build_task(Config(task="classification"), SimpleNamespace(tokenizer=tokenizer, labels=("a", "b", "c")))
    batch = collate(task, rows, [0, 1, 2])
    assert batch.inputs["input_ids"].tolist() == [pair, [CLS, 13, SEP, PAD, PAD, PAD], [CLS, SEP, 14, SEP, PAD, PAD]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0] * 6, [0, 0, 1, 1, 0, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1] * 6, [1] * 3 + [0] * 3, [1] * 4 + [0] * 2]
    assert batch.targets.tolist() == [2, 0, 1]
    assert (batch.target_count, batch.token_count) == (3, 13)
    assert all(tensor.dtype == torch.int64 for tensor in (*batch.inputs.values(), batch.targets))
    assert task.labels == ("a", "b", "c")


def test_token_types_only_where_the_tokenizer_has_them(tokenizer: BertTokenizerFast) -> None:
    assert set(collate(mlm(tokenizer), random_samples(2), [0, 1]).inputs) == {
        "input_ids", "attention_mask", "token_type_ids"
    }  # fmt: skip
    without = BertTokenizerFast(vocab=tokenizer.get_vocab())
    without.model_input_names = ["input_ids", "attention_mask"]
    assert set(collate(mlm(without), random_samples(2), [0, 1]).inputs) == {"input_ids", "attention_mask"}


def test_padding_is_the_tokenizers() -> None:
    """RoBERTa's is 1; on disk and in `take` it is 0."""
    names = ["<s>", "[PAD]", "</s>", "[UNK]", "[MASK]", *(f"w{number}" for number in range(20))]
    other = BertTokenizerFast(vocab={name: i for i, name in enumerate(names)}, cls_token="<s>", sep_token="</s>")
    batch = collate(mlm(other), samples([[0, 5, 2], [0, 6, 7, 8, 2]]), [0, 1])
    assert batch.inputs["input_ids"][0, 3:].tolist() == [1, 1]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]


# Regression


def test_numbers_are_targets_as_they_are(tokenizer: BertTokenizerFast) -> None:
    """-100 too, which is no target elsewhere."""
    rows = samples([[CLS, 10, SEP], [CLS, 13, SEP], [CLS, 14, SEP]], first=[3, 3, 3], label=[2.5, -100.0, 0.1])
    task = tasks.build_task(Config(task="regression"), SimpleNamespace(tokenizer=tokenizer, labels=("value",)))
    batch = collate(task, rows, [0, 1, 2])
    assert batch.targets.dtype == torch.float32 and batch.targets.tolist() == [2.5, -100.0, pytest.approx(0.1)]
    assert (batch.target_count, batch.token_count) == (3, 9)
    logits = torch.tensor([[2.0], [-98.0], [0.1]])
    assert float(task.loss_sum(logits, batch.targets)) == pytest.approx(0.25 + 4.0, rel=1e-6)
    assert task.loss_sum(logits.bfloat16(), batch.targets).dtype == torch.float32
    assert task.per_sample and task.results(logits, batch.targets).tolist() == [
        [2.0, 2.5], [-98.0, -100.0], [pytest.approx(0.1)] * 2
    ]  # fmt: skip


def test_a_weightless_batch_of_numbers(tokenizer: BertTokenizerFast) -> None:
    rows = samples([[CLS, 10, SEP], [CLS, 13, SEP]], first=[3, 3], label=[-100.0, 0.0])
    task = tasks.build_task(Config(task="regression"), SimpleNamespace(tokenizer=tokenizer, labels=("value",)))
    batch = zero_weight(collate(task, rows, [0, 1]))
    logits = torch.tensor([[2.0], [3.0]], requires_grad=True)
    loss = task.loss_sum(logits, batch.targets)
    loss.backward()
    assert (float(loss.detach()), logits.grad.tolist(), batch.target_count) == (0.0, [[0.0], [0.0]], 0)


# Loss and metrics


def test_the_loss_is_the_sum_of_nats() -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]], [[5.0, -5.0], [0.0, math.log(4)]]])
    targets = torch.tensor([[0, 1], [IGNORE_INDEX, 1]])
    # ln 2, ln 4 and ln 5/4
    assert float(tasks.loss_sum(logits, targets)) == pytest.approx(math.log(2) + math.log(4) + math.log(1.25), rel=1e-6)
    assert int(tasks.correct(logits, targets)) == 2  # the first of a tie, and the last
    assert float(tasks.loss_sum(logits[:, 0], targets[:, 0])) == pytest.approx(math.log(2), rel=1e-6)
    assert tasks.loss_sum(logits.bfloat16(), targets).dtype == torch.float32
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 7, 11), torch.randint(0, 11, (3, 7))
    targets[1] = IGNORE_INDEX
    mean = torch.nn.functional.cross_entropy(logits[[0, 2]].reshape(14, 11), targets[[0, 2]].reshape(14))
    assert float(tasks.loss_sum(logits, targets)) == pytest.approx(14 * float(mean), rel=1e-6)


def test_a_weightless_batch_has_no_loss_and_no_gradient(tokenizer: BertTokenizerFast) -> None:
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    model = BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, **sizes))
    full = collate(mlm(tokenizer), random_samples(4), range(4))
    batch = zero_weight(full)
    assert (batch.target_count, batch.token_count) == (0, 0) and full.target_count > 0
    assert batch.inputs is full.inputs and batch.targets.shape == full.targets.shape
    loss = tasks.loss_sum(model(**batch.inputs).logits, batch.targets)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all((parameter.grad == 0).all() for parameter in model.bert.parameters())  # zeros, not None: DDP waits
    assert int(tasks.correct(model(**batch.inputs).logits, batch.targets)) == 0
    inputs, targets = to_device(lay_out(batch, InputLayout(positions=True)), torch.device("cpu"))
    assert inputs["positions"].tolist() == [0] and targets.tolist() == [IGNORE_INDEX]  # one row, of weight 0, not none
    tasks.loss_sum(model(**full.inputs).logits, full.targets).backward()
    assert any((parameter.grad != 0).any() for parameter in model.bert.parameters())


def test_results_of_classes_are_a_row_per_sample(tokenizer: BertTokenizerFast) -> None:
    task = tasks.build_task(Config(task="classification"), SimpleNamespace(tokenizer=tokenizer, labels=("a", "b", "c")))
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    assert task.per_sample
    assert task.results(logits, torch.tensor([1, 2, 2])).tolist() == [[1, 1], [0, 2], [2, 2]]
    metrics = task.metrics(6.0, torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]))  # one is absent
    assert metrics["f1"] == pytest.approx(2 / 3)  # the mean of 2/3 and 2/3


def test_results_of_a_language_model_are_one_row(tokenizer: BertTokenizerFast) -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]], [[5.0, -5.0], [0.0, math.log(4)]]])
    assert not mlm(tokenizer).per_sample
    assert mlm(tokenizer).results(logits, torch.tensor([[0, 1], [IGNORE_INDEX, 1]])).tolist() == [[2, 3]]
