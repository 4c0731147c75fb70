"""The facts of GLUE's nine tasks: files, columns, labels, metrics. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from warmup.errors import UserError

HUB = "nyu-mll/glue"
"""The data set of the Hugging Face hub; a configuration for each task, named as here."""


@dataclass(frozen=True, eq=False)
class GlueTask:
    """One task."""

    name: str
    """As --tasks and the hub name it."""
    folder: str
    """As GLUE's folder names it."""
    metrics: tuple[str, ...]
    """Those that GLUE scores it by, as they are called here."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """GLUE's names of the classes, by those of the hub's data set; {} for a number."""
    pairs: bool = True
    """Whether a row has two texts."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """GLUE's columns of `text`, `pair` and `label`, where they are not known by their usual names."""
    header: tuple[str, ...] = ()
    """The columns of train.tsv and dev.tsv, where these have no header."""
    variants: tuple[str, ...] = ("",)
    """What parts held-out sets, where there are several: it ends their names. Training evaluates on the first."""
    submissions: tuple[str, ...] = ()
    """Names of the files with predictions that GLUE's server takes, one for each variant."""

    @property
    def task(self) -> str:
        """The task that train.py calls it."""
        return "classification" if self.labels else "regression"

    @property
    def parts(self) -> dict[str, str]:
        """Names of the files here, by the names of GLUE's: train, dev and test, with their variants."""
        held_out = {
            f"{theirs}{variant}": f"{ours}{variant}"
            for theirs, ours in (("dev", "validation"), ("test", "test"))
            for variant in self.variants
        }
        return {"train": "train", **held_out}


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _binary(zero: str, one: str) -> dict[str, str]:
    """Classes that GLUE's files number."""
    return {zero: "0", one: "1", "0": "0", "1": "1"}


TASKS = {
    task.name: task
    for task in (
        GlueTask(
            "cola", "CoLA", ("matthews",), _binary("unacceptable", "acceptable"), pairs=False,
            columns={"text": "sentence"}, header=("source", "label", "annotation", "sentence"), submissions=("CoLA",),
        ),
        GlueTask("sst2", "SST-2", ("accuracy",), _binary("negative", "positive"), False, submissions=("SST-2",)),
        GlueTask(
            "mrpc", "MRPC", ("f1", "accuracy"), _binary("not_equivalent", "equivalent"),
            columns={"text": "#1 String", "pair": "#2 String", "label": "Quality"}, submissions=("MRPC",),
        ),
        GlueTask("stsb", "STS-B", ("pearson", "spearman"), submissions=("STS-B",)),
        GlueTask(
            "qqp", "QQP", ("f1", "accuracy"), _binary("not_duplicate", "duplicate"),
            columns={"label": "is_duplicate"}, submissions=("QQP",),
        ),
        GlueTask(
            "mnli", "MNLI", ("accuracy",), _same("entailment", "neutral", "contradiction"),
            columns={"label": "gold_label"}, variants=("_matched", "_mismatched"), submissions=("MNLI-m", "MNLI-mm"),
        ),
        GlueTask("qnli", "QNLI", ("accuracy",), _same("entailment", "not_entailment"), submissions=("QNLI",)),
        GlueTask("rte", "RTE", ("accuracy",), _same("entailment", "not_entailment"), submissions=("RTE",)),
        GlueTask("wnli", "WNLI", ("accuracy",), _binary("not_entailment", "entailment"), submissions=("WNLI",)),
    )
}  # fmt: skip


def choose(names: Sequence[str]) -> tuple[GlueTask, ...]:
    """Tasks by their names here or in GLUE, in GLUE's order. Raises UserError for a name that is none."""
    plain = [name.strip().lower().replace("-", "") for name in names]
    for name, text in zip(plain, names, strict=True):
        if name not in TASKS:
            raise UserError(f"--tasks: {text!r} is none of {', '.join(TASKS)}")
    return tuple(task for task in TASKS.values() if task.name in plain)
