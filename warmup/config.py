"""All configuration: what a YAML file and the command line may say. Frozen, checked, standard library only."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from warmup.duration import Duration


def require(condition: bool, flag: str, value: object, wanted: str) -> None:
    """Raise ValueError, naming the flag, the value and what would be right, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{flag}: {value!r} is not {wanted}")


BALANCED = "balanced"  # among the class weights


@dataclass(frozen=True)
class Recipe:
    """What was tuned, at the reference batch size."""

    optimizer: Literal["adamw", "adam", "rmsprop", "sgd", "lamb", "adafactor"] = "adamw"
    """The optimizer."""
    lr: float = 1e-4
    """Learning rate at the reference batch size; the scaling rule makes the peak of it."""
    reference_batch_size: int | None = None
    """Global batch size that the recipe was tuned at. Steps in a length are steps of this batch."""
    scaling: str = "linear"
    """How lr follows the batch: linear (lr * k), sqrt, none, auto (linear for sgd, else sqrt) or module:function."""
    max_lr: float | None = None
    """Cap of the scaled peak."""
    warmup: str = "0 steps"
    """Length of the warmup at the reference batch size: "10000 steps", "5 epochs", "2.56M samples", "2B tokens",
    "6%"."""
    warmup_scaling: Literal["samples", "steps"] = "samples"
    """What stays the same at another batch size: the warmup's samples (Goyal et al.) or its steps (LEGW, LAMB)."""
    ramp: str = "linear"
    """Shape of the warmup: linear, exponential, cosine, constant, polynomial or module:function."""
    ramp_power: float = 2.0
    """Exponent of the polynomial ramp."""
    start_lr: float | Literal["reference"] = 0.0
    """Rate that the ramp starts from, not scaled; reference: lr itself (Goyal et al.: from lr to k * lr)."""
    decay: str = "linear"
    """After the warmup: constant, linear, cosine, polynomial, step, multistep, exponential, inverse_sqrt, wsd or
    module:function."""
    end_lr: float = 0.0
    """Rate at the end, and floor of the decays that have no end. Not scaled."""
    decay_cycles: int = 1
    """Cosine: number of cycles, each from the peak."""
    decay_milestones: Sequence[str] = ()
    """Multistep: where the rate is multiplied by decay_gamma, counted from step 0."""
    decay_gamma: float = 0.1
    """Step, multistep, exponential: the factor."""
    decay_power: float = 1.0
    """Exponent of the polynomial decay."""
    decay_length: str | None = None
    """Step: distance between drops; exponential: length of one factor; inverse_sqrt: time scale (default: the
    warmup); wsd: length of the final decay (default: 10%)."""
    duration: str = "3 epochs"
    """Length of the run, at the reference batch size."""
    layer_decay: float = 1.0
    """Each layer's rate, as a part of that of the layer above it: 0.9, say, for fine-tuning."""
    lr_ratios: Sequence[str] = ()
    """Rates of single parts, as a part of the rate, by their names in the model: classifier=10; 0 freezes:
    embeddings=0 encoder.layer.0=0. The longest name that fits counts."""
    weight_decay: float = 0.01
    """Weight decay; never on biases and norms."""
    max_grad_norm: float = 1.0
    """Clip the global gradient norm to this; 0: do not clip."""
    betas: tuple[float, float] = (0.9, 0.999)
    """adamw, adam, lamb: coefficients of the two moments."""
    eps: float = 1e-8
    """adamw, adam, lamb, rmsprop: epsilon."""
    momentum: float = 0.9
    """sgd, rmsprop: momentum."""
    alpha: float = 0.99
    """rmsprop: smoothing coefficient."""
    beta_scaling: Literal["none", "sde", "half-life"] = "none"
    """How betas, alpha and momentum follow the batch: sde (1 - k(1 - beta), eps / sqrt(k); adaptive optimizers) or
    half-life (beta^k)."""
    label_smoothing: float = 0.0
    """Classification, of texts or tokens: the part of each target that is spread evenly over all classes."""
    class_weights: Sequence[str] = ()
    """Classification, of texts or tokens: how much a target counts in training, by its class: balanced (n / (classes *
    n_c), which is 1 in the mean) or weights by name, 1 for the others: positive=2 negative=0.5. The sum is divided by
    the number of targets, not by their weights; the held-out loss knows neither weights nor smoothing."""
    max_skipped: int = 10
    """End the run after so many steps in a row that were skipped for a gradient that is not finite. (In fp16 those do
    not count that were computed at a loss scale above 1.)"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay_milestones", tuple(self.decay_milestones))
        object.__setattr__(self, "betas", tuple(self.betas))
        object.__setattr__(self, "lr_ratios", tuple(self.lr_ratios))
        object.__setattr__(self, "class_weights", tuple(self.class_weights))
        for text in self.lr_ratios:
            ratio_of(text)
        if self.class_weights != (BALANCED,):
            for text in self.class_weights:
                weight_of(text)
        require(0 <= self.label_smoothing < 1, "recipe.label_smoothing", self.label_smoothing, "in 0 <= x < 1")
        require(0 < self.layer_decay <= 1, "recipe.layer_decay", self.layer_decay, "in 0 < x <= 1")
        for name in ("lr", "max_lr", "ramp_power", "decay_power", "decay_gamma", "eps"):
            value = getattr(self, name)
            require(value is None or 0 < value < math.inf, f"recipe.{name}", value, "above 0")
        for name in ("end_lr", "weight_decay", "max_grad_norm"):
            require(0 <= getattr(self, name) < math.inf, f"recipe.{name}", getattr(self, name), "0 or above")
        for name in ("reference_batch_size", "decay_cycles", "max_skipped"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"recipe.{name}", value, "1 or above")
        for name, value in (("betas", self.betas[0]), ("betas", self.betas[1]), ("momentum", self.momentum)):
            require(0 <= value < 1, f"recipe.{name}", value, "in 0 <= beta < 1")
        require(0 <= self.alpha < 1, "recipe.alpha", self.alpha, "in 0 <= alpha < 1")
        start = self.start_lr
        number = isinstance(start, int | float) and 0 <= start < math.inf
        require(number or start == "reference", "recipe.start_lr", start, "0, above, or 'reference'")
        require(Duration.parse(self.duration, "recipe.duration").value > 0, "recipe.duration", self.duration, "above 0")
        Duration.parse(self.warmup, "recipe.warmup")
        for milestone in self.decay_milestones:
            Duration.parse(milestone, "recipe.decay_milestones")
        if self.decay_length is not None:
            length = Duration.parse(self.decay_length, "recipe.decay_length")
            require(length.value > 0, "recipe.decay_length", self.decay_length, "above 0")


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
            raise ValueError(
                "batch.accumulation and batch.global_size: give one; the other follows from it (null takes one back)"
            )


@dataclass(frozen=True)
class Data:
    """What is trained on."""

    train_files: Sequence[str] = ()
    """Training files, patterns such as 'corpus/*.txt.gz', folders written by Dataset.save_to_disk (of several splits:
    train), hub:NAME:SPLIT or hub:NAME:CONFIGURATION:SPLIT. None: docstrings of the installed Python packages. Files end
    in .csv, .tsv, .jsonl, .json (a list of objects), .txt (a document per line), .conll, .bio, .iob2 (a word and its
    tag per line) or .parquet; all but the last also in .gz, .bz2, .xz or .zst after that."""
    validation_files: Sequence[str] = ()
    """Held-out files, in the same ways (of several splits: validation). None: a part of the training rows is held
    out."""
    validation_fraction: float = 0.05
    """The part that is held out where there are no validation files."""
    text_column: str | None = None
    """Column of the text, or of the words (default: found by its name)."""
    pair_column: str | None = None
    """Column of the second text of a pair (default: found by its name, where there is one)."""
    label_column: str | None = None
    """Column of the label, or of the words' tags (default: found by its name)."""
    max_length: int = 128
    """Longest sample in tokens, special ones included. mlm, clm and token-classification make windows of the rest,
    other tasks cut it off."""
    mask_rate: float = 0.15
    """mlm: part of the tokens that is to be predicted (of these 80% masked, 10% replaced, 10% kept)."""
    whole_words: bool = False
    """mlm: predict all tokens of a word or none; words as the tokenizer takes a text apart."""
    tokenizer: str | None = None
    """Folder or hub name of a tokenizer (default: the model's; for a new model, trained on the data)."""
    vocab_size: int = 30522
    """Number of tokens of a tokenizer that is trained on the data (WordPieces; for clm of a byte-level BPE)."""
    max_bad_rows: int = 10
    """Rows that may be left out because they cannot be read; one more ends the run."""
    streaming: bool = False
    """mlm, clm: read the training files from their beginning to their end, again and again, and tokenise them on the
    way, instead of before the first step: for a corpus larger than the disk (hub data sets are not downloaded then).
    Lengths are in steps, samples or tokens."""
    shuffle_buffer: int = 10000
    """With streaming: documents that are shuffled at a time, and held in memory: fewer where they are whole books.
    Files are read in another order in each epoch."""
    cache_dir: str | None = None
    """Where tokenised data is kept (default: $WARMUP_CACHE, or ~/.cache/warmup)."""

    def __post_init__(self) -> None:
        for name in ("train_files", "validation_files"):
            object.__setattr__(self, name, tuple(map(os.path.expanduser, getattr(self, name))))
        _expand_home(self, "tokenizer", "cache_dir")
        require(0 < self.validation_fraction < 1, "data.validation_fraction", self.validation_fraction, "in 0 < x < 1")
        require(0 < self.mask_rate < 1, "data.mask_rate", self.mask_rate, "in 0 < x < 1")
        require(self.max_length >= 4, "data.max_length", self.max_length, "4 or above")
        require(self.vocab_size >= 100, "data.vocab_size", self.vocab_size, "100 or above")
        require(self.max_bad_rows >= 0, "data.max_bad_rows", self.max_bad_rows, "0 or above")
        require(self.shuffle_buffer >= 1, "data.shuffle_buffer", self.shuffle_buffer, "1 or above")
        if self.streaming and not self.validation_files:
            raise ValueError("data.validation_files: none given, and no rows can be held out of a stream; give some")


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
            interval(self.every, "checkpoint.every")


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
            timed = isinstance(interval(self.every, "evaluation.every"), float)
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


