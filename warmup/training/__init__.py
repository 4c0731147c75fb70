"""What train.py puts together. Its modules are imported when they are used, so that --help does not import torch."""

from __future__ import annotations

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    if name.startswith("_"):
        raise AttributeError(name)
    return importlib.import_module(f"warmup.training.{name}")
