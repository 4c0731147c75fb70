"""Small models of many families, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

HEADS = {
    "mlm": AutoModelForMaskedLM,
    "classification": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
}
MASKING = (
    "albert", "bert", "big_bird", "camembert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra",
    "ernie", "esm", "eurobert", "flaubert", "ibert", "layoutlm", "longformer", "luke", "megatron-bert", "mobilebert",
    "modernbert", "mpnet", "nomic_bert", "rembert", "roberta", "roc_bert", "roformer", "squeezebert", "xlm",
    "xlm-roberta",
)  # fmt: skip
"""Families whose attention masks padding."""

_SIZES = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=42,
    embedding_size=32, num_hidden_groups=1, dim=32, n_layers=2, n_heads=4, hidden_dim=64, emb_dim=32,
    d_model=32, n_layer=2, n_head=4, d_inner=64, n_embd=32, n_positions=42, attention_window=[8, 8],
)  # fmt: skip
_PADDING_1 = ("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta", "xlm-roberta")


def small_config(model_type: str, **changes: Any) -> Any:
    """A config of 200 tokens and 42 rows of position embeddings, of which RoBERTa and its kind use 40."""
    known = vars(CONFIG_MAPPING[model_type]())
    sizes = {name: value for name, value in _SIZES.items() if name in known}
    if model_type == "funnel":
        sizes = dict(block_sizes=[1, 1, 1], d_model=32, n_head=4, d_head=8, d_inner=64, num_decoder_layers=1)
    padding_id = 1 if model_type in _PADDING_1 else 0
    return CONFIG_MAPPING[model_type](**{"vocab_size": 200, "pad_token_id": padding_id} | sizes | changes)


def small_model(auto_class: Any, model_type: str, **changes: Any) -> PreTrainedModel:
    """A model of `small_config` whose weights are large enough for everything it reads to be seen in its logits."""
    torch.manual_seed(0)
    model = auto_class.from_config(small_config(model_type, **changes))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.normal_(std=0.2)
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
    return model
