"""Saves checkpoints while the training goes on: ranks wait for a copy to host memory, a thread of rank 0 writes it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from warmup.clock import StepClock
from warmup.config.checks import parse_interval
from warmup.config.run import Checkpoint
from warmup.duration import Duration, seconds_text
from warmup.errors import UserError
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import retention
from warmup.training.data.tokenizers.load import with_model_max_length
from warmup.training.distributed import collectives
from warmup.training.engines import Engine

_FILES = {"model": checkpoint_format.MODEL, "optimizer": checkpoint_format.OPTIMIZER}
"""The file of a checkpoint for each part that an engine's tensors belong to."""


@dataclass
class Saver:
    """Writes a run's checkpoints. Every rank has one; only rank 0 copies and writes."""

    run: Path
    """The run directory."""
    accelerator: Accelerator
    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    settings: Checkpoint
    """How often to save, and how many checkpoints to keep."""
    duration_samples: int
    """The length of the run, of which the interval may be a percentage."""
    _saved: Mapping[str, int] = field(init=False, default_factory=dict)
    _saved_here: bool = field(init=False, default=False)
    _saved_time: float = field(init=False, default_factory=time.monotonic)
    _buffers: dict[tuple[str, str], torch.Tensor] = field(init=False, default_factory=dict)
    _thread: threading.Thread | None = field(init=False, default=None)
    _error: Exception | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        every = self.settings.every
        self._interval = parse_interval(every, "checkpoint.every") if every else None

    def record_saved(self, clock: StepClock, in_run_directory: bool = True) -> None:
        """There is a checkpoint of this position; the next one is due an interval later.

        Args:
            clock: the position.
            in_run_directory: whether it is in this run directory; one of another run may have been restored.
        """
        self._saved, self._saved_time = clock.state_dict(), time.monotonic()
        self._saved_here = in_run_directory

    @property
    def saved_step(self) -> int | None:
        """The step of the newest checkpoint of this run directory, saved or restored; None if there is none."""
        return self._saved.get("step") if self._saved_here else None

    def save_requested(self) -> bool:
        """Whether a checkpoint is due by the time since the last one. Only rank 0's clock counts."""
        if not isinstance(self._interval, float) or not self.accelerator.is_main_process:
            return False
        return time.monotonic() - self._saved_time >= self._interval

    def is_due(self, clock: StepClock) -> bool:
        """Whether a checkpoint is due by the run's counters: the same on all ranks."""
        every = self._interval
        return isinstance(every, Duration) and clock.passed(every, self._saved, self.duration_samples)

    def next_save(self, clock: StepClock) -> str:
        """When the next checkpoint is due, in words; "" if that is at the end, or not known in advance."""
        every = self._interval
        if isinstance(every, float):
            return f"in {seconds_text(max(every - (time.monotonic() - self._saved_time), 0))}"
        step = clock.next_multiple(every, self.duration_samples) if every else None
        return "" if step is None else f"at step {step}"

    def failed(self) -> bool:
        """Whether the last checkpoint could not be written, as far as this rank knows."""
        return self._error is not None

    def save(self, clock: StepClock, state: dict[str, Any], tick: Callable[[], object]) -> float:
        """Copy the weights and the optimizer state, and begin to write them. A collective call.

        Args:
            clock: the position of the run.
            state: the content of state.json.
            tick: called every second while the previous checkpoint is still being written.

        Returns:
            The seconds that this rank waited.
        """
        began = time.monotonic()
        self.record_saved(clock)
        main = self.accelerator.is_main_process
        if main:
            self.wait(tick)
        copies = {}
        for part, name, tensor in self.engine.tensors():  # on all ranks, which may have to gather it
            if main:
                copies[part, name] = self._copy((part, name), tensor)
        if main:
            if self.accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            text = json.dumps(state, indent=1)
            target = checkpoint_format.checkpoint_path(self.run, clock.step)
            self._thread = threading.Thread(target=self._write, args=(target, copies, text), daemon=True)
            self._thread.start()
        return time.monotonic() - began

    def add_evaluations(self, step: int, evaluations: dict[str, Any], tick: Callable[[], object]) -> None:
        """Begin to add the evaluation made at a step to its checkpoint, once that is written.

        Args:
            step: that of the newest checkpoint.
            evaluations: what `RunState.evaluations` returned.
            tick: called every second while the checkpoint is still being written.
        """
        if not self.accelerator.is_main_process:
            return
        self.wait(tick)
        if self._error is None:
            folder = checkpoint_format.checkpoint_path(self.run, step)
            self._thread = threading.Thread(target=self._add_evaluations, args=(folder, evaluations), daemon=True)
            self._thread.start()

    def wait(self, tick: Callable[[], object] = lambda: None, limit: float = float("inf")) -> None:
        """Wait until nothing is being written, for at most `limit` seconds. `tick` is called every second."""
        deadline = time.monotonic() + limit
        while self._thread and self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(1.0)
            tick()

    def raise_failure(self) -> None:
        """Raise UserError on all ranks if the last checkpoint could not be written. A collective call."""

        def check() -> None:
            if self._error is not None:
                reason = getattr(self._error, "strerror", None) or self._error
                folder = self.run / "checkpoints"
                raise UserError(f"checkpoint: {folder} cannot be written: {reason}; {last_good(self.run)}")

        collectives.on_main(self.accelerator, check)

    def _copy(self, key: tuple[str, str], tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in host memory, in a buffer that the next checkpoint reuses."""
        if key not in self._buffers:
            pinned = tensor.device.type == "cuda"
            self._buffers[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
        return self._buffers[key].copy_(tensor.detach(), non_blocking=True)

    def _add_evaluations(self, folder: Path, evaluations: dict[str, Any]) -> None:
        """What the thread of `add_evaluations` runs."""
        try:
            checkpoint_format.add_evaluations(folder, evaluations)
        except Exception as error:  # it would be lost in the thread
            self._error = error

    def _write(self, target: Path, copies: dict[tuple[str, str], torch.Tensor], state: str) -> None:
        """Write a checkpoint and remove old ones; what the thread runs."""

        def fill(stage: Path) -> None:
            for part, file in _FILES.items():
                tensors = {name: tensor for (owner, name), tensor in copies.items() if owner == part}
                save_file(tensors, stage / file, metadata={"format": "pt"})
            (stage / checkpoint_format.STATE).write_text(state, encoding="utf-8")
            self.engine.unwrapped_model.config.save_pretrained(stage)
            with_model_max_length(self.tokenizer, self.engine.unwrapped_model).save_pretrained(stage)

        try:
            checkpoint_format.write(target, fill)
            retention.prune(self.run, self.settings.keep)
        except Exception as error:  # it would be lost in the thread
            self._error = error


def last_good(run: Path) -> str:
    """In words, which checkpoint of a run directory can be resumed from."""
    folder, _ = checkpoint_format.newest_valid(run)
    return f"the last good checkpoint is {folder}" if folder else "there is no checkpoint yet"
