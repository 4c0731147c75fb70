"""DeepSpeed's ZeRO: optimizer state (stage 1), gradients (2) and weights (3) lie in parts on the ranks.

DeepSpeed divides, sums, clips and updates; the learning rate, the counting and the checkpoints stay with the plan.
Rajbhandari et al. 2020 (arXiv:1910.02054).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn
from torch.optim import Optimizer

from warmup.errors import UserError
from warmup.plan import Plan
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.data.batching.prefetcher import RankBatch
from warmup.training.engines.ddp import NamedTensors, read_optimizer_state, saved_tensors
from warmup.training.engines.optimizers import check_shardable


def complete_config(config: dict, plan: Plan) -> dict:
    """A DeepSpeed configuration with the plan's numbers. Raises UserError where it says otherwise."""
    for name, owner in (("scheduler", "the plan sets the learning rate"), ("optimizer", "recipe.optimizer names it")):
        if name in config:
            raise UserError(f"DeepSpeed configuration: {name}: {owner}; take it out")
    if config.get("fp16", {}).get("enabled") is True:
        raise UserError("DeepSpeed configuration: fp16 is not supported; use bf16 on GPUs that have it, or neither")
    numbers = {
        "train_micro_batch_size_per_gpu": plan.per_device_batch_size,
        "gradient_accumulation_steps": plan.accumulation,
        "train_batch_size": plan.per_device_batch_size * plan.accumulation * plan.world_size,
        "gradient_clipping": plan.max_grad_norm,
    }
    for name, value in numbers.items():
        if config.get(name, "auto") not in ("auto", value):
            raise UserError(
                f"DeepSpeed configuration: {name} is {config[name]} and {value} by the plan; take it out, or set auto"
            )
    config = config | numbers
    # Where state is kept in host memory, the recipe's own optimizer updates it; DeepSpeed's would be compiled first.
    config["zero_force_ds_cpu_optimizer"] = False
    if config.get("bf16", {}).get("enabled") is True:
        config["bf16"] = config["bf16"] | {"check_grad_overflow": True}  # else it applies a step that is not finite
    return config


class DeepSpeedEngine:
    """`engine.Engine` for ranks under DeepSpeed."""

    loss_scale = None

    def __init__(self, accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, plan: Plan):
        check_shardable(plan.optimizer, "DeepSpeed's ZeRO")
        config = accelerator.state.deepspeed_plugin.hf_ds_config.config
        config.update(complete_config(config, plan))
        accelerator.gradient_accumulation_steps = plan.accumulation
        self.accelerator, self.bare = accelerator, model
        self.gradient_parts = accelerator.num_processes * plan.accumulation  # it takes the mean over both
        self.model, _ = accelerator.prepare(model, optimizer)
        stage = self.model.zero_optimization_stage()
        self.name, self.together = f"DeepSpeed, ZeRO stage {stage}", stage == 3
        self.optimizer: Optimizer = self.model.optimizer.optimizer  # a given one, or its own for offloading

    @contextmanager
    def turn(self, last: bool) -> Iterator[None]:
        """Around the passes of one micro-batch. In the step's last one, ranks add up their gradients."""
        self.model.set_gradient_accumulation_boundary(is_boundary=last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        self.model.backward(loss)

    def exchange(self, share: RankBatch) -> None:
        """Nothing: `backward` does it."""

    def update(self, counts: torch.Tensor) -> tuple[list[float], float, bool]:
        """As `Engine.update`. A collective call."""
        self.model.step()
        return counts.tolist(), float(self.model.get_global_grad_norm()), self.model.was_step_applied()

    def state(self) -> dict:
        """As `Engine.state`: nothing."""
        return {}

    def settle(self, work: Callable[[], object]) -> None:
        """Do `work`, the passes of some micro-batch, and a step at rate 0, so that there is optimizer state to be set.

        Its passes leave nothing behind: the state is zero, as before a first step.
        """
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = 0.0
        work()
        self.model.step()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        parts = self.model.optimizer
        if hasattr(parts, "_hp_optimizer_states_linked"):
            # Stages 1 and 2 link weights to state after the first group's update, when the others have no state yet.
            parts._hp_optimizer_states_linked = False
            parts._lazy_init_hp_params_optimizer_state()
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()

    def tensors(self) -> NamedTensors:
        """Weights, in full precision, and optimizer state, put together from all ranks. A collective call."""
        from deepspeed.utils import safe_get_full_optimizer_state

        for name, tensor in saved_tensors(self.bare):
            yield checkpoint_format.MODEL, name, self._whole(tensor)
        parts, numbers = self._state_names()
        for name, parameter in self._trained():
            for what in parts:
                yield checkpoint_format.OPTIMIZER, f"{name}/{what}", safe_get_full_optimizer_state(parameter, what)
            for what, value in numbers.items():
                yield checkpoint_format.OPTIMIZER, f"{name}/{what}", value

    def weights(self) -> dict[str, torch.Tensor]:
        """All weights in host memory, as `save_pretrained` takes them. A collective call."""
        return {name: tensor.cpu() for file, name, tensor in self.tensors() if file == checkpoint_format.MODEL}

    def restore(self, folder: Path) -> None:
        """As `Engine.restore`; after `settle`. Where the model computes in bf16, the weights it keeps in full precision
        are taken too: those it was given were rounded.
        """
        saved, weights = (
            read_optimizer_state(folder / checkpoint_format.OPTIMIZER, self.bare),
            load_file(folder / checkpoint_format.MODEL),
        )
        parts, numbers = self._state_names()
        for name, parameter in self._trained():
            if parameter.dtype != torch.float32:
                self._set(parameter, weights[name], None)
            for what in parts:
                if what in saved.get(name, {}):
                    self._set(parameter, saved[name][what], what)
        for what in numbers:
            value = next((state[what] for state in saved.values() if what in state), torch.zeros(()))
            for state in self.optimizer.state.values():
                state[what].copy_(value)

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.bare.named_parameters() if parameter.requires_grad)

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """A weight put together from all ranks, in full precision where that is kept: not of frozen ones."""
        from deepspeed import utils, zero

        if tensor.requires_grad:
            return utils.safe_get_full_fp32_param(tensor)
        with zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
            return tensor.detach().clone()

    def _set(self, parameter: nn.Parameter, value: torch.Tensor, what: str | None) -> None:
        """Set what the ranks hold in parts: a weight's state of that name; its value in full precision for None."""
        from deepspeed import utils

        if not hasattr(parameter, "ds_id"):  # stage 1 or 2
            parameter.set_full_hp_param(value, what)
            return
        # The function for a whole value fails where the ranks do not divide it; then the last part is padded.
        size, rank = parameter.ds_tensor.numel(), self.accelerator.process_index
        padded = torch.zeros(size * self.accelerator.num_processes, dtype=value.dtype)
        padded[: value.numel()] = value.flatten()
        part = padded[size * rank : size * (rank + 1)]
        if what is None:
            utils.safe_set_local_fp32_param(parameter, part)
        else:
            utils.safe_set_local_optimizer_state(parameter, part, what)

    def _state_names(self) -> tuple[list[str], dict[str, torch.Tensor]]:
        """What the optimizer keeps: names of tensors that have a number for each weight, and single numbers."""
        state = next(iter(self.optimizer.state.values()), {})
        tensors = {what: value for what, value in state.items() if isinstance(value, torch.Tensor)}
        return [what for what, value in tensors.items() if value.ndim], {
            what: value for what, value in tensors.items() if not value.ndim
        }
