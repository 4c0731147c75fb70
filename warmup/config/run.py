"""The sections that say how a run is executed: batch, speed, launch, checkpoint, evaluation, elastic, log."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from warmup.config.checks import parse_interval, require
from warmup.duration import Duration
from warmup.errors import UserError


@dataclass(frozen=True)
class Batch:
    """How many samples a step has, and how they are cut."""

    per_device: int = 32
    """Samples that a rank sends through forward and backward at once (at most, with global_size)."""
    accumulation: int | None = None
    """Micro-batches per rank and step (default 1). The global batch is per_device * accumulation * world size."""
    global_size: int | None = None
    """Global batch size, kept at any world size; the accumulation follows from it."""
    evaluation: int = 64
    """Samples per micro-batch in evaluation. Does not change its result."""

    def __post_init__(self) -> None:
        for name in ("per_device", "accumulation", "global_size", "evaluation"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"batch.{name}", value, "1 or above")
        if self.accumulation is not None and self.global_size is not None:
            raise UserError(
                "batch.accumulation and batch.global_size: give one; the other follows from it (null takes one back)"
            )


@dataclass(frozen=True)
class Speed:
    """What makes it fast without changing the result. Switch it off to compare."""

    packing: bool = True
    """Lay several samples end to end in a row, so that almost no padding is computed (BERT, RoBERTa, ELECTRA;
    GPT-2, Llama, GPT-NeoX)."""
    masked_only: bool = True
    """Compute the last layer and a language model's head only where something is asked."""
    attention: Literal["auto", "mask", "varlen"] = "auto"
    """Within packed samples: varlen (FlashAttention on all of them in one row; GPUs since Ampere, in bf16), mask (of
    rows), or auto: varlen where it works, which is tried at the start."""
    compile: bool = False
    """Compile the encoder's layers (torch.compile; BERT, RoBERTa, ELECTRA). Inputs are filled up to a few shapes, each
    of which is compiled when it first comes. Not with DeepSpeed and FSDP."""
    gradient_checkpointing: bool = False
    """Keep each layer's input alone and compute the layer again for its gradient: less memory, a third more time."""


@dataclass(frozen=True)
class Launch:
    """What was meant to be started, to be compared with what was."""

    world_size: int | None = None
    """Ranks that the job must have; any other number is an error."""
    device: Literal["cpu", "cuda"] | None = None
    """What the job must run on (default: GPUs where there are some)."""
    timeout: int = 300
    """Seconds without progress after which a rank that is late ends the job, once training has begun."""
    start_timeout: int = 7200
    """Seconds that ranks wait for each other before the first step, while data is tokenised."""

    def __post_init__(self) -> None:
        require(self.world_size is None or self.world_size >= 1, "launch.world_size", self.world_size, "1 or above")
        for name in ("timeout", "start_timeout"):
            require(getattr(self, name) >= 1, f"launch.{name}", getattr(self, name), "1 or above")


@dataclass(frozen=True)
class Checkpoint:
    """What is kept to go on from. It is also kept at the end, and where the run is stopped."""

    every: str | None = "15 minutes"
    """How often: "500 steps" (of the run), "1 epochs", "1M samples", "1B tokens", "10%", "15 minutes"; null: only at
    the end."""
    keep: int = 2
    """Newest checkpoints that are kept, besides the one with the best evaluation."""

    def __post_init__(self) -> None:
        require(self.keep >= 2, "checkpoint.keep", self.keep, "2 or above (one may be damaged)")
        if self.every is not None:
            parse_interval(self.every, "checkpoint.every")


@dataclass(frozen=True)
class Evaluation:
    """When the held-out data is looked at, and what follows from it. The end of a run is always evaluated."""

    every: str | None = None
    """How often: "500 steps" (of the run) or just 500, "1 epochs", "1M samples", "1B tokens", "10%"; null: only at the
    end."""
    metric: str = "loss"
    """What the best evaluation is the best by: any held-out metric of the task. Of loss, perplexity and mse a lower one
    is better, of all others a higher one."""
    patience: int | None = None
    """End the run early, after so many evaluations in a row without a better one."""
    export: Literal["last", "best"] = "last"
    """The model to export: the one at the end, or the one with the best evaluation."""

    def __post_init__(self) -> None:
        require(self.patience is None or self.patience >= 1, "evaluation.patience", self.patience, "1 or above")
        if self.every is not None:
            text = str(self.every).strip()
            object.__setattr__(self, "every", f"{text} steps" if text.isdigit() else text)
            timed = isinstance(parse_interval(self.every, "evaluation.every"), float)
            require(
                not timed,
                "evaluation.every",
                self.every,
                "the same on any ranks; give steps, epochs, samples, tokens or %",
            )


@dataclass(frozen=True)
class Elastic:
    """What a resumed run does where its global batch, or its recipe, is not what it was."""

    on_change: Literal["rescale", "keep", "error"] = "rescale"
    """Another global batch: rescale (the plan for it, entered at the same samples), keep (the old plan's rate), or
    error. With batch.global_size it does not change."""
    rewarm: str = "0 steps"
    """Go linearly from the old rate to the new one over so much; steps are those of the run."""

    def __post_init__(self) -> None:
        Duration.parse(self.rewarm, "elastic.rewarm")


@dataclass(frozen=True)
class Log:
    """What is written while training."""

    every: int = 50
    """Steps between lines of metrics.jsonl."""
    spike_score: float = 10.0
    """Warn of a loss so many robust standard deviations above the median of the last 100 steps; 0: never."""
    samples: bool = False
    """Write the samples that each rank computed in each step to samples.jsonl."""
    trackers: Sequence[str] = ()
    """Trackers of Accelerate to log to: tensorboard, wandb, mlflow, trackio and others. A resumed run goes on with its
    own."""
    project: str = "bert-warmup"
    """Project, or experiment, that the trackers put the run in."""
    push_to_hub: str | None = None
    """Repository that the model of a run that is done is uploaded to, "user/name"; a new one is private."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "trackers", tuple(self.trackers))
        name = r"[\w.-]+"
        require(
            self.push_to_hub is None or bool(re.fullmatch(f"{name}/{name}", self.push_to_hub)),
            "log.push_to_hub",
            self.push_to_hub,
            "a repository of the hub: user/name",
        )
        require(self.every >= 1, "log.every", self.every, "1 or above")
        require(0 <= self.spike_score < math.inf, "log.spike_score", self.spike_score, "0 or above")
