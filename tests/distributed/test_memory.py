"""What a masked-only head saves: the logits of all places that nobody asks for."""

from __future__ import annotations

import resource

import torch
from harness import run_ranks
from transformers import AutoModelForMaskedLM, BertConfig

from warmup.training import batches, tasks
from warmup.training.reading import read_only_where_asked

VOCABULARY, ROWS, LENGTH = 30522, 16, 128


def _peak(rank: int, masked_only: bool) -> int:
    """Bytes at most, after one forward and backward pass of a model whose head is most of it."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 128}
    net = AutoModelForMaskedLM.from_config(BertConfig(vocab_size=VOCABULARY, **sizes))
    reading = read_only_where_asked(net, True, packs=True, masked_only=masked_only)
    ids = torch.randint(5, VOCABULARY, (ROWS, LENGTH))
    targets = torch.where(torch.rand(ids.shape) < 0.15, ids, batches.IGNORED)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    batch = batches.lay_out(batches.MicroBatch(inputs, targets, 1, ids.numel()), reading)
    inputs, targets = batches.on_device(batch, torch.device("cpu"))
    tasks.loss_sum(net(**inputs).logits, targets).backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_the_peak_is_lower_by_more_than_the_logits() -> None:
    peaks = {}
    for masked_only in (True, False):
        (rank,) = run_ranks(1, _peak, masked_only)
        assert rank.error is None
        peaks[masked_only] = rank.value
    logits = ROWS * LENGTH * VOCABULARY * 4
    assert peaks[False] - peaks[True] > logits
