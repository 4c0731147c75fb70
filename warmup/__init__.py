"""Learning-rate warmup that scales with the world size: the public API. Modules are imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmup.clock import RanksDisagree, StepClock
    from warmup.config import Config
    from warmup.config.recipe import Recipe
    from warmup.config.run import Batch, Elastic
    from warmup.duration import DataSize
    from warmup.elastic import LRSchedule, replan
    from warmup.errors import PlanError, UserError
    from warmup.explain import explain_plan
    from warmup.lint import Finding, examine
    from warmup.plan import Plan, Topology
    from warmup.planning import make_plan
    from warmup.presets import PRESETS
    from warmup.scheduler import LRFunction, WarmupScheduler

_NAMES = {
    "clock": ("RanksDisagree", "StepClock"),
    "config": ("Config",),
    "config.recipe": ("Recipe",),
    "config.run": ("Batch", "Elastic"),
    "duration": ("DataSize",),
    "elastic": ("LRSchedule", "replan"),
    "errors": ("PlanError", "UserError"),
    "explain": ("explain_plan",),
    "lint": ("Finding", "examine"),
    "plan": ("Plan", "Topology"),
    "planning": ("make_plan",),
    "presets": ("PRESETS",),
    "scheduler": ("LRFunction", "WarmupScheduler"),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
__all__ = [
    "PRESETS",
    "Batch",
    "Config",
    "DataSize",
    "Elastic",
    "Finding",
    "LRFunction",
    "LRSchedule",
    "Plan",
    "PlanError",
    "RanksDisagree",
    "Recipe",
    "StepClock",
    "Topology",
    "UserError",
    "WarmupScheduler",
    "examine",
    "explain_plan",
    "make_plan",
    "replan",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562), so that planning does not import torch."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'warmup' has no attribute {name!r}")
    return getattr(importlib.import_module(f"warmup.{_MODULE_OF[name]}"), name)
