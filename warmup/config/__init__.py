"""All configuration: what a YAML file and the command line may say. Frozen, checked, standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter

from warmup.config.checks import expand_home, parse_seconds, require
from warmup.config.data import Data
from warmup.config.recipe import Recipe
from warmup.config.run import Batch, Checkpoint, Elastic, Evaluation, Launch, Log, Speed
from warmup.config.tasks import CALLED_ELSEWHERE, TASKS, name_tasks, tasks_with
from warmup.errors import UserError


@dataclass(frozen=True)
class Config:
    """One run: a recipe, the batch it is run at, the data and the model."""

    task: str = "mlm"
    """What to train for:"""
    model: str = "tiny"
    """A new BERT, or for clm a new GPT-2 (tiny 2/128, mini 4/256, small 4/512, medium 8/512, base 12/768, large
    24/1024), a folder, or a hub name."""
    dropout: float | None = None
    """Dropout probability in the whole model (default: the model's own, 0.1 for a new one)."""
    seed: int = 0
    """Seed of initial weights, sample order, masking and dropout."""
    run_dir: str | None = None
    """Folder that everything is written to (default: runs/<task>-<UTC time>)."""
    time_limit: str | None = None
    """Save and stop after this much wall time, e.g. "90 minutes", "11.5 hours"."""
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
        self._check_task()
        if self.data.streaming:
            self._check_streaming()

    def _check_task(self) -> None:
        """Raise UserError for an unknown task, and for what this one does not have."""
        if self.task in CALLED_ELSEWHERE:
            raise UserError(f"task: {self.task!r} is called {CALLED_ELSEWHERE[self.task]} here")
        require(self.task in TASKS, "task", self.task, f"one of {', '.join(TASKS)}")
        for name in {name: None for facts in TASKS.values() for name in facts.fields}:
            value = attrgetter(name)
            if value(self) != _default(name) and self.task not in tasks_with(name):
                raise UserError(f"{name}: is for {name_tasks(tasks_with(name))}, not for {self.task}; leave it out")
        metric, metrics = self.evaluation.metric, TASKS[self.task].metrics
        if metric not in metrics:
            raise UserError(f"evaluation.metric: {metric!r} is none of those of {self.task}: {', '.join(metrics)}")

    def _check_streaming(self) -> None:
        for flag, text in (("checkpoint.every", self.checkpoint.every), ("evaluation.every", self.evaluation.every)):
            if str(text).strip().rstrip("s").endswith("epoch"):
                raise UserError(
                    f"{flag}: {text!r}, but the length of a stream's epoch is not known; give steps, samples, tokens "
                    "or %"
                )


def _default(name: str) -> object:
    """The default of a field of a section, by its dotted name."""
    section, _, field_name = name.partition(".")
    sections = {"recipe": Recipe, "data": Data, "speed": Speed, "evaluation": Evaluation}
    return sections[section].__dataclass_fields__[field_name].default
