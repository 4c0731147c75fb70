"""Learning-rate warmup that scales with the world size. The public API; names are imported when they are used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmup.clock import RanksDisagree, StepClock
    from warmup.config import Batch, Config, Elastic, Recipe
    from warmup.elastic import Course, follow
    from warmup.lint import Finding, examine
    from warmup.plan import Plan, PlanError, Topology, make_plan
    from warmup.presets import PRESETS
    from warmup.scheduler import WarmupScheduler

_HOMES = {
    "clock": ("RanksDisagree", "StepClock"),
    "config": ("Batch", "Config", "Elastic", "Recipe"),
    "elastic": ("Course", "follow"),
    "lint": ("Finding", "examine"),
    "plan": ("Plan", "PlanError", "Topology", "make_plan"),
    "presets": ("PRESETS",),
    "scheduler": ("WarmupScheduler",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "PRESETS",
    "Batch",
    "Config",
    "Course",
    "Elastic",
    "Finding",
    "Plan",
    "PlanError",
    "RanksDisagree",
    "Recipe",
    "StepClock",
    "Topology",
    "WarmupScheduler",
    "examine",
    "follow",
    "make_plan",
]


def __getattr__(name: str) -> object:
    """PEP 562: so that planning does not import torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'warmup' has no attribute {name!r}")
    return getattr(importlib.import_module(f"warmup.{_HOME_OF[name]}"), name)
