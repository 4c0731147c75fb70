"""The sections that say how a run is executed: batch, speed, launch, checkpoint, evaluation, elastic, log."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from warmup.config.checks import parse_interval, require, require_count
from warmup.duration import Duration
from warmup.errors import UserError


@dataclass(frozen=True)
class Batch:
    """How many samples a step has, and how they are split into micro-batches."""

    per_device: int = 32
    """Samples in a micro-batch: what one rank sends through forward and backward at once (at most this many with
    global_size)."""
    accumulation: int | None = None
    """Micro-batches per rank and step (default 1). The global batch size is per_device * accumulation * world size."""
    global_size: int | None = None
    """Global batch size: samples per step over all ranks, the same at any world size. The accumulation follows from
    it."""
    warmup: str = "0 steps"
    """Length of the warmup of the batch, at the reference batch size: the global batch grows linearly in the samples,
    from start_size to its size. Written like recipe.warmup."""
    start_size: int | None = None
    """Samples of the first step where the batch is warmed up."""
    warmup_lr: Literal["scale", "keep"] = "scale"
    """Learning rate of a step that is smaller than the global batch: scale (multiplied by what the scaling rule gives
    for its size, over what it gives for the global batch size) or keep (that of the global batch size)."""
    evaluation: int = 64
    """Samples in a micro-batch of an evaluation. It does not change the result."""

    def __post_init__(self) -> None:
        for name in ("per_device", "accumulation", "global_size", "start_size", "evaluation"):
            require_count(f"batch.{name}", getattr(self, name))
        if bool(Duration.parse(self.warmup, "batch.warmup").value) != (self.start_size is not None):
            raise UserError(
                'batch.warmup and batch.start_size: give both, e.g. "10%" and 32: the batch grows from the start size '
                "to the global batch size over the warmup"
            )
        if self.accumulation is not None and self.global_size is not None:
            raise UserError(
                "batch.accumulation and batch.global_size: give one; the other follows from it (null unsets one)"
            )


@dataclass(frozen=True)
class Speed:
    """Optimizations that do not change the result. Switch them off to compare."""

    packing: bool = True
    """Put several samples in one row, so that almost no padding is computed (BERT, RoBERTa, ELECTRA; GPT-2, Llama,
    GPT-NeoX)."""
    masked_only: bool = True
    """Compute the last layer and the head of a language model only at the positions that are predicted."""
    attention: Literal["auto", "mask", "varlen"] = "auto"
    """Attention within packed samples: varlen (FlashAttention, all samples in one row; on GPUs since Ampere, in bf16),
    mask (several rows with a mask), or auto: varlen if it works, which is tried at the start."""
    compile: bool = False
    """Compile the encoder's layers (torch.compile; BERT, RoBERTa, ELECTRA). Inputs are padded to a few shapes, and each
    shape is compiled when it first occurs. Not for DeepSpeed and FSDP."""
    gradient_checkpointing: bool = False
    """Keep only each layer's input and compute the layer again for its gradient: less memory, a third more time."""


@dataclass(frozen=True)
class Launch:
    """What the launcher should have started; compared with what it has."""

    world_size: int | None = None
    """Number of ranks that the job must have; any other number is an error."""
    device: Literal["cpu", "cuda"] | None = None
    """Device that the job must run on (default: GPUs if there are any)."""
    timeout: int = 300
    """Seconds without progress after which a hanging rank ends the job, once training has begun."""
    start_timeout: int = 7200
    """Seconds that ranks wait for each other before the first step, while data is tokenized."""

    def __post_init__(self) -> None:
        require_count("launch.world_size", self.world_size)
        for name in ("timeout", "start_timeout"):
            require(getattr(self, name) >= 1, f"launch.{name}", getattr(self, name), "1 or above")


@dataclass(frozen=True)
class Checkpoint:
    """When checkpoints are saved. One is always saved at the end, and when the run is stopped."""

    every: str | None = "15 minutes"
    """How often to save: "500 steps" (of the run), "1 epoch", "1M samples", "1B tokens", "10%", "15 minutes"; null:
    only at the end."""
    keep: int = 2
    """Number of newest checkpoints to keep, besides the one with the best evaluation."""

    def __post_init__(self) -> None:
        require(self.keep >= 2, "checkpoint.keep", self.keep, "2 or above (one may be damaged)")
        if self.every is not None:
            parse_interval(self.every, "checkpoint.every")


