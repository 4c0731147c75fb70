"""WarmupScheduler: sets a plan's learning rate on any torch optimizer."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from warmup.errors import UserError


class LRFunction(Protocol):
    """The learning rate as a function of the samples trained on. `Plan` and `LRSchedule` are such functions."""

    @property
    def global_batch_size(self) -> int:
        """Samples per step over all ranks."""
        ...

    def lr_at(self, samples: int, lr_multiplier: float = 1.0) -> float:
        """The learning rate of the step that starts after `samples` samples of applied steps.

        `lr_multiplier` is a parameter group's learning rate relative to that of the run.
        """
        ...


class WarmupScheduler(LRScheduler):
    """Sets the learning rate of every parameter group, as a pure function of the samples of applied steps.

    It counts the optimizer's applied steps itself, after each `optimizer.step()`, and sets the rate of the next step
    there. `.step()` only sets the same rate again, so it may be called never, once, or once per process. Steps that a
    gradient scaler skips do not count.

    The learning rate of a parameter group is that of the function times `group["lr_multiplier"]`. A group without one
    gets its own lr / the optimizer's default lr, as they were when the scheduler was made. A group that is added later
    gets 1, whatever its lr.

    Multipliers and rates are never taken from a loaded state: make the scheduler first, then load the optimizer's state
    and the scheduler's in any order.
    """

    def __init__(self, optimizer: Optimizer, lr_function: LRFunction, counts: bool = True):
        """
        Args:
            optimizer: a torch optimizer, or one that Accelerate prepared.
            lr_function: what `make_plan` or `replan` returned, or your own. An applied step is
                `lr_function.global_batch_size` samples.
            counts: whether to count steps; False if only `seek` sets the position. DeepSpeed's ZeRO needs that: it
                calls the optimizer's step once per parameter group.

        Raises:
            UserError: steps are to be counted and their batch grows (`batch.warmup`).
        """
        if counts and getattr(lr_function, "batch_warmup_steps", 0):
            raise UserError(
                "batch.warmup: the batches are those of your loop, so this scheduler cannot tell how many samples a "
                "step had; plan without batch.warmup, or give WarmupScheduler(..., counts=False), make batches of "
                "plan.batch_at(samples), and call seek(samples) after each step"
            )
        optimizer = _unwrap(optimizer)
        self.lr_function = lr_function
        self.samples = 0
        self._groups = list(optimizer.param_groups)  # as they were when the rates were last set
        for group in self._groups:
            group["lr_multiplier"] = _lr_multiplier(optimizer, group)
        _separate_tensors(self._groups)
        optimizer.register_load_state_dict_post_hook(lambda loaded: self.step())
        if counts:
            optimizer.register_step_pre_hook(self._prepare)
            optimizer.register_step_post_hook(self._count)
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        """Set the rate of the current position again. Changes nothing unless the position has changed."""
        self.last_epoch = self.samples // self.lr_function.global_batch_size
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def get_lr(self) -> list[float | Tensor]:
        """The learning rate of the next step for each parameter group, as floats."""
        self._adopt_groups()
        groups = self.optimizer.param_groups
        return [self.lr_function.lr_at(self.samples, group["lr_multiplier"]) for group in groups]

    def seek(self, samples: int) -> None:
        """Go to a position: `samples` samples of applied steps."""
        self.samples = samples
        self.step()

    def state_dict(self) -> dict[str, Any]:
        """The position alone: the rate follows from the plan."""
        return {"samples": self.samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the position of a state that `state_dict` returned."""
        self.seek(state_dict["samples"])

    def _adopt_groups(self) -> None:
        """Give groups that were loaded or added since the rates were last set their multipliers."""
        groups, before = self.optimizer.param_groups, self._groups
        if _same(groups, before):
            return
        self._groups = list(groups)
        added = [group for group in groups if not any(group is other for other in before)]
        if len(added) == len(groups) == len(before):  # loading a state replaces all groups
            for group, old in zip(groups, before, strict=True):
                group["lr_multiplier"] = old["lr_multiplier"]
        else:
            for group in added:
                self._adopt_added(group, before)
        _separate_tensors(groups)

    def _adopt_added(self, group: dict[str, Any], others: list[dict[str, Any]]) -> None:
        """Set the multiplier of a group that was added to `others`, unless it names one.

        Its lr says nothing: one that was given none has the optimizer's default, and one that is the current rate of
        the other groups would otherwise keep that share of the peak for good.
        """
        if "lr_multiplier" in group:
            return
        group["lr_multiplier"] = 1.0
        lr = float(group["lr"])
        usual = {float(other["lr"]) for other in others} | {float(self.optimizer.defaults.get("lr", lr))}
        if lr not in usual:
            warnings.warn(
                f"a parameter group was added with lr {lr:g}, which is not used: it follows the plan's rate; to scale "
                "that, give it an lr_multiplier",
                stacklevel=2,
            )

    def _prepare(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a step: set the rates of groups that are new."""
        if not _same(optimizer.param_groups, self._groups):
            self.step()

    def _count(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A gradient scaler calls a fused optimizer for skipped steps too; its kernel then does nothing.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None or not bool(found_inf):
            self.seek(self.samples + self.lr_function.global_batch_size)


def _unwrap(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside of Accelerate's wrappers."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def _same(groups: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """True if both lists hold the same objects."""
    return len(groups) == len(others) and all(a is b for a, b in zip(groups, others, strict=True))


def _separate_tensors(groups: list[dict[str, Any]]) -> None:
    """Give each group a tensor of its own as its rate: torch gives all groups the optimizer's default."""
    seen: list[Tensor] = []
    for group in groups:
        if isinstance(group["lr"], Tensor):
            if any(group["lr"] is tensor for tensor in seen):
                group["lr"] = group["lr"].clone()
            seen.append(group["lr"])


def _lr_multiplier(optimizer: Optimizer, group: dict[str, Any]) -> float:
    """A group's learning rate relative to the optimizer's."""
    default = float(optimizer.defaults.get("lr", 0.0))
    own = float(group.get("initial_lr", group["lr"]))  # before any other scheduler changed it
    return group.get("lr_multiplier", own / default if default else 1.0)
