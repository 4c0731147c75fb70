"""How fast training goes, and what it waits for: counted on the way, read when a line is logged."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import PretrainedConfig

from warmup.clock import StepClock
from warmup.training.models.flops import useful_flops


@dataclass
class ThroughputMeter:
    """Counts of the steps since the last reading, of all ranks; only what is waited for is this rank's own."""

    model: torch.nn.Module
    config: PretrainedConfig
    classes: int
    world_size: int
    peak: float | None
    _tokens: int = 0
    _places: int = 0
    _flops: float | None = 0.0
    _data_wait: float = 0.0
    _steps: int = 0
    _since: tuple[float, int, int] = field(default_factory=lambda: (time.perf_counter(), 0, 0))

    def __post_init__(self) -> None:
        if isinstance(self.model, DistributedDataParallel):
            self.model._set_ddp_runtime_logging_sample_rate(10)

    def restart(self, clock: StepClock) -> None:
        """Forget the steps so far: from here on counts what is logged next."""
        self._tokens, self._places, self._flops, self._data_wait, self._steps = 0, 0, 0.0, 0.0, 0
        self._since = time.perf_counter(), clock.samples, clock.tokens

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._data_wait += time.perf_counter() - began

    def add(self, lengths: np.ndarray, targets: int, places: int) -> None:
        """A step of samples of these lengths, of all ranks; places: tokens and padding."""
        flops = useful_flops(self.config, lengths, targets, self.classes)
        self._flops = None if flops is None else self._flops + flops
        self._tokens += int(lengths.sum())
        self._places += places
        self._steps += 1

    def read(self, clock: StepClock) -> dict[str, float | None]:
        """What is to be logged of the steps since the last reading."""
        began, samples, tokens = self._since
        elapsed = max(time.perf_counter() - began, 1e-9)
        flops = None if self._flops is None else self._flops / elapsed
        known = flops is not None and self.peak is not None
        found = {
            "samples_per_second": (clock.samples - samples) / elapsed,
            "tokens_per_second": (clock.tokens - tokens) / elapsed,
            "padding_share": 1 - self._tokens / max(self._places, 1),
            "data_wait_share": self._data_wait / elapsed,
            "communication_share": self._communication(elapsed / max(self._steps, 1)),
            "flops_per_second": flops,
            "mfu": flops / (self.peak * self.world_size) if known else None,
            "peak_memory_bytes": _peak_memory(next(self.model.parameters()).device),
        }
        self.restart(clock)
        return found

    def _communication(self, step_seconds: float) -> float | None:
        """The part of a step in which this rank waits for sums of gradients, by DistributedDataParallel's own watch,
        which times one step in ten. None for one rank.
        """
        if not isinstance(self.model, DistributedDataParallel):
            return None
        times = self.model._get_ddp_logging_data()
        waited = times.get("backward_comm_time", 0) - times.get("backward_compute_comm_overlap_time", 0)
        return min(max(waited, 0) / 1e9 / step_seconds, 1.0)


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where it is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
