"""DeepSpeed's ZeRO: each rank holds a part of the optimizer state (stage 1), the gradients (2) and the weights (3).

DeepSpeed shards, reduces, clips and updates. The learning rate, the counting of steps and the checkpoints stay with
this project. Rajbhandari et al. 2020 (arXiv:1910.02054).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from warmup.errors import UserError
from warmup.plan import Plan
from warmup.training.data.batching.prefetcher import RankBatch
from warmup.training.engines.ddp import NamedTensors, OptimizerState, saved_tensors
from warmup.training.engines.optimizers import check_shardable


def complete_config(config: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """A DeepSpeed configuration with the plan's numbers. Raises UserError where it contradicts the plan."""
    for name, owner in (("scheduler", "the plan sets the learning rate"), ("optimizer", "recipe.optimizer names it")):
        if name in config:
            raise UserError(f"DeepSpeed configuration: {name}: {owner}; take it out")
    if config.get("fp16", {}).get("enabled") is True:
        raise UserError("DeepSpeed configuration: fp16 is not supported; use bf16 on GPUs that have it, or neither")
    numbers: dict[str, Any] = {
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
    # Where state is kept in host memory, the recipe's own optimizer updates it: DeepSpeed's needs a compiler.
    config["zero_force_ds_cpu_optimizer"] = False
    if config.get("bf16", {}).get("enabled") is True:
        config["bf16"] = config["bf16"] | {"check_grad_overflow": True}  # otherwise it applies non-finite gradients
    return config


class DeepSpeedEngine:
    """Implements `Engine` for ranks under DeepSpeed."""

    loss_scale: float | None = None

    def __init__(self, accelerator: Accelerator, model: PreTrainedModel, optimizer: Optimizer, plan: Plan):
        check_shardable(plan.optimizer, "DeepSpeed's ZeRO")
        config = accelerator.state.deepspeed_plugin.hf_ds_config.config
        config.update(complete_config(config, plan))
        accelerator.gradient_accumulation_steps = plan.accumulation
        self.accelerator, self.unwrapped_model = accelerator, model
        # DeepSpeed averages gradients over ranks and micro-batches.
        self.grad_divisor: int = accelerator.num_processes * plan.accumulation
        self.model, _ = accelerator.prepare(model, optimizer)
        self._stage: int = self.model.zero_optimization_stage()
        self.lockstep = self._stage == 3
        self.optimizer: Optimizer = self.model.optimizer.optimizer  # the given one, or DeepSpeed's for offloading

    @property
    def name(self) -> str:
        return f"DeepSpeed, ZeRO stage {self._stage}"

    @property
    def restores_weights(self) -> bool:
        """Where the model computes in bf16: the master weights in full precision are not those that it holds."""
        return any(parameter.dtype != torch.float32 for _, parameter in self._trained())

    @contextmanager
    def micro_batch_context(self, last: bool) -> Iterator[None]:
        self.model.set_gradient_accumulation_boundary(is_boundary=last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        self.model.backward(loss)

    def reduce_sparse_grads(self, rank_batch: RankBatch) -> None:
        """Does nothing: `backward` reduces all gradients."""

    def update(self, counts: torch.Tensor) -> tuple[list[float], float, bool]:
        self.model.step()
        return counts.tolist(), float(self.model.get_global_grad_norm()), self.model.was_step_applied()

    def state(self) -> dict[str, Any]:
        return {}

    def warm_up_passes(self, run_passes: Callable[[], object]) -> None:
        """Run the passes and a step at rate 0, which creates the optimizer state that `restore` sets.

        The state is set to zero again, as it is before the first step.
        """
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = 0.0
        run_passes()
        self.model.step()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        zero_optimizer = self.model.optimizer
        if hasattr(zero_optimizer, "_hp_optimizer_states_linked"):
            # Stages 1 and 2 link weights to state after the update of the first group, before the others have any.
            zero_optimizer._hp_optimizer_states_linked = False
            zero_optimizer._lazy_init_hp_params_optimizer_state()
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()

    def tensors(self) -> NamedTensors:
        """As `Engine.tensors`; the weights in full precision."""
        from deepspeed.utils import safe_get_full_optimizer_state

        for name, tensor in saved_tensors(self.unwrapped_model):
            yield "model", name, self._full_tensor(tensor)
        kinds, scalars = self._state_kinds()
        for name, parameter in self._trained():
            for kind in kinds:
                yield "optimizer", f"{name}/{kind}", safe_get_full_optimizer_state(parameter, kind)
            for kind, value in scalars.items():
                yield "optimizer", f"{name}/{kind}", value

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.cpu() for part, name, tensor in self.tensors() if part == "model"}

    def restore(
        self, weights: Mapping[str, torch.Tensor], optimizer_state: OptimizerState, state: Mapping[str, Any]
    ) -> None:
        kinds, scalars = self._state_kinds()
        for name, parameter in self._trained():
            if parameter.dtype != torch.float32:
                self._set_full(parameter, weights[name], None)
            for kind in kinds:
                if kind in optimizer_state.get(name, {}):
                    self._set_full(parameter, optimizer_state[name][kind], kind)
        for kind in scalars:
            value = next((saved[kind] for saved in optimizer_state.values() if kind in saved), torch.zeros(()))
            for own in self.optimizer.state.values():
                own[kind].copy_(value)

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that are not frozen, by name."""
        named = self.unwrapped_model.named_parameters()
        return ((name, parameter) for name, parameter in named if parameter.requires_grad)

    def _full_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The whole weight, gathered from all ranks: in full precision unless it is frozen."""
        from deepspeed import utils, zero

        if tensor.requires_grad:
            return utils.safe_get_full_fp32_param(tensor)
        with zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
            return tensor.detach().clone()

    def _set_full(self, parameter: Any, value: torch.Tensor, kind: str | None) -> None:
        """Set what the ranks hold parts of.

        Args:
            parameter: a parameter to which DeepSpeed has added attributes.
            value: the whole tensor.
            kind: the kind of optimizer state to set; None for the weight itself in full precision.
        """
        from deepspeed import utils

        if not hasattr(parameter, "ds_id"):  # stage 1 or 2
            parameter.set_full_hp_param(value, kind)
            return
        # safe_set_full_optimizer_state fails if the weight cannot be divided evenly; the last part is then padded.
        size, rank = parameter.ds_tensor.numel(), self.accelerator.process_index
        padded = torch.zeros(size * self.accelerator.num_processes, dtype=value.dtype)
        padded[: value.numel()] = value.flatten()
        local = padded[size * rank : size * (rank + 1)]
        if kind is None:
            utils.safe_set_local_fp32_param(parameter, local)
        else:
            utils.safe_set_local_optimizer_state(parameter, local, kind)

    def _state_kinds(self) -> tuple[list[str], dict[str, torch.Tensor]]:
        """The kinds of optimizer state: names of tensors in the shape of their weight, and scalars by name."""
        state = next(iter(self.optimizer.state.values()), {})
        tensors = {kind: value for kind, value in state.items() if isinstance(value, torch.Tensor)}
        shaped = [kind for kind, value in tensors.items() if value.ndim]
        return shaped, {kind: value for kind, value in tensors.items() if not value.ndim}
