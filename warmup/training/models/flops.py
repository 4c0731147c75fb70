"""Floating-point operations (FLOPs) that a training step needs, and the peak rate of the device."""

from __future__ import annotations

import re

import numpy as np
import torch
from transformers import PretrainedConfig

from warmup.training.models.input_layout import PACKED_ENCODERS

# Dense tensor-core FLOP/s (without sparsity, accumulated in fp32), from NVIDIA's data sheets and white papers, by a
# part of the device's name. The first match counts.
PEAK_FLOPS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10": 125e12,
    "RTX A6000": 154.8e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 5090": 209.5e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""In bf16 and in fp16."""
PEAK_FLOPS_FP16 = {"V100-SXM2": 125e12, "V100-PCIE": 112e12, "T4": 65e12}
"""In fp16, of GPUs without bf16."""


def useful_flops(config: PretrainedConfig, lengths: np.ndarray, targets: int, classes: int) -> float | None:
    """The FLOPs of forward and backward that a step of a BERT or GPT-2 needs at least.

    Every token needs all layers but the last, and of the last one keys and values. Only the target positions need the
    rest of the last layer and the head. A matrix product takes 2 FLOPs per weight and token, and backward twice as much
    as forward (Kaplan et al. 2020, arXiv:2001.08361, section 2.1). Attention takes 4 * width per pair of tokens: each
    token attends to all of its sample, in GPT-2 to itself and those before it.

    Args:
        config: The model's config.
        lengths: Tokens of each sample of the step.
        targets: Number of target positions in the step.
        classes: Outputs of the head.

    Returns:
        The FLOPs, or None for other architectures.
    """
    gpt2 = config.model_type == "gpt2"
    if config.model_type not in PACKED_ENCODERS and not gpt2:
        return None
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = (config.n_inner or 4 * width) if gpt2 else config.intermediate_size
    lengths = lengths.astype(np.float64)
    tokens, attended_pairs = lengths.sum(), (lengths * (lengths + 1) / 2 if gpt2 else lengths**2).sum()
    full_layers = (layers - 1) * (tokens * (8 * width**2 + 4 * width * inner) + 4 * width * attended_pairs)
    last_layer = tokens * 4 * width**2
    last_layer += targets * (4 * width**2 + 4 * width * inner + 4 * width * attended_pairs / tokens)
    head = targets * (2 * width * classes + (0 if gpt2 else 2 * width**2))
    return float(3 * (full_layers + last_layer + head))


def peak_flops(device: torch.device, precision: str) -> float | None:
    """The device's peak FLOP/s in bf16 or fp16; None if it is not known, or another precision is used."""
    if device.type != "cuda" or precision not in ("bf16", "fp16"):
        return None
    name = torch.cuda.get_device_name(device)
    table = PEAK_FLOPS | (PEAK_FLOPS_FP16 if precision == "fp16" else {})
    return next((flops for part, flops in table.items() if re.search(rf"\b{part}\b", name)), None)
