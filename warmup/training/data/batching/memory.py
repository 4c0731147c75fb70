"""What to do where a GPU's memory is too small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from warmup.errors import one_line
from warmup.training.data.batching.micro_batch import MicroBatch


@contextmanager
def explain_out_of_memory(batch: MicroBatch, remedy: str) -> Iterator[None]:
    """Name the micro-batch that does not fit, in place of the allocator's advice.

    Args:
        batch: what is computed.
        remedy: what to lower.

    Raises:
        torch.OutOfMemoryError: as it was raised, with another text.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(
            f"{batch.sample_count} samples of {batch.padded_tokens} tokens in all do not fit into the GPU's memory; "
            f"lower {remedy} ({one_line(error, 120)})"
        ) from error
