"""WarmupScheduler: puts a plan's learning rate on any torch optimizer."""

from __future__ import annotations

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from warmup.plan import Plan


class WarmupScheduler(LRScheduler):
    """Sets the rate of every parameter group to the plan's, as a pure function of the samples of applied steps.

    It counts the optimizer's applied steps itself, after each `optimizer.step()`, and sets the next rate there.
    `.step()` only sets the same rate again, so it may be called never, once, or once per process. Steps that a
    gradient scaler skips do not count.

    A group's share of the rate is `group["lr_ratio"]` if it is there, else its own lr over the optimizer's default
    lr, as found when the scheduler is made. The rates themselves come from the plan alone.

    Args:
        optimizer: a torch optimizer, or one that Accelerate prepared.
        plan: what `make_plan` returned. One applied step is `plan.global_batch_size` samples.
        counts: False where `seek` alone sets the position. DeepSpeed's ZeRO needs that: it calls the optimizer's step
            once for each parameter group.
    """

    def __init__(self, optimizer: Optimizer, plan: Plan, counts: bool = True):
        while isinstance(getattr(optimizer, "optimizer", None), Optimizer):  # Accelerate's wrapper
            optimizer = optimizer.optimizer
        self.plan = plan
        self.samples = 0
        self._ratios = [self._share(optimizer, group) for group in optimizer.param_groups]
        if counts:
            optimizer.register_step_post_hook(self._count)
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        """Set the rate of the current position again. Changes nothing where nothing was trained in between."""
        self.last_epoch = self.samples // self.plan.global_batch_size
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def get_lr(self) -> list[float]:
        """The rate of the next step, one for each parameter group."""
        groups = self.optimizer.param_groups
        self._ratios += [self._share(self.optimizer, group) for group in groups[len(self._ratios) :]]  # added since
        # Written down again each time: loading a state that another optimizer saved takes it away.
        shares = [group.setdefault("lr_ratio", ratio) for group, ratio in zip(groups, self._ratios, strict=True)]
        return [self.plan.lr_at(self.samples, share) for share in shares]

    @staticmethod
    def _share(optimizer: Optimizer, group: dict) -> float:
        """What a group's rate is of the optimizer's."""
        default = float(optimizer.defaults.get("lr", 0.0))
        own = float(group.get("initial_lr", group["lr"]))  # the first, where it was scheduled before
        return group.get("lr_ratio", own / default if default else 1.0)

    def seek(self, samples: int) -> None:
        """Go to a position: `samples` samples of applied steps."""
        self.samples = samples
        self.step()

    def state_dict(self) -> dict:
        """The position alone: the rate follows from the plan."""
        return {"samples": self.samples}

    def load_state_dict(self, state: dict) -> None:
        self.seek(state["samples"])

    def _count(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        # A fused optimizer under a gradient scaler is called for skipped steps too, and skips inside its kernel.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None or not bool(found_inf):
            self.seek(self.samples + self.plan.global_batch_size)
