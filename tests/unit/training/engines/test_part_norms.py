"""What is measured of micro-batches in a model that stands still, against the gradients of all samples one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForSequenceClassification

from warmup.noise_scale import NoiseScale, PartSums
from warmup.training.engines.part_norms import PartNorms
from warmup.training.engines.sparse_embedding import sparse_embedding_grad

CONFIG = dict(vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
SAMPLES, STEPS = 200, 200


def loss_sum(model: torch.nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(input_ids=ids).logits, labels, reduction="sum")


def flat_gradient(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten().double() for parameter in model.parameters()])


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse embedding"])
def test_a_frozen_models_noise_scale_is_that_of_all_its_samples(sparse: bool) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**CONFIG)).eval()
    ids, labels = torch.randint(0, 60, (SAMPLES, 6)), (torch.rand(SAMPLES) < 0.8).long()
    every = []
    for index in range(SAMPLES):
        model.zero_grad()
        loss_sum(model, ids[index : index + 1], labels[index : index + 1]).backward()
        every.append(flat_gradient(model))
    gradients_ND = torch.stack(every)
    mean_D = gradients_ND.mean(0)
    expected = float((gradients_ND - mean_D).square().sum(1).mean() / (mean_D @ mean_D))

    model.zero_grad()
    embedding_grad = sparse_embedding_grad(model, torch.device("cpu")) if sparse else None
    average, random = NoiseScale(), np.random.default_rng(1)
    for _ in range(STEPS):
        parts = PartNorms(model)
        chosen = torch.from_numpy(random.integers(0, SAMPLES, 32))
        for members in chosen.split([3, 9, 8, 12]):
            with parts.part(len(members)):
                (loss_sum(model, ids[members], labels[members]) / 32).backward()
        sums = PartSums(*parts.over_ranks().tolist())
        average.add_step(float(flat_gradient(model).norm()), 32, 32, sums)
        model.zero_grad()
        if embedding_grad is not None:
            embedding_grad.clear(whole=True)
    found, low, high = average.estimate()
    assert found == pytest.approx(expected, rel=0.15), (found, low, high, expected)
    assert not any(parameter._backward_hooks for parameter in model.parameters())  # they cost time in other steps
