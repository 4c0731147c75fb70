"""How many tokens a model takes: asked of the model, and tried."""

from __future__ import annotations

import pytest
import torch
from model_families import small_config, small_model
from transformers import AutoModelForTokenClassification

from warmup.errors import UserError
from warmup.training.models.positions import empty_model, first_position, max_positions


@pytest.mark.parametrize(
    ("model_type", "first", "count"),
    [("bert", 0, 42), ("electra", 0, 42), ("deberta-v2", 0, 42), ("distilbert", 0, 42), ("layoutlm", 0, 42)]
    + [
        (name, 2, 40) for name in ("roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text", "longformer", "esm")
    ],
)
def test_the_longest_sample_fits_and_one_more_token_does_not(model_type: str, first: int, count: int) -> None:
    model = small_model(AutoModelForTokenClassification, model_type)
    assert (first_position(model), max_positions(model)) == (first, count)
    assert max_positions(empty_model(model.config, model_type)) == count
    assert model(input_ids=torch.full((1, count), 5)).logits.shape == (1, count, 2)
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        model(input_ids=torch.full((1, count + 1), 5))


def test_relative_positions_have_no_end() -> None:
    assert max_positions(small_model(AutoModelForTokenClassification, "xlnet")) is None


def test_a_config_of_which_no_model_can_be_built() -> None:
    config = small_config("bert", num_attention_heads=5)
    with pytest.raises(UserError, match=r"^--model: here cannot be built: [^\n]*hidden size"):
        empty_model(config, "here")
