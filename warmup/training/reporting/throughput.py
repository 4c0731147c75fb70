"""How fast training runs and what it waits for: counted at every step, read when a line is logged."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import PretrainedConfig

from warmup.clock import StepClock
from warmup.training.models.flops import useful_flops

_DDP_TIMING_INTERVAL = 10  # DistributedDataParallel times one step in so many


@dataclass
class ThroughputMeter:
    """Counts the steps since the last reading. Counts are of all ranks, waiting times of this rank alone."""

    model: torch.nn.Module
    """The model as it is called, with the wrapper of the engine."""
    config: PretrainedConfig
    """The model's configuration, which its FLOPs are computed from."""
    num_classes: int
    """Outputs of the head per predicted position."""
    world_size: int
    peak_flops: float | None
    """FLOPs per second that one device can reach; None if unknown."""
    _tokens: int = 0
    _padded_tokens: int = 0
    _flops: float | None = 0.0
    _data_wait: float = 0.0
    _steps: int = 0
    _start: tuple[float, int, int] = field(default_factory=lambda: (time.perf_counter(), 0, 0))
    """Time, and the clock's samples and tokens, at the last reading."""
    _made: float = field(default_factory=lambda: time.perf_counter())

    def __post_init__(self) -> None:
        if isinstance(self.model, DistributedDataParallel):
            self.model._set_ddp_runtime_logging_sample_rate(_DDP_TIMING_INTERVAL)

    def restart(self, clock: StepClock) -> None:
        """Discard the counts: the next reading is of the steps from here on."""
        self._tokens, self._padded_tokens, self._flops, self._data_wait, self._steps = 0, 0, 0.0, 0.0, 0
        self._start = time.perf_counter(), clock.samples, clock.tokens

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Add the time spent in the block to the time waited for data."""
        began = time.perf_counter()
        yield
        self._data_wait += time.perf_counter() - began

    def add(self, lengths: np.ndarray, targets: int, padded_tokens: int) -> None:
        """Count a step of all ranks.

        Args:
            lengths: Tokens of each sample, (samples,).
            targets: Number of predicted positions.
            padded_tokens: Tokens computed, padding included.
        """
        flops = useful_flops(self.config, lengths, targets, self.num_classes)
        self._flops = None if flops is None or self._flops is None else self._flops + flops
        self._tokens += int(lengths.sum())
        self._padded_tokens += padded_tokens
        self._steps += 1

    def read(self, clock: StepClock) -> dict[str, float | None]:
        """Return the metrics of the steps since the last reading, by their names in the log, and start anew.

        A metric is None where it is not known, such as MFU on an unknown device.
        """
        began, samples, tokens = self._start
        elapsed = max(time.perf_counter() - began, 1e-9)
        flops = None if self._flops is None else self._flops / elapsed
        mfu = None if flops is None or self.peak_flops is None else flops / (self.peak_flops * self.world_size)
        metrics = {
            "seconds": time.perf_counter() - self._made,
            "samples_per_second": (clock.samples - samples) / elapsed,
            "tokens_per_second": (clock.tokens - tokens) / elapsed,
            "padding_share": 1 - self._tokens / max(self._padded_tokens, 1),
            "data_wait_share": self._data_wait / elapsed,
            "communication_share": self._communication_share(elapsed / max(self._steps, 1)),
            "flops_per_second": flops,
            "mfu": mfu,
            "peak_memory_bytes": _peak_memory(next(self.model.parameters()).device),
        }
        self.restart(clock)
        return metrics

    def _communication_share(self, step_seconds: float) -> float | None:
        """The part of a step in which this rank waits for gradient sums, as DistributedDataParallel measures it.

        None without DistributedDataParallel, as on one rank.
        """
        if not isinstance(self.model, DistributedDataParallel):
            return None
        nanoseconds = cast(dict[str, int], self.model._get_ddp_logging_data())
        waited = nanoseconds.get("backward_comm_time", 0) - nanoseconds.get("backward_compute_comm_overlap_time", 0)
        return min(max(waited, 0) / 1e9 / step_seconds, 1.0)


def _peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: the device's if it is a GPU, otherwise this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
