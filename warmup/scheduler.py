"""WarmupScheduler: sets a plan's learning rate on any torch optimizer."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


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
    gets its own lr / the optimizer's default lr, as they were when the scheduler was made.
    """

    def __init__(self, optimizer: Optimizer, lr_function: LRFunction, counts: bool = True):
        """
        Args:
            optimizer: a torch optimizer, or one that Accelerate prepared.
            lr_function: what `make_plan` or `replan` returned, or your own. An applied step is
                `lr_function.global_batch_size` samples.
            counts: whether to count steps; False if only `seek` sets the position. DeepSpeed's ZeRO needs that: it
                calls the optimizer's step once per parameter group.
        """
        optimizer = _unwrap(optimizer)
        self.lr_function = lr_function
        self.samples = 0
        self._lr_multipliers = [_lr_multiplier(optimizer, group) for group in optimizer.param_groups]
        if counts:
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
        groups = self.optimizer.param_groups
        added = groups[len(self._lr_multipliers) :]  # by add_param_group, since the scheduler was made
        self._lr_multipliers += [_lr_multiplier(self.optimizer, group) for group in added]
        return [
            # Set again each time: loading a state that was saved without it removes it from the group.
            self.lr_function.lr_at(self.samples, group.setdefault("lr_multiplier", lr_multiplier))
            for group, lr_multiplier in zip(groups, self._lr_multipliers, strict=True)
        ]

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


def _lr_multiplier(optimizer: Optimizer, group: dict[str, Any]) -> float:
    """A group's learning rate relative to the optimizer's."""
    default = float(optimizer.defaults.get("lr", 0.0))
    own = float(group.get("initial_lr", group["lr"]))  # before any other scheduler changed it
    return group.get("lr_multiplier", own / default if default else 1.0)
