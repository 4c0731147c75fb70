"""What a masked-only head saves: the logits at all positions where nothing is predicted."""

from __future__ import annotations

import resource

import torch
from harness import run_ranks
from transformers import AutoModelForMaskedLM, BertConfig

from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import to_device, token_targets
from warmup.training.models.partial_forward import install_partial_forward
from warmup.training.tasks.losses import cross_entropy_sum

VOCABULARY, ROWS, LENGTH = 30522, 16, 128


def _peak(rank: int, masked_only: bool) -> int:
    """Bytes at most, after one forward and backward pass of a model whose head is most of it."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 128}
    net = AutoModelForMaskedLM.from_config(BertConfig(vocab_size=VOCABULARY, **sizes))
    layout = install_partial_forward(net, "token", packed=True, masked_only=masked_only)
    ids = torch.randint(5, VOCABULARY, (ROWS, LENGTH))
    predicted = torch.rand(ids.shape) < 0.15
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    batch = lay_out(token_targets(inputs, predicted.numpy(), ids.numpy()), layout)
    inputs, targets = to_device(batch, torch.device("cpu"))
    cross_entropy_sum(net(**inputs).logits, targets).backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_the_peak_is_lower_by_more_than_the_logits() -> None:
    peaks = {}
    for masked_only in (True, False):
        (rank,) = run_ranks(1, _peak, masked_only)
        assert rank.error is None
        peaks[masked_only] = rank.value
    logits = ROWS * LENGTH * VOCABULARY * 4
    assert peaks[False] - peaks[True] > logits
