"""DeepSpeed and FSDP2 on gloo ranks, as a launcher would have requested them."""

from __future__ import annotations

from collections.abc import Callable


def zero(stage: int, **more: str) -> dict[str, str]:
    """What `accelerate launch` sets for a DeepSpeed configuration; stage 0: none, DistributedDataParallel."""
    if stage == 0:
        return {}
    return {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage),
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
        **more,
    }


def fsdp2(then: Callable[[int], None] = lambda rank: None) -> Callable[[int], None]:
    """For `before`: Accelerate believes that its launcher requested FSDP2, which it starts on GPUs only.

    Its state is set by hand, so that everything after that runs as it does on GPUs. `then` is called afterwards.
    """

    def before(rank: int) -> None:
        from accelerate import Accelerator
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

        from warmup.training.distributed import launch

        def create(**given: object) -> Accelerator:
            accelerator = Accelerator(**given)
            accelerator.state.distributed_type = DistributedType.FSDP
            accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
                fsdp_version=2, cpu_ram_efficient_loading=False
            )
            return accelerator

        launch.Accelerator = create
        then(rank)

    return before