LANGUAGE_TASKS = ("mlm", "clm")
"""Tasks that learn from plain text, which needs no labels."""
CLASSIFIERS = ("classification", "token-classification")
"""Tasks whose labels are classes."""


@dataclass(frozen=True)
class Config:
    """One run: a recipe, the batch it is run at, the data and the model."""

    task: Literal["mlm", "clm", "classification", "regression", "token-classification"] = "mlm"
    """What is learned: masked language modelling; causal language modelling (to go on with a text, as GPT-2 does); the
    label of a text or of a pair of texts: a class, or a number (regression); or the tag of each word, such as named
    entities or parts of speech (token-classification)."""
    model: str = "tiny"
    """A new BERT, or for clm a new GPT-2 (tiny 2/128, mini 4/256, small 4/512, medium 8/512, base 12/768, large
    24/1024), a folder, or a hub name."""
    dropout: float | None = None
    """Dropout everywhere in the model (default: the model's own, 0.1 for a new one)."""
    seed: int = 0
    """Seed of initial weights, sample order, masks and dropout."""
    run_dir: str | None = None
    """Where everything is written (default: runs/<task>-<UTC time>)."""
    time_limit: str | None = None
    """Save and stop after so much wall time, e.g. "90 minutes", "11.5 hours"."""
    recipe: Recipe = field(default_factory=Recipe)
    batch: Batch = field(default_factory=Batch)
    data: Data = field(default_factory=Data)
    speed: Speed = field(default_factory=Speed)
    launch: Launch = field(default_factory=Launch)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    evaluation: Evaluation = field(default_factory=Evaluation)
    elastic: Elastic = field(default_factory=Elastic)
    log: Log = field(default_factory=Log)

    def __post_init__(self) -> None:
        _expand_home(self, "model", "run_dir")
        require(self.dropout is None or 0 <= self.dropout < 1, "dropout", self.dropout, "in 0 <= dropout < 1")
        require(0 <= self.seed < 2**63, "seed", self.seed, "in 0 <= seed < 2^63")
        if self.time_limit is not None:
            seconds(self.time_limit, "time_limit")
        for name in ("label_smoothing", "class_weights"):
            if getattr(self.recipe, name) and self.task not in CLASSIFIERS:
                raise ValueError(f"recipe.{name}: task: {self.task} has no classes; leave it out")
        if self.data.whole_words and self.task != "mlm":
            raise ValueError(f"data.whole_words: is for task mlm, not for {self.task}")
        if self.speed.compile and self.task == "clm":
            raise ValueError("speed.compile: is for BERT, RoBERTa and ELECTRA, not for task: clm")
        if self.data.streaming:
            self._check_streaming()

    def _check_streaming(self) -> None:
        if self.task not in LANGUAGE_TASKS:
            raise ValueError(f"data.streaming: is for language modelling, and task: {self.task} needs its labels first")
        for flag, text in (("checkpoint.every", self.checkpoint.every), ("evaluation.every", self.evaluation.every)):
            if str(text).strip().rstrip("s").endswith("epoch"):
                raise ValueError(
                    f"{flag}: {text!r}, but the length of a stream's epoch is not known; give steps, samples, tokens "
                    "or %"
                )


