"""Floating-point operations that a training step needs, and the peak rate of the device."""

from __future__ import annotations

import re

import numpy as np
import torch
from transformers import PretrainedConfig

from warmup.training.models.input_layout import PACKED_ENCODERS

# Dense bf16 tensor-core FLOP/s, from NVIDIA's data sheets (without sparsity), by words of the device's own name; the
# first that is found.
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}


def useful_flops(config: PretrainedConfig, lengths: np.ndarray, reads: int, classes: int) -> float | None:
    """Forward and backward FLOPs that a step of a BERT or GPT-2 cannot do without; None for other architectures.

    Each token needs every layer but the last, of which it needs keys and values; `reads` tokens need the rest of it and
    a head of so many classes. A matrix product counts 2 per weight and token, and backward twice as much as forward
    (Kaplan et al. 2020, arXiv:2001.08361, section 2.1); attention 4 * width per token and token that it sees: all of
    its sample, in GPT-2 those up to it.
    """
    gpt2 = config.model_type == "gpt2"
    if config.model_type not in PACKED_ENCODERS and not gpt2:
        return None
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = (config.n_inner or 4 * width) if gpt2 else config.intermediate_size
    lengths = lengths.astype(np.float64)
    tokens, attended = lengths.sum(), (lengths * (lengths + 1) / 2 if gpt2 else lengths**2).sum()
    whole_layers = (layers - 1) * (tokens * (8 * width**2 + 4 * width * inner) + 4 * width * attended)
    last_layer = tokens * 4 * width**2
    last_layer += reads * (4 * width**2 + 4 * width * inner + 4 * width * attended / tokens)
    head = reads * (2 * width * classes + (0 if gpt2 else 2 * width**2))
    return float(3 * (whole_layers + last_layer + head))


def peak_flops(device: torch.device, precision: str) -> float | None:
    """What the device could do at most in bf16; None where that is not known, or another precision is used."""
    if device.type != "cuda" or precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for known, flops in PEAK_FLOPS.items() if re.search(rf"\b{known}\b", name)), None)
