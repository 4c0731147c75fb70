"""Optimizers by name, with the plan's numbers."""

from __future__ import annotations

from torch import nn, optim

from warmup.plan import Plan
from warmup.training.outcome import UserError


def refuse_unknown(name: str) -> None:
    """Raise UserError for an optimizer that `build` does not have."""
    if name == "lamb":
        raise UserError(f"recipe.optimizer: {name} can be planned for but not trained with; use adamw")


def build(model: nn.Module, plan: Plan) -> optim.Optimizer:
    """The plan's optimizer. Biases and norms (parameters with fewer than two dimensions) are not decayed.

    Fused kernels where torch has them: on CPUs too they are several times faster than the others.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": plan.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    lr = plan.peak_lr
    match plan.optimizer:
        case "adamw":
            return optim.AdamW(groups, lr=lr, betas=plan.betas, eps=plan.eps, fused=True)
        case "adam":
            return optim.Adam(groups, lr=lr, betas=plan.betas, eps=plan.eps, fused=True)
        case "sgd":
            return optim.SGD(groups, lr=lr, momentum=plan.momentum, fused=True)
        case "rmsprop":
            return optim.RMSprop(groups, lr=lr, alpha=plan.alpha, eps=plan.eps, momentum=plan.momentum)
    raise AssertionError(plan.optimizer)
