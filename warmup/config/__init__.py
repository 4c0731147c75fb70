"""All configuration: what a YAML file and the command line may say. Frozen, checked, standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from warmup.config.checks import expand_home, parse_seconds, require
from warmup.config.data import Data
from warmup.config.recipe import Recipe
from warmup.config.run import Batch, Checkpoint, Elastic, Evaluation, Launch, Log, Speed
from warmup.config.tasks import CLASSIFIERS, LANGUAGE_TASKS
from warmup.errors import UserError


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
        expand_home(self, "model", "run_dir")
        require(self.dropout is None or 0 <= self.dropout < 1, "dropout", self.dropout, "in 0 <= dropout < 1")
        require(0 <= self.seed < 2**63, "seed", self.seed, "in 0 <= seed < 2^63")
        if self.time_limit is not None:
            parse_seconds(self.time_limit, "time_limit")
        for name in ("label_smoothing", "class_weights"):
            if getattr(self.recipe, name) and self.task not in CLASSIFIERS:
                raise UserError(f"recipe.{name}: task: {self.task} has no classes; leave it out")
        if self.data.whole_words and self.task != "mlm":
            raise UserError(f"data.whole_words: is for task mlm, not for {self.task}")
        if self.speed.compile and self.task == "clm":
            raise UserError("speed.compile: is for BERT, RoBERTa and ELECTRA, not for task: clm")
        if self.data.streaming:
            self._check_streaming()

    def _check_streaming(self) -> None:
        if self.task not in LANGUAGE_TASKS:
            raise UserError(f"data.streaming: is for language modelling, and task: {self.task} needs its labels first")
        for flag, text in (("checkpoint.every", self.checkpoint.every), ("evaluation.every", self.evaluation.every)):
            if str(text).strip().rstrip("s").endswith("epoch"):
                raise UserError(
                    f"{flag}: {text!r}, but the length of a stream's epoch is not known; give steps, samples, tokens "
                    "or %"
                )
