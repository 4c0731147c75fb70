"""Learning-rate warmup that scales with the world size. The public API; names are imported when they are used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmup.clock import RanksDisagree, StepClock
    from warmup.config import Config
    from warmup.config.recipe import Recipe
    from warmup.config.run import Batch, Elastic
    from warmup.elastic import LRSchedule, replan
    from warmup.errors import PlanError, UserError
    from warmup.explain import explain_plan
    from warmup.lint import Finding, examine
    from warmup.plan import Plan, Topology
    from warmup.planning import make_plan
    from warmup.presets import PRESETS
    from warmup.scheduler import WarmupScheduler

_HOMES = {
    "clock": ("RanksDisagree", "StepClock"),
    "config": ("Config",),
    "config.recipe": ("Recipe",),
    "config.run": ("Batch", "Elastic"),
    "elastic": ("LRSchedule", "replan"),
    "errors": ("PlanError", "UserError"),
    "explain": ("explain_plan",),
    "lint": ("Finding", "examine"),
    "plan": ("Plan", "Topology"),
    "planning": ("make_plan",),
    "presets": ("PRESETS",),
    "scheduler": ("WarmupScheduler",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "PRESETS",
    "Batch",
    "Config",
    "Elastic",
    "Finding",
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
    """PEP 562: so that planning does not import torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'warmup' has no attribute {name!r}")
    return getattr(importlib.import_module(f"warmup.{_HOME_OF[name]}"), name)
