"""Saving behind the training: the ranks wait for a copy to host memory, the disk is the business of rank 0's thread."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from warmup.clock import StepClock
from warmup.config.checks import parse_interval
from warmup.duration import Duration
from warmup.errors import UserError
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import retention
from warmup.training.data.tokenizers.load import with_model_max_length
from warmup.training.distributed import collectives
from warmup.training.engines.ddp import DDPEngine
from warmup.training.engines.deepspeed import DeepSpeedEngine


@dataclass
class Saver:
    """Writes a run's checkpoints. Made on every rank; only rank 0 copies and writes.

    every: as `checkpoint.every`. duration_samples: what a percentage in it is of.
    """

    run: Path
    accelerator: Accelerator
    engine: DDPEngine | DeepSpeedEngine
    tokenizer: PreTrainedTokenizerBase
    every: str | None
    keep: int
    duration_samples: int
    _saved: Mapping[str, int] = field(default_factory=dict)
    _saved_time: float = field(default_factory=time.monotonic)
    _buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    _thread: threading.Thread | None = None
    _error: Exception | None = None

    def __post_init__(self) -> None:
        self._interval = parse_interval(self.every, "checkpoint.every") if self.every else None

    def mark(self, clock: StepClock) -> None:
        """There is a checkpoint of this position; the next one is due an interval later."""
        self._saved, self._saved_time = clock.state_dict(), time.monotonic()

    @property
    def saved_step(self) -> int | None:
        """The step of the newest checkpoint, saved or restored."""
        return self._saved.get("step")

    def wanted(self) -> bool:
        """Whether the time for the next one has come: by rank 0's clock, the only one that counts."""
        timed = isinstance(self._interval, float) and self.accelerator.is_main_process
        return timed and time.monotonic() - self._saved_time >= self._interval

    def failed(self) -> bool:
        """Whether the last one could not be written, as far as this rank knows."""
        return self._error is not None

    def due(self, clock: StepClock) -> bool:
        """Whether the run has come to the next one by its counters: the same on all ranks."""
        every = self._interval
        return isinstance(every, Duration) and clock.passed(every, self._saved, self.duration_samples)

    def save(self, clock: StepClock, state: dict, tick: Callable[[], None]) -> float:
        """Copy weights and optimizer state and start to write them. Returns the seconds that this rank waited. A
        collective call.

        state: what else there is to go on from, as JSON. tick: called every second while the one before is still
        being written.
        """
        began = time.monotonic()
        self.mark(clock)
        main = self.accelerator.is_main_process
        if main:
            self.wait(tick)
        copies = {}
        for file, name, tensor in self.engine.tensors():  # on all ranks: they may have to put it together
            if main:
                copies[file, name] = self._copy((file, name), tensor)
        if main:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            text = json.dumps(state, indent=1)
            target = checkpoint_format.checkpoint_path(self.run, clock.step)
            self._thread = threading.Thread(target=self._write, args=(target, copies, text), daemon=True)
            self._thread.start()
        return time.monotonic() - began

    def wait(self, tick: Callable[[], None] = lambda: None, limit: float = float("inf")) -> None:
        """Wait until nothing is being written, for `limit` seconds at most."""
        deadline = time.monotonic() + limit
        while self._thread and self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(1.0)
            tick()

    def refuse_failure(self) -> None:
        """Raise UserError on all ranks where the last one could not be written. A collective call."""

        def look() -> None:
            if self._error is not None:
                reason = getattr(self._error, "strerror", None) or self._error
                folder = self.run / "checkpoints"
                raise UserError(f"checkpoint: {folder} cannot be written: {reason}; {last_good(self.run)}")

        collectives.on_main(self.accelerator, look)

    def _copy(self, name: tuple[str, str], tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in host memory, in a buffer that the next checkpoint uses again."""
        if name not in self._buffers:
            pinned = tensor.device.type == "cuda"
            self._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
        return self._buffers[name].copy_(tensor.detach(), non_blocking=True)

    def _write(self, target: Path, copies: dict, state: str) -> None:
        def fill(stage: Path) -> None:
            for file in (checkpoint_format.MODEL, checkpoint_format.OPTIMIZER):
                tensors = {name: tensor for (owner, name), tensor in copies.items() if owner == file}
                save_file(tensors, stage / file, metadata={"format": "pt"})
            (stage / checkpoint_format.STATE).write_text(state, encoding="utf-8")
            self.engine.bare.config.save_pretrained(stage)
            with_model_max_length(self.tokenizer, self.engine.bare).save_pretrained(stage)

        try:
            checkpoint_format.write(target, fill)
            retention.prune(self.run, self.keep)
        except Exception as error:  # in a thread it would be lost
            self._error = error


def last_good(run: Path) -> str:
    """What there is to go on from, in words."""
    folder, _ = checkpoint_format.newest_valid(run)
    return f"the last good checkpoint is {folder}" if folder else "there is no checkpoint yet"
