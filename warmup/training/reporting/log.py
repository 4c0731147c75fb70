"""What is said and logged while a run goes on. Everything here is rank 0's to do."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import accelerate
from tqdm import tqdm

from warmup.clock import StepClock
from warmup.errors import UserError
from warmup.training.reporting.trackers import Trackers
from warmup.training.run.train_step import StepResult


def _open(path: Path) -> TextIO:
    try:
        return open(path, "a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


class Log:
    """metrics.jsonl, the progress bar, and trackers where there are some. Does nothing on other ranks."""

    def __init__(
        self,
        folder: Path,
        accelerator: accelerate.Accelerator,
        samples: bool = False,
        trackers: Trackers | None = None,
    ):
        self._trackers = trackers
        self._active = accelerator.is_main_process
        self._file = _open(folder / "metrics.jsonl") if self._active else None
        self._samples = _open(folder / "samples.jsonl") if self._active and samples else None
        self._bar = None
        self._total = 0

    def begin(self, total_steps: int) -> None:
        """Training goes on from here, to `total_steps` in all."""
        self._total = total_steps

    def advance(self, clock: StepClock) -> None:
        """One more step on the progress bar, which appears with the first."""
        if self._bar is None:
            # Into a file, a line every half minute; on a terminal, a bar that moves.
            every = 0.5 if sys.stderr.isatty() else 30.0
            self._bar = tqdm(
                initial=max(clock.step - 1, 0),
                total=self._total,
                unit="step",
                disable=not self._active,
                mininterval=every,
                maxinterval=every,
            )
        self._bar.update(clock.step - self._bar.n)

    def train(
        self, clock: StepClock, lr: float, loss: float, grad_norm: float, speed: dict, epoch: float | None = None
    ) -> None:
        """A line about the step just done, and how fast it went since the last such line."""
        line = {
            "kind": "train",
            **clock.state_dict(),
            "epoch": clock.epoch if epoch is None else epoch,
            "lr": lr,
            "loss": loss,
            "grad_norm": grad_norm,
            **speed,
        }
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{loss:.4g}", lr=f"{lr:.3g}", refresh=False)
        self._write(line)

    def evaluation(self, clock: StepClock, metrics: dict[str, float]) -> None:
        self._write({"kind": "eval", "step": clock.step, "drawn": clock.drawn, **metrics})
        self.say(f"step {clock.step}: " + ", ".join(f"{name} {value:.6g}" for name, value in metrics.items()))

    def skipped(self, clock: StepClock, step: StepResult) -> None:
        """A line about a step that was not applied, with the samples that it was made of."""
        samples = step.indices.tolist()
        norm = str(step.grad_norm)  # JSON has no word for it
        scale = {} if step.loss_scale is None else {"loss_scale": step.loss_scale}
        self._write({"kind": "skipped", **clock.state_dict(), "grad_norm": norm, **scale, "sample_ids": samples})
        scaled = f" at a loss scale of {step.loss_scale:g}, which is halved" if scale else ""
        self.say(f"the step after step {clock.step} was skipped: its gradient norm was {norm}{scaled}")

    def left_out(self, clock: StepClock, rows: Sequence[str]) -> None:
        """A line about rows of a stream that cannot be used, met in the step just done or right before it."""
        self._write({"kind": "left out", "step": clock.step, "drawn": clock.drawn, "rows": list(rows)})
        self.say(f"left out: {len(rows)} rows: " + "; ".join(rows[:3]))

    def saved(self, clock: StepClock, seconds: float) -> None:
        """A line about a checkpoint, whose copy the ranks waited so many seconds for."""
        self._write({"kind": "checkpoint", "step": clock.step, "drawn": clock.drawn, "seconds_waited": seconds})

    def spike(self, clock: StepClock, loss: float, score: float) -> None:
        """A warning about the loss of the step before the one just done."""
        line = {"kind": "spike", "step": clock.step, "drawn": clock.drawn, "loss": loss, "score": score}
        self._write(line)
        self.say(
            f"warning: the loss jumped to {loss:.4g} in the step before step {clock.step}, {score:.1f} robust standard "
            "deviations above its median"
        )

    def resumed(self, clock: StepClock, total_steps: int, facts: dict[str, Any]) -> None:
        """A line about what the run goes on from, and what is not as it was."""
        remaining = total_steps - clock.step
        self._write({"kind": "resumed", **clock.state_dict(), "remaining_steps": remaining, **facts})
        self.say(f"resumed from {facts['from']}: step {clock.step} of {total_steps}, {clock.samples} samples")
        for name, what in (
            ("world_size", "ranks"),
            ("global_batch_size", "global batch"),
            ("lr", "learning rate of the next step"),
        ):
            if facts[f"{name}_before"] != facts[name]:
                self.say(f"  {what}: {facts[f'{name}_before']:.6g} before, {facts[name]:.6g} now")

    def computed(self, clock: StepClock, positions: list[int], ids: list[int], applied: bool) -> None:
        """A line about the samples that the ranks computed in the step just done: places in the stream, and ids."""
        if self._samples:
            line = {"step": clock.step, "drawn": clock.drawn, "applied": applied, "positions": positions, "ids": ids}
            self._put(self._samples, line)

    def say(self, text: str) -> None:
        """A line for the person at the terminal, past the progress bar."""
        if self._active:
            tqdm.write(text, file=sys.stderr)

    def tell(self, text: str) -> None:
        """A line of the result itself, on stdout."""
        if self._active:
            print(text, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._trackers:
            self._trackers.finish()
        for file in (self._file, self._samples):
            if file:
                with contextlib.suppress(OSError):  # the line that could not be written has said it
                    file.close()

    def _write(self, line: dict) -> None:
        if self._file:
            self._put(self._file, line)
        if self._trackers:
            numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
            prefixed = {f"{line['kind']}/{name}": value for name, value in numbers.items() if name != "step"}
            self._trackers.log(prefixed, line["step"])

    @staticmethod
    def _put(file: TextIO, line: dict) -> None:
        try:
            file.write(json.dumps(line) + "\n")
            file.flush()
        except OSError as error:
            raise UserError(f"{file.name}: {error.strerror}") from error
