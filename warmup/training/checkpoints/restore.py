"""Restoring an engine from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from warmup.errors import UserError
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.engines import Engine


def check_optimizer_state(model: nn.Module, checkpoint: Path) -> None:
    """Raise UserError if a checkpoint's optimizer state is of another model, without reading its tensors."""
    _check_names(checkpoint / checkpoint_format.OPTIMIZER, model)


def restore_engine(engine: Engine, checkpoint: Path) -> None:
    """Restore the optimizer state from a checkpoint, with whose weights the model was built. A collective call.

    Raises UserError if the checkpoint is of another model.
    """
    optimizer_state = _read_optimizer_state(checkpoint / checkpoint_format.OPTIMIZER, engine.unwrapped_model)
    weights = load_file(checkpoint / checkpoint_format.MODEL) if engine.restores_weights else {}
    engine.restore(weights, optimizer_state, checkpoint_format.read_state(checkpoint))


def _read_optimizer_state(file: Path, model: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """The optimizer state of each weight that is trained, by the weight's name and the kind of state.

    That of a weight which is frozen by now is dropped: it is not updated any more.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    states: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(file, "pt") as tensors:
        for name in _check_names(file, model):
            weight, _, kind = name.rpartition("/")
            if weight in trained:
                # In memory of its own, aligned like a fresh tensor: the same kernels run as in an uninterrupted run.
                states.setdefault(weight, {})[kind] = tensors.get_tensor(name).clone()
    return states


def _check_names(file: Path, model: nn.Module) -> list[str]:
    """The names of an optimizer's tensors. Raises UserError if one is of a weight that the model does not have."""
    try:
        with safe_open(file, "pt") as tensors:
            names = sorted(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    unknown = {name.rpartition("/")[0] for name in names} - {name for name, _ in model.named_parameters()}
    if unknown:
        raise UserError(f"{file} does not fit the model: only one of them has {min(unknown)}")
    return names
