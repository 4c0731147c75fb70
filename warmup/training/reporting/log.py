"""The log of a run: metrics.jsonl and samples.jsonl, the progress bar and the messages beside it."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import accelerate
from tqdm import tqdm

from warmup.clock import StepClock
from warmup.errors import UserError
from warmup.terminal import highlight
from warmup.training.reporting.console import rows_text
from warmup.training.reporting.progress import Progress
from warmup.training.reporting.trackers import Trackers


class Log:
    """Writes what a run reports: lines of JSON to its files and to the trackers, text to the terminal.

    Made on every rank. Only rank 0 writes; on other ranks no method does anything. All methods that write to a file
    raise UserError if the disk does not accept it.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: accelerate.Accelerator,
        samples: bool = False,
        trackers: Trackers | None = None,
    ):
        """Open the log files for appending.

        Args:
            folder: The run directory.
            accelerator: Tells the rank.
            samples: Whether to write samples.jsonl, the sample ids of every step.
            trackers: Experiment trackers that get the numbers too.
        """
        self._trackers = trackers
        self._active = accelerator.is_main_process
        self._file = _open(folder / "metrics.jsonl") if self._active else None
        self._samples = _open(folder / "samples.jsonl") if self._active and samples else None
        self._progress: Progress | None = None
        self._total_steps = self._end_samples = 0

    def begin(self, total_steps: int, end_samples: int) -> None:
        """Set how many steps there will be, and the samples at which the run is over."""
        self._total_steps, self._end_samples = total_steps, end_samples

    def advance(self, clock: StepClock, previous_loss: float | None = None, next_save: str = "") -> None:
        """Show that a step is done.

        Args:
            clock: the position after it.
            previous_loss: the loss of the step before it; None if that is not known.
            next_save: when the next checkpoint is due, in words.
        """
        if not self._active:
            return
        if self._progress is None:
            self._progress = Progress(self._total_steps, self._end_samples, max(clock.step - 1, 0))
        if previous_loss is not None:
            self._progress.add_loss(previous_loss)
        if line := self._progress.update(clock, next_save):
            self.print(line)

    def close_progress(self) -> None:
        """Remove the progress bar."""
        progress, self._progress = self._progress, None
        if progress and (line := progress.close()):
            self.print(line)

    def train(
        self,
        clock: StepClock,
        lr: float,
        loss: float,
        grad_norm: float,
        figures: Mapping[str, float | None],
        epoch: float | None = None,
    ) -> None:
        """Log the step just done.

        Args:
            clock: The position after the step.
            lr: The learning rate that it used.
            loss: Its mean loss.
            grad_norm: The norm of its gradient, before clipping.
            figures: The metrics of a ThroughputMeter, of the steps since the last such line, and others by name.
            epoch: Passes over the data so far; None for the clock's.
        """
        line = {
            "kind": "train",
            **clock.state_dict(),
            "epoch": clock.epoch if epoch is None else epoch,
            "lr": lr,
            "loss": loss,
            "grad_norm": grad_norm,
            **figures,
        }
        self._write(line)

    def evaluation(self, clock: StepClock, metrics: Mapping[str, float]) -> None:
        """Log and print the metrics of an evaluation."""
        self._write({"kind": "eval", **_position(clock), **metrics})
        self.print(
            f"step {clock.step}, held-out data: " + ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())
        )

    def skipped(
        self, clock: StepClock, sample_ids: Sequence[int], grad_norm: float, loss_scale: float | None = None
    ) -> None:
        """Log and print that a step was not applied because its gradient is not finite.

        Args:
            clock: The position after the step.
            sample_ids: The ids of its samples.
            grad_norm: The norm of its gradient: infinity or not a number.
            loss_scale: In fp16, the factor that the loss was multiplied by.
        """
        norm = str(grad_norm)  # JSON has no number for it
        scale = {} if loss_scale is None else {"loss_scale": loss_scale}
        line = {"kind": "skipped", **clock.state_dict(), "grad_norm": norm, **scale, "sample_ids": list(sample_ids)}
        self._write(line)
        halved = "" if loss_scale is None else f" at a loss scale of {loss_scale:g}, which is halved"
        self.print(f"the step after step {clock.step} was skipped: its gradient norm was {norm}{halved}")

    def skipped_rows(self, clock: StepClock, rows: Sequence[str]) -> None:
        """Log and print unusable rows of a data stream, met in the step just done or right before it.

        Args:
            clock: The position after the step.
            rows: For each row, where it is and what is wrong with it.
        """
        self._write({"kind": "left out", **_position(clock), "rows": list(rows)})
        self.print(f"skipped {rows_text(rows)}")

    def saved(self, clock: StepClock, seconds: float) -> None:
        """Log a checkpoint, and for how many seconds the ranks waited until its copy was made."""
        self._write({"kind": "checkpoint", **_position(clock), "seconds_waited": seconds})

    def spike(self, clock: StepClock, loss: float, score: float) -> None:
        """Log and print that the loss of the step before the one just done is a spike, with its score."""
        self._write({"kind": "spike", **_position(clock), "loss": loss, "score": score})
        self.print(
            f"warning: the loss jumped to {loss:.4g} in the step before step {clock.step}, {score:.1f} robust standard "
            "deviations above its median"
        )

    def resumed(self, clock: StepClock, total_steps: int, facts: Mapping[str, Any], branched: bool = False) -> None:
        """Log and print what the run is resumed or branched off from, and what has changed since.

        Args:
            clock: The restored position.
            total_steps: Steps of the whole run.
            facts: "from", the checkpoint's path; and world size, global batch size and learning rate, each now and,
                with the suffix "_before", when the checkpoint was written.
            branched: Whether it branches off there.
        """
        remaining, kind = total_steps - clock.step, "branched" if branched else "resumed"
        self._write({"kind": kind, **clock.state_dict(), "remaining_steps": remaining, **facts})
        self.print(f"{kind} from {facts['from']}: step {clock.step} of {total_steps}, {clock.samples} samples")
        names = {"world_size": "ranks", "global_batch_size": "global batch", "lr": "learning rate of the next step"}
        for key, name in names.items():
            if facts[f"{key}_before"] != facts[key]:
                self.print(f"  {name}: {facts[f'{key}_before']:.6g} before, {facts[key]:.6g} now")

    def computed(self, clock: StepClock, positions: list[int], ids: list[int], applied: bool) -> None:
        """Log the samples that the ranks computed in the step just done, if samples.jsonl is written.

        Args:
            clock: The position after the step.
            positions: The samples' positions in the data stream, rank by rank.
            ids: Their ids, in the same order.
            applied: Whether the update was applied.
        """
        if self._samples:
            line = {**_position(clock), "applied": applied, "positions": positions, "ids": ids}
            _write_line(self._samples, line)

    def pictures(self, clock: StepClock, draw: Callable[[], Mapping[str, bytes]]) -> None:
        """Send pictures to the trackers, if there are any: `draw` returns PNG files by name."""
        if self._trackers:
            self._trackers.log_pictures(draw(), clock.step)

    def print(self, text: str) -> None:
        """Print a message for the user on stderr, without breaking the progress bar."""
        if self._active:
            tqdm.write(highlight(text, sys.stderr), file=sys.stderr)

    def print_result(self, text: str) -> None:
        """Print a line of the result itself, for a program to read, on stdout."""
        if self._active:
            print(text, flush=True)

    def close(self) -> None:
        """Close the progress bar, the trackers and the files."""
        self.close_progress()
        if self._trackers:
            self._trackers.finish()
        for file in (self._file, self._samples):
            if file:
                with contextlib.suppress(OSError):  # the write that failed has raised it already
                    file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        """Write a line to metrics.jsonl, and its numbers to the trackers as KIND/NAME."""
        if self._file:
            _write_line(self._file, line)
        if self._trackers:
            numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
            prefixed = {f"{line['kind']}/{name}": value for name, value in numbers.items() if name != "step"}
            self._trackers.log(prefixed, line["step"])


def _position(clock: StepClock) -> dict[str, int]:
    return {"step": clock.step, "consumed_samples": clock.consumed_samples}


def _open(path: Path) -> TextIO:
    try:
        return open(path, "a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _write_line(file: TextIO, line: Mapping[str, Any]) -> None:
    try:
        file.write(json.dumps(line) + "\n")
        file.flush()
    except OSError as error:
        raise UserError(f"{file.name}: {error.strerror}") from error
