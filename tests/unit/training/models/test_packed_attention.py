"""Encoders of other families, packed: each sample attends as it does alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from equal_passes import HEADS, assert_equal_to_the_whole, ragged
from model_families import small_model
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import to_device
from warmup.training.models.packed_attention import packs
from warmup.training.models.partial_forward import install_partial_forward

AUTO_CLASSES: dict[str, Any] = {
    "MaskedLM": AutoModelForMaskedLM,
    "SequenceClassification": AutoModelForSequenceClassification,
    "TokenClassification": AutoModelForTokenClassification,
}
FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("albert", "data2vec-text", "deberta-v2", "distilbert", "ibert", "luke", "megatron-bert"), {}),
    **dict.fromkeys(("mpnet", "rembert", "roc_bert", "squeezebert"), {}),
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16},
    "eurobert": {"classifier_pooling": "bos"},
    "modernbert": {"local_attention": 8, "num_hidden_layers": 4},
}
DEBERTA_V3 = {
    "relative_attention": True, "position_buckets": 8, "pos_att_type": ["c2p", "p2c"], "share_att_key": True,
    "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0,
}  # fmt: skip
"""What microsoft/deberta-v3-base has in its config besides sizes, with fewer buckets."""


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_other_encoders_in_rows(family: str, kind: str) -> None:
    net = small_model(AUTO_CLASSES[kind], family, **FAMILIES[family]).eval()
    inputs, logits = assert_equal_to_the_whole(net, kind, packed=True, masked_only=True)
    assert tuple(inputs["input_ids"].shape) == (2, 54)
    assert logits.shape[:-1].numel() == (8 if HEADS[kind] == "sequence" else len(inputs["positions"]))


@pytest.mark.parametrize(("packed", "masked_only"), [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", ["albert", "deberta-v2", "modernbert", "mpnet"])  # one of each way to take a mask
def test_other_encoders_padded_or_whole(family: str, kind: str, packed: bool, masked_only: bool) -> None:
    net = small_model(AUTO_CLASSES[kind], family, **FAMILIES[family]).eval()
    inputs, logits = assert_equal_to_the_whole(net, kind, packed, masked_only)
    rows = (2, 54) if packed else (8, 30)
    assert tuple(inputs["input_ids"].shape) == rows
    read = len(inputs["positions"]) if masked_only else rows[0] * rows[1]
    assert logits.shape[:-1].numel() == (8 if HEADS[kind] == "sequence" else read)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "deberta"])
def test_weights_in_bf16(family: str) -> None:
    """As DeepSpeed holds them: the mask must not lift the scores to full precision. (DeBERTa's own code cannot.)"""
    net = small_model(AutoModelForSequenceClassification, family, **FAMILIES[family]).eval()
    batch = ragged(net, "SequenceClassification")
    expected = net(**batch.inputs).logits
    layout = install_partial_forward(net.bfloat16(), "sequence", packed=True, masked_only=True)
    inputs, _ = to_device(lay_out(batch, layout), torch.device("cpu"))
    logits = net(**inputs).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(
        logits.float().flatten(0, -2), expected, rtol=0.2, atol=0.2 * float(expected.abs().max())
    )


@pytest.mark.parametrize(
    ("family", "kind", "changes"),
    [("nomic_bert", "MaskedLM", {}), *(("deberta-v2", kind, DEBERTA_V3) for kind in HEADS)],
)
def test_relative_positions_are_those_within_a_sample(family: str, kind: str, changes: dict[str, Any]) -> None:
    net = small_model(AUTO_CLASSES[kind], family, **changes).eval()
    inputs, _ = assert_equal_to_the_whole(net, kind, packed=True, masked_only=True)
    assert tuple(inputs["input_ids"].shape) == (2, 54)


@pytest.mark.parametrize(
    ("family", "changes"),
    [("deberta-v2", {"conv_kernel_size": 3}), ("modernbert", {"classifier_pooling": "mean"})]
    + [("eurobert", {"classifier_pooling": "late"}), ("longformer", {}), ("roformer", {}), ("nomic_bert", {})],
)
def test_encoders_that_look_beyond_a_token_elsewhere_are_padded(family: str, changes: dict[str, Any]) -> None:
    """By a convolution over neighbours, the mean of all tokens, windows of rows, positions of rows; or whose pooler
    cannot be told where to read.
    """
    net = small_model(AutoModelForSequenceClassification, family, **changes).eval()
    assert not packs(net, "sequence")
    assert not install_partial_forward(net, "sequence", packed=True, masked_only=True).rows
