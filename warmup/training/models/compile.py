"""torch.compile of the encoder's layers, for few input shapes.

Layers are compiled one by one: all but the last share one graph, which is compiled once; gradients become ready layer
by layer, so that ranks exchange them while the rest of backward is computed; the code around the layers stays eager.
Every shape is compiled and none falls back to eager mode, so that the result of a micro-batch does not depend on what
was computed before it, and a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from warmup.errors import UserError
from warmup.training.distributed import collectives
from warmup.training.models.input_layout import InputLayout

_MAX_SHAPES = 1024  # PyTorch's own limit is 8, beyond which it would go on without compiling


def check_compile(accelerator: Accelerator) -> None:
    """Raise UserError on all ranks if one of them cannot compile. A collective call."""
    engine = accelerator.distributed_type.value
    if engine in ("DEEPSPEED", "FSDP"):
        raise UserError(f"speed.compile: has not been tried with {engine}; leave one of them out")
    reasons = [reason for reason in collectives.gather_objects(_why_broken(accelerator.device)) if reason]
    if reasons:
        raise UserError(
            f"speed.compile: torch.compile does not work here: {reasons[0]}; install a C++ compiler (g++), on GPUs "
            "Triton too, or leave it out"
        )


def compile_layers(model: PreTrainedModel, layout: InputLayout) -> None:
    """Compile the forward of each layer. Raises UserError for a model whose inputs would have too many shapes."""
    if not layout.rows or layout.positions_in == "head":
        raise UserError(f"speed.compile: is for BERT, RoBERTa and ELECTRA, not for {model.config.model_type}")
    import torch._dynamo
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = _MAX_SHAPES
    # DistributedDataParallel would split the graph of each layer at the ends of its buckets.
    torch._dynamo.config.optimize_ddp = False
    torch._inductor.config.deterministic = True  # otherwise kernels are chosen by timing them, anew in each process
    base_model: Any = model.base_model
    for layer in base_model.encoder.layer:
        layer.forward = torch.compile(layer.forward, dynamic=False)


def eager(layout: InputLayout) -> AbstractContextManager:
    """A context for passes whose shapes are not those of training: nothing is compiled for them."""
    return torch.compiler.set_stance("force_eager") if layout.static_max_length else nullcontext()


def _why_broken(device: torch.device) -> str | None:
    """Compile something small. Returns why that fails on this rank, or None if it works."""
    import torch._inductor.config

    ones = torch.ones(8, device=device, requires_grad=True)
    try:
        with torch._inductor.config.patch(force_disable_caches=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.compile(lambda x: (x.sin() + 1).sum())(ones).backward()
    except Exception as error:  # a compiler can fail in any way
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    return None
