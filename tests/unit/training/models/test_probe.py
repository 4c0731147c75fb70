"""What two short texts tell of a model: whether it reads padding, and which weights get no gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_families import HEADS, MASKING, small_model
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

from warmup.errors import UserError
from warmup.training.models import probe


@pytest.mark.parametrize("model_type", MASKING)
def test_families_that_mask_padding(model_type: str) -> None:
    for auto_class in HEADS.values():
        probe.check_padding(small_model(auto_class, model_type), "some/model")


@pytest.mark.parametrize("model_type", MASKING)
def test_no_mask_is_a_mask_of_ones(model_type: str) -> None:
    """Batches without padding are given none, for which a GPU does not have to be read."""
    model = small_model(AutoModelForMaskedLM, model_type).eval()
    ids_BT = 2 + torch.arange(48).view(2, 24)
    with torch.inference_mode():
        without, ones = (
            model(input_ids=ids_BT, attention_mask=mask).logits for mask in (None, torch.ones_like(ids_BT))
        )
    torch.testing.assert_close(without, ones, rtol=1e-5, atol=1e-5 * float(ones.abs().max()))


@pytest.mark.parametrize(
    ("model_type", "heads"),
    [("fnet", HEADS), ("yoso", HEADS), ("funnel", HEADS), ("convbert", HEADS), ("nystromformer", HEADS)]
    + [("xlnet", ["classification"])],
)
def test_families_that_read_padding_are_refused(model_type: str, heads: Any) -> None:
    for head in heads:
        message = rf"^model: some/model \({model_type}\) reads the padding of a batch, so its training would depend on "
        with pytest.raises(UserError, match=message):
            probe.check_padding(small_model(HEADS[head], model_type), "some/model")


def test_xlnet_reads_no_padding_where_it_predicts_tokens() -> None:
    probe.check_padding(small_model(AutoModelForTokenClassification, "xlnet"), "xlnet")


def test_a_model_that_cannot_compute_a_text_says_why_in_one_line() -> None:
    model = small_model(AutoModelForSequenceClassification, "gpt2", pad_token_id=None)
    with pytest.raises(UserError, match=r"^model: gpt (\(gpt2\)) cannot compute a short text: ValueError: [^\n]+$"):
        probe.check_padding(model, "gpt")


@pytest.mark.parametrize(
    ("model_type", "head", "frozen"),
    [
        ("bert", "mlm", []),
        ("bert", "classification", []),
        ("longformer", "mlm", ["query_global", "key_global", "value_global"] * 2),
        ("longformer", "tokens", ["query_global", "key_global", "value_global"] * 2),
        ("longformer", "classification", []),
        ("big_bird", "mlm", ["pooler"]),
        ("layoutlm", "mlm", ["dense"]),
        ("layoutlm", "classification", []),
        ("squeezebert", "tokens", ["dense"]),
        ("esm", "mlm", ["regression"]),
    ],
)
def test_weights_without_a_gradient_are_frozen(model_type: str, head: str, frozen: list[str]) -> None:
    """Exactly those that get no gradient from the loss of a whole batch."""
    model = small_model(HEADS[head], model_type)
    names = probe.freeze_unused(model, model_type)
    assert [name.split(".")[-2] for name in names[::2]] == frozen
    assert names == [name for name, weight in model.named_parameters() if not weight.requires_grad]
    model.train()(input_ids=torch.randint(2, 200, (2, 32))).logits.square().sum().backward()
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained and all(model.get_parameter(name).grad is not None for name in trained)


def test_the_probe_leaves_no_trace() -> None:
    model = small_model(AutoModelForMaskedLM, "bert")
    weights, generator = {name: weight.clone() for name, weight in model.state_dict().items()}, torch.get_rng_state()
    probe.check_padding(model, "bert")
    assert probe.freeze_unused(model, "bert") == []
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    ("model_type", "changes", "takes"),
    [("bert", {}, True), ("bert", {"type_vocab_size": 1}, False), ("distilbert", {}, False), ("mpnet", {}, False)]
    + [("roberta", {"type_vocab_size": 1}, False), ("deberta-v2", {"type_vocab_size": 0}, False)],
)
def test_token_types(model_type: str, changes: dict[str, int], takes: bool) -> None:
    assert probe.takes_token_types(small_model(AutoModelForMaskedLM, model_type, **changes)) == takes
