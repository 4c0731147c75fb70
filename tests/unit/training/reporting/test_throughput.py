"""The FLOPs of a step against published counts, and the metrics of the throughput meter."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, BertConfig, DistilBertConfig

from warmup import StepClock
from warmup.training.models.flops import peak_flops, useful_flops
from warmup.training.reporting import throughput


def bert(**fields) -> BertConfig:
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 256}
    return BertConfig(**sizes | {"vocab_size": 500} | fields)


@given(st.lists(st.integers(2, 512), min_size=1, max_size=20), st.integers(1, 24), st.sampled_from([128, 384, 768]))
def test_with_all_positions_predicted_it_is_the_published_count(lengths: list[int], layers: int, width: int) -> None:
    """6 L (4 d^2 + 2 d f) + 12 L d S + 6 (d^2 + d V) per token, as in Narayanan et al. 2021 (arXiv:2104.04473,
    equation 3, without the recomputation): 72 L d^2 (1 + S / 6 d) + 6 d V per token for f = 4 d, and
    BERT's d x d head beside it.
    """
    sizes = np.array([lengths[0]] * len(lengths))
    config = bert(hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width)
    per_token = 72 * layers * width**2 * (1 + lengths[0] / (6 * width)) + 6 * width * 30522 + 6 * width**2
    counted = useful_flops(config, sizes, int(sizes.sum()), 30522)
    assert counted == pytest.approx(per_token * sizes.sum(), rel=1e-12)


def test_it_is_what_torch_counts() -> None:
    """torch.utils.flop_counter counts the matrix products of a real model, without embeddings and element-wise work."""
    model = AutoModelForMaskedLM.from_config(bert(attention_probs_dropout_prob=0.0), attn_implementation="eager")
    ids = torch.randint(5, 500, (4, 32))
    with FlopCounterMode(display=False) as counter:
        model(ids).logits.sum().backward()
    ours = useful_flops(model.config, np.full(4, 32), 4 * 32, 500)
    assert counter.get_total_flops() == pytest.approx(ours, rel=1e-6)


def test_with_fewer_positions_predicted_fewer_are_useful() -> None:
    """In one layer: keys and values of all tokens; everything else, and the head, of 10 of them."""
    lengths, width, inner, classes = np.array([30, 50]), 64, 256, 500
    counted = useful_flops(bert(num_hidden_layers=1), lengths, 10, classes)
    keys_and_values = 80 * 2 * 2 * width**2
    others = 10 * (2 * 2 * width**2 + 2 * 2 * width * inner + 4 * width * (30**2 + 50**2) / 80)
    head = 10 * 2 * (width**2 + width * classes)
    assert counted == pytest.approx(3 * (keys_and_values + others + head), rel=1e-12)


def test_other_architectures_are_not_guessed() -> None:
    assert useful_flops(DistilBertConfig(), np.array([5]), 1, 2) is None


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA RTX A6000", 154.8e12),
        ("NVIDIA GeForce RTX 3090", 71e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce GTX 970", None),
    ],
)
def test_devices(name: str, flops: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), "bf16") == flops
    assert peak_flops(torch.device("cuda"), "fp16") == flops
    assert peak_flops(torch.device("cuda"), "no") is None
    assert peak_flops(torch.device("cpu"), "bf16") is None


@pytest.mark.parametrize(("name", "flops"), [("Tesla T4", 65e12), ("Tesla V100-SXM2-16GB", 125e12)])
def test_devices_without_bf16(name: str, flops: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), "fp16") == flops
    assert peak_flops(torch.device("cuda"), "bf16") is None


def test_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of 4 s in all, 1 s of it waiting for data; then one step of 2 s, after an evaluation."""
    now = [100.0]
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    clock = StepClock(batch_size=2, num_samples=100)
    clock.advance(tokens=1000)
    meter = throughput.ThroughputMeter(torch.nn.Linear(1, 1), bert(), num_classes=500, world_size=2, peak_flops=1e9)
    meter.restart(clock)
    for _ in range(2):
        with meter.waiting_for_data():
            now[0] += 0.5
        now[0] += 1.5
        meter.add(np.array([10, 20]), targets=4, padded_tokens=40)
        clock.advance(tokens=30)
    flops = 2 * useful_flops(bert(), np.array([10, 20]), 4, 500)
    metrics = meter.read(clock)
    assert metrics.pop("peak_memory_bytes") > 2**20
    assert metrics == {
        "seconds": 4.0,
        "samples_per_second": 1.0,
        "tokens_per_second": 15.0,
        "padding_share": 0.25,
        "data_wait_share": 0.25,
        "communication_share": None,
        "flops_per_second": flops / 4,
        "mfu": flops / 4 / 2e9,
    }
    now[0] += 1000
    meter.restart(clock)
    now[0] += 2
    meter.add(np.array([10, 20]), targets=4, padded_tokens=30)
    clock.advance(tokens=30)
    metrics = meter.read(clock)
    assert (metrics["samples_per_second"], metrics["padding_share"], metrics["data_wait_share"]) == (1.0, 0.0, 0.0)
    meter.add(np.array([10, 20]), targets=4, padded_tokens=40)
    clock.advance(tokens=30, applied=False)
    metrics = meter.read(clock)  # a skipped step trains on nothing, but its padding counts
    assert (metrics["samples_per_second"], metrics["tokens_per_second"], metrics["padding_share"]) == (0.0, 0.0, 0.25)


def test_an_architecture_without_a_count_has_no_rate() -> None:
    clock = StepClock(batch_size=2)
    meter = throughput.ThroughputMeter(
        torch.nn.Linear(1, 1), DistilBertConfig(), num_classes=2, world_size=1, peak_flops=1e12
    )
    meter.add(np.array([10, 20]), targets=2, padded_tokens=30)
    metrics = meter.read(clock)
    assert (metrics["flops_per_second"], metrics["mfu"]) == (None, None)


def test_a_classifier_reads_one_position_of_each_sample() -> None:
    """Its pooler counts as the d x d head. With one token per sample, torch counts no position that is not read."""
    model = AutoModelForSequenceClassification.from_config(bert(num_hidden_layers=1), attn_implementation="eager")
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(5, 500, (4, 1))).logits.sum().backward()
    ours = useful_flops(model.config, np.ones(4), 4, 2)
    assert counter.get_total_flops() == pytest.approx(ours, rel=1e-6)