def _expand_home(config: object, *names: str) -> None:
    """~ in paths: the shell does not expand it in YAML, nor after an =."""
    for name in names:
        value = getattr(config, name)
        object.__setattr__(config, name, os.path.expanduser(value) if value else value)


def ratio_of(text: str) -> tuple[str, float]:
    """Name and ratio of one of `recipe.lr_ratios`. Raises ValueError where it is not one."""
    return _named_number(text, "recipe.lr_ratios", "a name and a number: classifier=10")


def weight_of(text: str) -> tuple[str, float]:
    """Class and weight of one of `recipe.class_weights`. Raises ValueError where it is not one."""
    return _named_number(text, "recipe.class_weights", f"a class and a number (positive=2), nor {BALANCED}, alone")


def _named_number(text: str, flag: str, wanted: str) -> tuple[str, float]:
    name, _, number = str(text).rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    require(bool(name) and 0 <= value < math.inf, flag, text, wanted)
    return name, value


def seconds(text: str, flag: str) -> float:
    """Seconds of a time such as "90 minutes". Raises ValueError, naming `flag`."""
    units = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
    number, _, unit = str(text).partition(" ")
    try:
        value = float(number) * units[unit.strip().rstrip("s")]
    except (KeyError, ValueError):
        raise ValueError(f'{flag}: {text!r} is not a time; write it like "90 minutes" or "11.5 hours"') from None
    require(0 < value < math.inf, flag, text, "above 0")
    return value


def interval(text: str, flag: str) -> Duration | float:
    """A duration, or seconds of a time such as "15 minutes". Raises ValueError, naming `flag`."""
    number, _, unit = str(text).strip().partition(" ")
    if unit.strip().rstrip("s") in ("second", "minute", "hour", "day"):
        return seconds(text, flag)
    duration = Duration.parse(text, flag)
    require(duration.value > 0, flag, text, "above 0")
    return duration
