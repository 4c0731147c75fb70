"""Output layers of models: their first biases, and rows that a GPU multiplies well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

_ALIGNED = 64
"""Tensor cores are at their best where rows have a multiple of 128 bytes, which are 64 numbers of 16 bits. (NVIDIA,
"Matrix Multiplication Background User's Guide", section "Requirements to Use Tensor Cores")"""


def set_output_biases(model: PreTrainedModel, new_weights: Sequence[str], biases: Sequence[float]) -> None:
    """Set the biases of the head's outputs, if it has any and they are new.

    Args:
        model: is changed in place.
        new_weights: as `build_model` returned them.
        biases: of the outputs, in order.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    name, output = next(((n, layer) for n, layer in reversed(layers) if layer.out_features == len(biases)), ("", None))
    if output is not None and output.bias is not None and {"all", f"{name}.bias"}.intersection(new_weights):
        with torch.no_grad():
            output.bias.copy_(torch.tensor(biases))


def align_output_rows(model: PreTrainedModel) -> None:
    """On a GPU, let the output layer of a language model multiply by rows of zeros too, up to a multiple of 64.

    The rows are part of the product alone: no weight grows, and their logits are cut off again. (In a weight they would
    be part of the exported model, where transformers gives them probability; and optimizers that look at a whole weight
    would see them.) The copy of bert-base's weight moves 94 MB in bf16, for which an H100 needs 0.04 ms.

    Args:
        model: on the device that it computes on. A layer that computes something else than a product is left as it is.
    """
    layer: Any = model.get_output_embeddings()
    if type(layer) is torch.nn.Linear and layer.out_features % _ALIGNED and model.device.type == "cuda":
        _multiply_aligned(layer)


def _multiply_aligned(layer: Any) -> None:
    rows, missing = layer.out_features, -layer.out_features % _ALIGNED

    def pad(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        tensor = tensor.to(dtype)
        return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        device, weight, bias = hidden.device.type, layer.weight, layer.bias
        # As autocast would cast it, but before it is copied: that moves half as many bytes.
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        padded_bias = None if bias is None else pad(bias, dtype)
        return F.linear(hidden, pad(weight, dtype), padded_bias)[..., :rows]

    layer.forward = forward
