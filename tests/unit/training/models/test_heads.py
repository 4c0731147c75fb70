"""Heads that transformers calls in ways of their own are called like those of classifiers."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from warmup.training.data.batching.packing import block_diagonal
from warmup.training.models.heads import set_output_biases, unify_head

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
IDS = torch.arange(1, 25).view(4, 6)
MASK = torch.arange(6) < torch.tensor([[6], [4], [3], [6]])


def make(auto_class: type, model_type: str) -> PreTrainedModel:
    torch.manual_seed(1)
    return auto_class.from_config(AutoConfig.for_model(model_type, **SMALL)).eval()


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "deberta-v2"])
def test_a_choice_scores_as_in_its_question(model_type: str) -> None:
    model = make(AutoModelForMultipleChoice, model_type)
    as_published = model(input_ids=IDS.view(2, 2, 6), attention_mask=MASK.view(2, 2, 6).long()).logits
    unify_head(model)
    again = model(input_ids=IDS.view(2, 2, 6), attention_mask=MASK.view(2, 2, 6).long()).logits
    flat = model(input_ids=IDS, attention_mask=MASK.long()).logits
    assert torch.equal(as_published, again) and flat.shape == (4, 1)
    torch.testing.assert_close(flat.view(2, 2), as_published)


def test_a_mask_of_four_dimensions_reaches_the_layers() -> None:
    """Two choices in one row, whose mask keeps them apart."""
    model = make(AutoModelForMultipleChoice, "bert")
    unify_head(model)
    segments = torch.tensor([[1, 1, 1, 2, 2, 2]])
    ids, positions = IDS[:1], torch.tensor([[0, 1, 2, 0, 1, 2]])
    packed = model(input_ids=ids, attention_mask=block_diagonal(segments), position_ids=positions).logits
    alone = model(input_ids=ids[:, :3], attention_mask=torch.ones(1, 3).long()).logits
    torch.testing.assert_close(packed, alone)


@pytest.mark.parametrize(("model_type", "name"), [
    ("bert", "classifier"), ("roberta", "classifier.out_proj"), ("distilbert", "classifier"),
])  # fmt: skip
def test_biases_of_the_outputs(model_type: str, name: str) -> None:
    torch.manual_seed(1)
    config = AutoConfig.for_model(model_type, num_labels=3, **SMALL)
    model = AutoModelForSequenceClassification.from_config(config)
    before = model.get_submodule(name).bias.tolist()
    set_output_biases(model, [f"{name}.weight"], [0.5, -1.0, 2.0])  # a loaded bias stays
    assert model.get_submodule(name).bias.tolist() == before
    for new_weights, biases in (([f"{name}.bias"], [0.5, -1.0, 2.0]), (["all"], [0.0, 1.5, 3.0])):
        set_output_biases(model, new_weights, biases)
        assert model.get_submodule(name).bias.tolist() == biases


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_scores_of_start_and_end_are_logits(model_type: str) -> None:
    model = make(AutoModelForQuestionAnswering, model_type)
    unify_head(model)
    output = model(input_ids=IDS, attention_mask=MASK.long())
    assert output.logits.shape == (4, 6, 2)
    assert torch.equal(output.logits[..., 0], output.start_logits)
    assert torch.equal(output.logits[..., 1], output.end_logits)
