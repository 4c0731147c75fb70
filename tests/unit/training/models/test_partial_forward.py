"""What is computed only where it is read, and packed: loss and gradients are those of transformers' own computation."""

from __future__ import annotations

import pytest
import torch
import transformers
from equal_passes import HEADS, LENGTHS, WORDS, assert_equal_to_the_whole, backward, ragged

from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import (
    to_device,
    zero_weight,
)
from warmup.training.models import varlen_attention
from warmup.training.models.partial_forward import install_partial_forward
from warmup.training.tasks.losses import cross_entropy_sum

SMALL = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 64}
MODELS = {
    "Bert": SMALL,
    "Roberta": SMALL,
    "Electra": {**SMALL, "embedding_size": 32},
}


IN_ROWS = ("Bert", "Roberta", "Electra", "Camembert", "XLMRoberta")


def network(name: str, kind: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    padding = {"pad_token_id": 1} if "ober" in name or "ember" in name else {}
    config = getattr(transformers, f"{name}Config")(**MODELS.get(name, SMALL), **padding)
    return getattr(transformers, f"{name}For{kind}")(config).eval()


@pytest.mark.parametrize("masked_only", [True, False], ids=["read", "dense"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", IN_ROWS)
def test_encoders_in_rows(name: str, kind: str, packed: bool, masked_only: bool) -> None:
    inputs, logits = assert_equal_to_the_whole(network(name, kind), kind, packed, masked_only)
    assert tuple(inputs["input_ids"].shape) == ((2, 54) if packed else (8, 30))
    if packed:
        assert (inputs["position_ids"].min() == 0) == (name in ("Bert", "Electra"))
    count = logits.shape[:-1].numel()
    if HEADS[kind] == "sequence":
        assert count == 8
    else:
        assert count == (inputs["gather_index"].numel() if masked_only else 108 if packed else 240)


@pytest.mark.parametrize("static_max_length", [0, 31], ids=["tight", "static"])
@pytest.mark.parametrize("masked_only", [True, False], ids=["read", "dense"])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", IN_ROWS)
def test_encoders_in_one_row(
    name: str, kind: str, masked_only: bool, static_max_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With masked attention in place of the GPU's kernel. Some samples have no target."""
    monkeypatch.setattr(varlen_attention, "kernel", varlen_attention.masked_attention)
    inputs, logits = assert_equal_to_the_whole(
        network(name, kind), kind, True, masked_only, varlen=True, static_max_length=static_max_length
    )
    assert "attention_mask" not in inputs
    assert tuple(inputs["input_ids"].shape) == (1, 112 if static_max_length else 106)
    assert inputs["cu_seqlens"].dtype == torch.int32 and int(inputs["cu_seqlens"].diff().min()) > 0
    assert inputs["cu_seqlens"].tolist()[:9] == [0, *LENGTHS.cumsum(0).tolist()]
    assert int(inputs["cu_seqlens"].diff().max()) <= inputs["max_seqlen"] == (static_max_length or 30)
    assert ("read_positions" in inputs) == (masked_only or HEADS[kind] == "sequence")
    if "read_positions" in inputs:
        assert int(inputs["read_cu_seqlens"].diff().min()) > 0  # a kernel may leave gradients of unread keys unwritten
        assert logits.shape[0] == inputs["read_positions"].numel() == int(inputs["read_cu_seqlens"][-1])


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("masked_only", [True, False], ids=["read", "dense"])
@pytest.mark.parametrize("kind", HEADS)
def test_encoders_in_rows_of_static_width(kind: str, masked_only: bool, packed: bool) -> None:
    inputs, _ = assert_equal_to_the_whole(network("Bert", kind), kind, packed, masked_only, static_max_length=31)
    assert tuple(inputs["input_ids"].shape) == ((4, 32) if packed else (8, 32))
    assert "gather_index" not in inputs


@pytest.mark.parametrize("masked_only", [True, False], ids=["read", "dense"])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", IN_ROWS)
def test_rows_of_one_whole_sample_need_no_mask(name: str, kind: str, masked_only: bool) -> None:
    """Which is what allows the fastest attention; a single shorter sample needs one again."""
    lengths_B = torch.full((8,), 30)
    inputs, _ = assert_equal_to_the_whole(network(name, kind), kind, True, masked_only, lengths_B)
    assert "attention_mask" not in inputs and tuple(inputs["input_ids"].shape) == (8, 30)
    lengths_B[3] = 29
    inputs, _ = assert_equal_to_the_whole(network(name, kind), kind, True, masked_only, lengths_B)
    assert tuple(inputs["attention_mask"].shape) == (8, 1, 30, 30)


@pytest.mark.parametrize("kind", HEADS)
def test_a_batch_without_targets_has_no_gradient(kind: str) -> None:
    """And all parameters take part, so that ranks that wait for each other's gradients do not wait for ever."""
    net = network("Bert", kind)
    batch = ragged(net, kind)
    layout = install_partial_forward(net, HEADS[kind], packed=True, masked_only=True)
    inputs, targets = to_device(zero_weight(lay_out(batch, layout)), torch.device("cpu"))
    loss = cross_entropy_sum(net(**inputs).logits, targets)
    gradients = backward(net, loss)
    assert float(loss.detach()) == 0.0
    assert gradients.keys() == {name for name, _ in net.named_parameters()}
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) == 0.0
