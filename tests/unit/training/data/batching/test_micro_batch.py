"""Micro-batches: padded inputs, and which position of which sample predicts what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_samples import CLS, SEP, collate, dense_targets, mlm, random_samples, samples, targets_of
from transformers import BertTokenizerFast

from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import (
    padded_inputs,
    sequence_targets,
    to_device,
    token_targets,
    zero_weight,
)
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.models.input_layout import InputLayout

IDS_BT = np.array([[CLS, 7, SEP, 0], [CLS, 8, 9, SEP], [CLS, SEP, 0, 0]])
MASK_BT = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]) == 1


def inputs_of(tokenizer: BertTokenizerFast) -> dict[str, torch.Tensor]:
    return padded_inputs(IDS_BT, MASK_BT, tokenizer)


def test_token_types_only_where_the_tokenizer_has_them(tokenizer: BertTokenizerFast) -> None:
    assert set(collate(mlm(tokenizer), random_samples(2), [0, 1]).inputs) == {
        "input_ids", "attention_mask", "token_type_ids"
    }  # fmt: skip
    without = BertTokenizerFast(vocab=tokenizer.get_vocab())
    without.model_input_names = ["input_ids", "attention_mask"]
    assert set(collate(mlm(without), random_samples(2), [0, 1]).inputs) == {"input_ids", "attention_mask"}


def test_padding_is_the_tokenizers() -> None:
    """RoBERTa's is 1; on disk and in `gather` it is 0."""
    names = ["<s>", "[PAD]", "</s>", "[UNK]", "[MASK]", *(f"w{number}" for number in range(20))]
    other = BertTokenizerFast(vocab={name: i for i, name in enumerate(names)}, cls_token="<s>", sep_token="</s>")
    batch = collate(mlm(other), samples([[0, 5, 2], [0, 6, 7, 8, 2]]), [0, 1])
    assert batch.inputs["input_ids"][0, 3:].tolist() == [1, 1]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]


@pytest.mark.parametrize("columns", [(), (2,)], ids=["one target", "two targets"])
def test_targets_of_tokens(tokenizer: BertTokenizerFast, columns: tuple[int, ...]) -> None:
    """(N,), or (N, K) for K targets at each position; a sample may have none."""
    predicted_BT = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0]]) == 1
    targets_BT = np.arange(12 * (columns or (1,))[0]).reshape(3, 4, *columns)
    batch = token_targets(inputs_of(tokenizer), predicted_BT, targets_BT)
    assert batch.positions_N.tolist() == [5, 6, 8, 9] and batch.sample_ids_N.tolist() == [1, 1, 2, 2]
    assert batch.targets.shape == (4, *columns)
    assert batch.targets.tolist() == targets_BT.reshape(12, *columns)[[5, 6, 8, 9]].tolist()
    assert (batch.sample_count, batch.target_count, batch.token_count, batch.padded_tokens) == (3, 4, 9, 12)
    assert batch.positions_N.dtype == batch.sample_ids_N.dtype == batch.targets.dtype == torch.int64


@pytest.mark.parametrize("columns", [(), (3,)], ids=["one target", "three targets"])
@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_targets_of_sequences(tokenizer: BertTokenizerFast, columns: tuple[int, ...], kind: type) -> None:
    """At the first token of each: (B,), or (B, K)."""
    targets_B = np.arange(3 * (columns or (1,))[0]).reshape(3, *columns).astype(kind)
    batch = sequence_targets(inputs_of(tokenizer), targets_B)
    assert batch.positions_N.tolist() == [0, 4, 8] and batch.sample_ids_N.tolist() == [0, 1, 2]
    assert batch.targets.shape == (3, *columns) and batch.targets.tolist() == targets_B.tolist()
    assert batch.targets.dtype == (torch.int64 if kind is np.int64 else torch.float32)
    assert (batch.sample_count, batch.target_count, batch.token_count, batch.padded_tokens) == (3, 3, 9, 12)
    assert bool((batch.input_ids.flatten()[batch.positions_N] == CLS).all())


@pytest.mark.parametrize("columns", [(), (2,)], ids=["one target", "two targets"])
def test_zero_weight_keeps_the_shapes(tokenizer: BertTokenizerFast, columns: tuple[int, ...]) -> None:
    numbers = sequence_targets(inputs_of(tokenizer), np.ones((3, *columns), np.float32))
    classes = token_targets(inputs_of(tokenizer), MASK_BT, np.ones((3, 4, *columns), np.int64))
    for full in (numbers, classes):
        batch = zero_weight(full)
        assert (batch.target_count, batch.token_count, batch.sample_count) == (0, 0, 3)
        assert batch.targets.shape == full.targets.shape and batch.targets.dtype == full.targets.dtype
        assert batch.inputs is full.inputs and torch.equal(batch.positions_N, full.positions_N)
    assert bool(zero_weight(numbers).targets.isnan().all())
    assert bool((zero_weight(classes).targets == IGNORE_INDEX).all())


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_targets_for_all_logits(tokenizer: BertTokenizerFast, kind: type) -> None:
    """A model as transformers has it gives logits for all tokens and padding, or one row per sequence."""
    nothing = np.nan if kind is np.float32 else IGNORE_INDEX
    predicted_BT = np.array([[0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]) == 1
    batch = token_targets(inputs_of(tokenizer), predicted_BT, np.arange(12).reshape(3, 4).astype(kind))
    inputs, targets = to_device(lay_out(batch, InputLayout()), torch.device("cpu"))
    expected = np.where(predicted_BT, np.arange(12).reshape(3, 4), nothing).astype(kind)
    np.testing.assert_array_equal(targets.values.numpy(), expected.flatten())
    np.testing.assert_array_equal(dense_targets(batch).numpy(), expected)
    assert targets.sample_ids_N[torch.from_numpy(predicted_BT.flatten())].tolist() == [0, 1, 1]
    assert targets.sample_count == 3 and set(inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    whole = sequence_targets(inputs_of(tokenizer), np.arange(3).astype(kind))
    _, targets = to_device(lay_out(whole, InputLayout(head="sequence")), torch.device("cpu"))
    assert torch.equal(targets.values, targets_of(whole).values) and targets.sample_ids_N.tolist() == [0, 1, 2]


def test_a_mask_that_masks_nothing_is_left_out(tokenizer: BertTokenizerFast) -> None:
    full = sequence_targets(padded_inputs(IDS_BT[1:2], MASK_BT[1:2], tokenizer), np.ones(1, np.int64))
    padded = sequence_targets(inputs_of(tokenizer), np.ones(3, np.int64))
    layout = InputLayout(head="sequence")
    assert set(lay_out(full, layout).inputs) == {"input_ids", "token_type_ids"}
    assert set(lay_out(padded, layout).inputs) == {"input_ids", "token_type_ids", "attention_mask"}
