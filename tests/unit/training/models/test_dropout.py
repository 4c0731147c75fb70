"""A dropout rate reaches every dropout of a model."""

from __future__ import annotations

import pytest
import torch
from model_families import HEADS, MASKING, small_config, small_model
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from warmup.training.models.dropout import apply_dropout, set_dropout


@pytest.mark.parametrize("model_type", MASKING)
def test_no_dropout_means_no_randomness(model_type: str) -> None:
    config = small_config(model_type)
    set_dropout(config, 0.0)
    ids_BT = torch.randint(2, 200, (2, 16))
    for auto_class in HEADS.values():
        model = auto_class.from_config(config).train()
        assert apply_dropout(model, 0.0) == []
        assert torch.equal(model(input_ids=ids_BT).logits, model(input_ids=ids_BT).logits)


@pytest.mark.parametrize(
    ("model_type", "field"),
    [("albert", "classifier_dropout_prob"), ("rembert", "classifier_dropout_prob"), ("deberta-v2", "pooler_dropout")]
    + [("electra", "summary_last_dropout"), ("funnel", "activation_dropout"), ("bert", "classifier_dropout")],
)
def test_every_field_is_set(model_type: str, field: str) -> None:
    config = small_config(model_type)
    set_dropout(config, 0.25)
    assert getattr(config, field) == 0.25


def test_whole_layers_are_left_out_only_as_the_model_says() -> None:
    config = small_config("flaubert", layerdrop=0.1)
    set_dropout(config, 0.3)
    assert (config.dropout, config.layerdrop) == (0.3, 0.1)
    set_dropout(config, 0.0)
    assert (config.dropout, config.layerdrop) == (0.0, 0.0)


def test_a_flag_is_no_rate() -> None:
    config = small_config("esm", token_dropout=True)
    set_dropout(config, 0.3)
    assert config.token_dropout is True


def test_a_dropout_that_no_field_sets() -> None:
    """The one before GPT-2's head for tokens."""
    config = small_config("gpt2")
    set_dropout(config, 0.3)
    model = AutoModelForTokenClassification.from_config(config)
    assert model.dropout.p == 0.1
    assert apply_dropout(model, 0.3) == [] and model.dropout.p == 0.3


def test_a_dropout_that_cannot_be_set_is_named() -> None:
    model = small_model(AutoModelForSequenceClassification, "bert")
    model.classifier.drop_rate = 0.2
    assert apply_dropout(model, 0.0) == ["classifier.drop_rate 0.2"]
