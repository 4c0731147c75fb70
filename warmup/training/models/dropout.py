"""One rate for all the dropouts of a model, whatever its config calls them."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedConfig


def set_dropout(config: PreTrainedConfig, rate: float) -> None:
    """Set every dropout rate of a config, in place; those that leave out whole layers only to 0."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            set_dropout(value, rate)
        elif _is_rate(name, value) and (rate == 0 or "layer" not in name):
            setattr(config, name, rate)


def apply_dropout(model: nn.Module, rate: float) -> list[str]:
    """Set the dropout modules of a model, in place: a few have a rate that no field of the config sets.

    Returns:
        Names and rates of the dropouts that are plain numbers and have another rate still.
    """
    others = []
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = rate
            continue
        for name, value in vars(module).items():
            if value not in (None, rate) and "layer" not in name and _is_rate(name, value):
                others.append(f"{path}.{name} {value:g}")
    return others


def _is_rate(name: str, value: Any) -> bool:
    """True for a number, or for None, which stands for the rate of another field. A flag is no rate."""
    return "drop" in name and (value is None or (isinstance(value, int | float) and not isinstance(value, bool)))
