"""torch.compile of the encoder's layers, over few shapes.

Each layer by itself: all but the last are the same code, which is compiled once; gradients come layer by layer, so that
ranks exchange them while the rest of backward goes on; and what is around the layers stays as it is.
Every shape is compiled for itself and none is left out, so that what computes a micro-batch does not depend on what
came before it: a resumed run computes as one that went through.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from warmup.errors import UserError
from warmup.training.distributed import collectives
from warmup.training.models.input_layout import InputLayout

_MOST_SHAPES = 1024  # PyTorch's own limit is 8, after which it would go on without compiling


def check_compile(accelerator: Accelerator) -> None:
    """Raise UserError on all ranks where one of them cannot compile. A collective call."""
    engine = accelerator.distributed_type.value
    if engine in ("DEEPSPEED", "FSDP"):
        raise UserError(f"speed.compile: has not been tried with {engine}; leave one of them out")
    broken = [error for error in collectives.gather_objects(_why_broken(accelerator.device)) if error]
    if broken:
        raise UserError(
            f"speed.compile: torch.compile does not work here: {broken[0]}; install a C++ compiler (g++), on GPUs "
            "Triton too, or leave it out"
        )


def compile_layers(model: PreTrainedModel, reading: InputLayout) -> None:
    """Compile each layer's forward. Raises UserError for a model whose inputs would have too many shapes."""
    if not reading.rows or reading.causal:
        raise UserError(f"speed.compile: is for BERT, RoBERTa and ELECTRA, not for {model.config.model_type}")
    import torch._dynamo
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = _MOST_SHAPES
    torch._inductor.config.deterministic = True  # else kernels are chosen by how fast they were, each time anew
    for layer in model.base_model.encoder.layer:
        layer.forward = torch.compile(layer.forward, dynamic=False)


def eager(reading: InputLayout) -> AbstractContextManager:
    """Around passes of other shapes than training's: nothing is compiled for them."""
    return torch.compiler.set_stance("force_eager") if reading.steady else nullcontext()


def _why_broken(device: torch.device) -> str | None:
    """Why nothing can be compiled on this rank, found by compiling something small. None where it can."""
    import torch._inductor.config

    one = torch.ones(8, device=device, requires_grad=True)
    try:
        with torch._inductor.config.patch(force_disable_caches=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.compile(lambda x: (x.sin() + 1).sum())(one).backward()
    except Exception as error:  # whatever a compiler can fail with
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    return None