@dataclass(frozen=True)
class Evaluation:
    """When the held-out data is evaluated, and what follows from it. A run is always evaluated at its end."""

    every: str | None = None
    """How often to evaluate: "500 steps" (of the run) or just 500, "1 epoch", "1M samples", "1B tokens", "10%"; null:
    only at the end."""
    metric: str = "loss"
    """Metric that decides which evaluation is the best: any held-out metric of the task. Lower is better for loss,
    perplexity and mse, higher for all others."""
    patience: int | None = None
    """End the run early, after this many evaluations in a row without a better one."""
    thresholds: Literal["fixed", "tuned"] = "fixed"
    """multi-label: the probability from which a label is predicted: 0.5 (fixed), or for each label the one with the
    largest F1 on the held-out data (tuned), which the exported model's config then holds."""
    export: Literal["last", "best"] = "last"
    """Model to export: the one at the end, or the one with the best evaluation."""
    max_answer_length: int = 30
    """question-answering: the most tokens of an answer."""
    n_best: int = 20
    """question-answering: number of answers to a question that a prediction lists."""

    def __post_init__(self) -> None:
        require(self.patience is None or self.patience >= 1, "evaluation.patience", self.patience, "1 or above")
        for name in ("max_answer_length", "n_best"):
            require(getattr(self, name) >= 1, f"evaluation.{name}", getattr(self, name), "1 or above")
        for name, needs_more in (("patience", self.patience is not None), ("export", self.export == "best")):
            if needs_more and self.every is None:
                raise UserError(
                    f"evaluation.{name}: {getattr(self, name)} needs evaluations on the way: give evaluation.every, "
                    'e.g. "500 steps"'
                )
        if self.every is not None:
            text = str(self.every).strip()
            object.__setattr__(self, "every", f"{text} steps" if text.isdigit() else text)
            if isinstance(parse_interval(self.every, "evaluation.every"), float):
                raise UserError(
                    f"evaluation.every: {self.every!r} is a time, which would make the evaluations depend on the "
                    "hardware; give steps, epochs, samples, tokens or %"
                )


@dataclass(frozen=True)
class Elastic:
    """What a resumed run does if its global batch size or its recipe has changed."""

    on_change: Literal["rescale", "keep", "error"] = "rescale"
    """What to do if the global batch size has changed: rescale (plan the recipe for the new size and continue at the
    same samples), keep (follow the old plan's learning rate), or error. With batch.global_size it does not change."""
    rewarm: str = "0 steps"
    """Change linearly from the old learning rate to the new one over this duration; steps are those of the run."""

    def __post_init__(self) -> None:
        Duration.parse(self.rewarm, "elastic.rewarm")


@dataclass(frozen=True)
class Log:
    """What is logged during training."""

    every: int = 50
    """Steps between lines of metrics.jsonl."""
    spike_score: float = 10.0
    """Warn of a loss that is this many robust standard deviations above the median of the last 100 steps; 0: never."""
    noise_scale: bool = False
    """Measure the gradient noise scale: up to about which batch size more ranks pay. Needs two or more micro-batches
    in a step, on ranks or by accumulation. Not for FSDP."""
    samples: bool = False
    """Write the samples that each rank computed in each step to samples.jsonl."""
    trackers: Sequence[str] = ()
    """Trackers of Accelerate to log to: tensorboard, wandb, mlflow, trackio and others. A resumed run continues its
    own."""
    project: str = "bert-warmup"
    """Project, or experiment, that the trackers log the run under."""
    push_to_hub: str | None = None
    """Hub repository to upload the model to when the run is done, as "user/name"; a new repository is private."""

    language: str | None = None
    """Language of the model, for its card, as a code: en."""
    license: str | None = None
    """License of the model, for its card: apache-2.0."""

    def __post_init__(self) -> None:
        trackers = tuple(self.trackers)
        object.__setattr__(self, "trackers", () if trackers == ("none",) else trackers)
        name = r"[\w.-]+"
        require(
            self.push_to_hub is None or bool(re.fullmatch(f"{name}/{name}", self.push_to_hub)),
            "log.push_to_hub",
            self.push_to_hub,
            "a hub repository: user/name",
        )
        require(self.every >= 1, "log.every", self.every, "1 or above")
        require(0 <= self.spike_score < math.inf, "log.spike_score", self.spike_score, "0 or above")
