"""On a real GPU every way trains the same: layouts, precisions, engines, a run that is resumed, and the CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import ROOT, free_port

BF16, FP32 = 1e-2, 1e-4
"""Relative differences of losses over 20 steps: bf16 has 8 bits; TF32, in which fp32 is multiplied, has 11."""
LAYOUTS = {
    "mask": (("--speed.attention", "mask"), "bf16"),
    "padded": (("--speed.packing", "false"), "bf16"),
    "compiled": (("--speed.compile", "true"), "bf16"),
    "recomputed": (("--speed.gradient_checkpointing", "true"), "bf16"),
    "fp16": ((), "fp16"),
    "fp32": ((), "no"),
}
ONE_RANK = dict(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
WRAPPED = "from accelerate import Accelerator; Accelerator.multi_device = property(lambda self: True)"
"""Has Accelerate wrap one rank in DistributedDataParallel too."""
ALONE = """
def refuse():
    raise RuntimeError("a context is opened on the GPU")
torch.cuda._lazy_init = refuse
"""
QUICKSTART = ("--config", "configs/quickstart_pretrain.yaml", "--recipe.duration", "40 steps", "--log.every", 10)


@pytest.fixture(scope="module")
def first() -> dict[str, list[float]]:
    """The losses that the others are compared with, by what they are of."""
    return {}


def compare(name: str, losses: list[float], expected: list[float], rel: float) -> None:
    largest = max(abs(ours / theirs - 1) for ours, theirs in zip(losses, expected, strict=True))
    print(f"\nPROBE {name}: losses differ by {largest:.1e} at most (allowed {rel:g}); the last is {losses[-1]:.5f}")
    assert largest < rel


def reference(first: dict[str, list[float]], train: Callable) -> list[float]:
    if "varlen" not in first:
        first["varlen"] = train().losses
    return first["varlen"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_and_precisions(name: str, first: dict, train: Callable, device: str) -> None:
    if device == "cpu" and name == "compiled":
        pytest.skip("takes minutes on a CPU")
    options, precision = LAYOUTS[name]
    losses = train(*options, ACCELERATE_MIXED_PRECISION=precision).losses
    compare(name, losses, reference(first, train), BF16)
    if name == "fp32":
        first["fp32"] = losses


def test_the_cpu_trains_the_same_and_leaves_the_gpu_alone(first: dict, train: Callable) -> None:
    env = {"ACCELERATE_MIXED_PRECISION": "no"}
    if "fp32" not in first:
        first["fp32"] = train(**env).losses
    losses = train("--launch.device", "cpu", steps=20, before=ALONE, **env).losses
    compare("CPU", losses, first["fp32"], 1e-3)


def test_one_rank_of_distributed_data_parallel(first: dict, train: Callable, device: str) -> None:
    """Over NCCL, and without a warning of it: barriers name their device."""
    env = ONE_RANK | {"MASTER_PORT": str(free_port())}
    if device == "cpu":
        env["ACCELERATE_BYPASS_DEVICE_MAP"] = "true"  # Accelerate would name a GPU
    run = train(before=WRAPPED, **env)
    compare("DistributedDataParallel", run.losses, reference(first, train), BF16)
    assert "barrier" not in run.stderr and "ProcessGroupNCCL" not in run.stderr, run.stderr[-3000:]
    plain = train("--log.every", 20, steps=60).lines[-1]["tokens_per_second"]
    env["MASTER_PORT"] = str(free_port())
    wrapped = train("--log.every", 20, steps=60, before=WRAPPED, **env).lines[-1]["tokens_per_second"]
    print(f"      it has {wrapped / plain:.3f} of the speed of one process (predicted: at least 0.97)")


def test_resumed(train: Callable) -> None:
    """From its checkpoint of the tenth step. Kernels may add numbers in another order."""
    options = ("--checkpoint.every", "10 steps", "--dropout", 0.1)
    whole = train(*options)
    checkpoint = whole.folder / "checkpoints" / "step-00000010"
    again = train(*options, "--resume", checkpoint, folder=whole.folder)
    compare("resumed at step 10", again.losses, whole.losses, BF16)


@pytest.fixture
def quickstart(text: Path, run_command: Callable) -> Callable[..., list[float]]:
    """Runs a launch script with the quickstart's configuration and the probes' text, and returns the losses."""
    data = ("--data.train_files", text, "--data.validation_fraction", 0.05, "--checkpoint.every", "null")
    return lambda *command: run_command(command, *QUICKSTART, *data).losses


@pytest.mark.parametrize("engine", ["ZeRO-2", "FSDP2"])
def test_engines_of_one_rank_in_the_quickstart(engine: str, first: dict, quickstart: Callable, device: str) -> None:
    """Through the launch scripts. bf16 is not the same there: weights are rounded as a whole, not at each product."""
    place = ("--cpu", 1) if device == "cpu" else (1,)
    command = ["bash", "launch/deepspeed.sh", 2, *place]
    if engine == "ZeRO-2" and not importlib.util.find_spec("deepspeed"):
        pytest.skip("DeepSpeed is not installed")
    if engine == "FSDP2":
        if device == "cpu":
            pytest.skip("FSDP2 is for GPUs")
        command = ["bash", "launch/run.sh", "--config_file", "configs/accelerate/fsdp2.yaml", "--num_processes", 1]
        command += [ROOT / "train.py"]
    if "quickstart" not in first:
        script = "cpu" if device == "cpu" else "gpus"
        first["quickstart"] = quickstart("bash", f"launch/{script}.sh", 1)
    compare(f"{engine} in the quickstart", quickstart(*command), first["quickstart"], 2 * BF16)
