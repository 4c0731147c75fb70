"""The run directory and what is said while a run goes on. Everything here is rank 0's to do."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

import accelerate
import datasets
import torch
import transformers
from tqdm import tqdm

from warmup.clock import StepClock
from warmup.lint import Finding
from warmup.plan import Plan
from warmup.training.loop import Step
from warmup.training.outcome import UserError


def refuse_occupied(path: str | None) -> None:
    """Raise UserError where a run directory was asked for that holds something. Creates nothing."""
    folder = Path(path) if path else None
    if folder and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"run_dir: {folder} is occupied; give another one, or remove it")


def create_run_directory(path: str | None, task: str) -> Path:
    """A new, empty run directory. Raises UserError where it is occupied or cannot be made."""
    refuse_occupied(path)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    folder = Path(path or f"runs/{task}-{stamp}")
    for number in itertools.count(2):
        if path is None and folder.exists():
            folder = Path(f"runs/{task}-{stamp}-{number}")
            continue
        try:
            folder.mkdir(parents=True, exist_ok=path is not None)
            (folder / "metrics.jsonl").touch(exist_ok=False)  # two runs cannot both make it
        except FileExistsError as error:
            if path is not None:
                raise UserError(f"run_dir: {folder} is occupied by another run; give another one") from error
            continue
        except OSError as error:
            raise UserError(f"run_dir: {folder} cannot be made: {error.strerror}") from error
        break
    return folder


def write(path: Path, text: str) -> None:
    """Write a file as a whole: it is never seen half-written."""
    stage = path.with_name(f".{path.name}.stage")
    stage.write_text(text, encoding="utf-8")
    stage.replace(path)


def write_json(path: Path, content: Any) -> None:
    write(path, json.dumps(content, indent=1) + "\n")


def plan_table(plan: Plan, findings: list[Finding], facts: dict[str, str]) -> str:
    """The plan for a person: name, value, how it came about; then what the linter found."""
    rows = [*plan.explain(), *((name, value, "") for name, value in facts.items())]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    widths[1] = min(widths[1], 24)
    lines = [f"  {name:<{widths[0]}}  {value:<{widths[1]}}  {why}".rstrip() for name, value, why in rows]
    return "\n".join(lines + [f"  {finding.level} [{finding.code}]: {finding.message}" for finding in findings])


def summary(folder: Path, result: dict) -> str:
    """What came of the run and where it was written."""
    metrics = ", ".join(f"{name} {value:.6g}" for name, value in result["metrics"].items()) or "none"
    files = sorted(str(path) for path in folder.iterdir() if not path.name.startswith("."))
    head = f"{result['outcome']} after step {result['step']} of {result['total_steps']}, {result['wall_seconds']} s"
    return "\n".join((head, f"  held-out metrics: {metrics}", *(f"  wrote {file}" for file in files)))


def versions() -> dict[str, str]:
    modules = (torch, accelerate, transformers, datasets)
    return {"python": sys.version.split()[0], **{module.__name__: module.__version__ for module in modules}}


def _open(path: Path) -> TextIO:
    try:
        return open(path, "a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


class Log:
    """metrics.jsonl, the progress bar, and the trackers of Accelerate. Does nothing on other ranks."""

    def __init__(self, folder: Path, total_steps: int, accelerator: accelerate.Accelerator):
        self.accelerator = accelerator
        self._active = accelerator.is_main_process
        self._file = _open(folder / "metrics.jsonl") if self._active else None
        accelerator.project_configuration.logging_dir = str(folder)
        accelerator.init_trackers("trackers")
        self._total, self._bar = total_steps, None
        self._since = (time.perf_counter(), 0, 0)

    def advance(self) -> None:
        """One more step on the progress bar, which appears with the first."""
        if self._bar is None:
            # Into a file, a line every half minute; on a terminal, a bar that moves.
            every = 0.5 if sys.stderr.isatty() else 30.0
            self._bar = tqdm(
                total=self._total, unit="step", disable=not self._active, mininterval=every, maxinterval=every
            )
        self._bar.update()

    def train(self, clock: StepClock, lr: float, loss: float, grad_norm: float) -> None:
        """A line about the step just done; rates are since the last such line."""
        now, samples, tokens = time.perf_counter(), clock.samples, clock.tokens
        elapsed = max(now - self._since[0], 1e-9)
        line = {
            "kind": "train",
            **clock.state_dict(),
            "epoch": clock.epoch,
            "lr": lr,
            "loss": loss,
            "grad_norm": grad_norm,
            "samples_per_second": (samples - self._since[1]) / elapsed,
            "tokens_per_second": (tokens - self._since[2]) / elapsed,
        }
        self._since = (now, samples, tokens)
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{loss:.4g}", lr=f"{lr:.3g}", refresh=False)
        self._write(line)

    def evaluation(self, clock: StepClock, metrics: dict[str, float]) -> None:
        self._write({"kind": "eval", "step": clock.step, **metrics})
        self._since = (time.perf_counter(), clock.samples, clock.tokens)  # its time is not the training's
        self.say(f"step {clock.step}: " + ", ".join(f"{name} {value:.6g}" for name, value in metrics.items()))

    def skipped(self, clock: StepClock, step: Step) -> None:
        """A line about a step that was not applied, with the samples that it was made of."""
        samples = step.indices.tolist()
        norm = str(step.grad_norm)  # JSON has no word for it
        self._write({"kind": "skipped", **clock.state_dict(), "grad_norm": norm, "sample_ids": samples})
        self.say(f"the step after step {clock.step} was skipped: its gradient norm was {norm}")

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
        for tracker in self.accelerator.trackers:
            tracker.finish()
        if self._file:
            with contextlib.suppress(OSError):  # the line that could not be written has said it
                self._file.close()

    def _write(self, line: dict) -> None:
        if self._file:
            try:
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()
            except OSError as error:
                raise UserError(f"{self._file.name}: {error.strerror}") from error
        numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
        prefixed = {f"{line['kind']}/{name}": value for name, value in numbers.items() if name != "step"}
        self.accelerator.log(prefixed, step=line["step"])
