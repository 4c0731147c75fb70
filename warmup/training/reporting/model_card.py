"""The model card: what a model was trained from and how, for those who find it without its run directory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from warmup.commandline.words import Option
from warmup.config import Config
from warmup.config.tasks import TASKS, TaskFacts
from warmup.explain import explain_plan
from warmup.plan import Plan
from warmup.training.data.prepare import Prepared
from warmup.training.models.build import is_new_model
from warmup.training.reporting.console import library_versions
from warmup.training.reporting.published import (
    HUB,
    configuration,
    is_on_hub,
    published_checkpoint,
    published_files,
    published_path,
    rerun,
)

_COUNTS = ("targets",)
"""What is counted in an evaluation beside its metrics."""
_MOST_CLASSES = 50
_METRIC_TYPES = {
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "micro_f1": "f1",
    "macro_f1": "f1",
    "subset_accuracy": "accuracy",
}
"""The hub's names of metrics, where they are others than here."""


@dataclass(frozen=True)
class TrainedModel:
    """All that a card says of a model, apart from what it has in its own files."""

    config: Config
    plan: Plan
    data: Prepared
    metrics: Mapping[str, float]
    """Held-out metrics of the exported weights."""
    step: int
    """The step after which they were evaluated."""
    options: Sequence[Option]
    """The options of train.py as they were given."""
    launcher: Sequence[str]
    """The words in front of them that start as many ranks."""
    hardware: str
    parameters: int
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Scores of each class, tag or entity type, as result.json has them."""
    picture: str = ""
    """The file beside the card that shows the loss; "" if there is none."""
    origin: Mapping[str, Any] | None = None
    """Where the run branched off, as `branch.read_origin` returns it."""


def model_card(trained: TrainedModel) -> str:
    """The text of an exported model's README.md.

    A card may be published, so of the paths of this machine it contains only the last part.
    """
    config, plan = trained.config, trained.plan
    facts = TASKS[config.task]
    return f"""---
{_header(trained).to_yaml()}
---

# {config.log.push_to_hub or f"{facts.hub_task} model"}

```python
{_loading(facts, config.log.push_to_hub or "path/to/this/folder")}
```

## Held-out metrics

After step {trained.step}, on {_amount(trained)}:

{_table(("metric", "value"), [(name, f"{value:.6g}") for name, value in _metrics(trained).items()])}
{_per_class(trained)}{_picture(trained)}
## Model, data and versions

{_table(("what", "value"), _sources(trained))}

## Plan

{_table(("what", "value", "how it was computed"), explain_plan(plan))}

## Command and configuration

{rerun(config, trained.launcher, _options(trained), _block)}

The whole configuration, which `train.py --config` accepts:

{_block("yaml", configuration(config))}
"""


def _loading(facts: TaskFacts, place: str) -> str:
    """Python that loads the model: in its pipeline if there is one."""
    if facts.pipeline:
        return (
            f'from transformers import pipeline\nmodel = pipeline("{facts.pipeline}", '
            f'model="{place}"{facts.pipeline_options})'
        )
    auto_class = f"AutoModel{facts.architectures[0]}"
    return (
        f'from transformers import {auto_class}, AutoTokenizer\ntokenizer = AutoTokenizer.from_pretrained("{place}")\n'
        f'model = {auto_class}.from_pretrained("{place}")'
    )


def _options(trained: TrainedModel) -> list[Option]:
    """Those that train the model again: of a branch also after a resumption with the checkpoint that it began at."""
    others = [option for option in trained.options if option.name != "branch_from"]
    origin = trained.origin
    return [*others, *([Option("branch_from", (published_checkpoint(origin["checkpoint"]),))] if origin else [])]


def _per_class(trained: TrainedModel) -> str:
    """A table of the scores of each class; of many, those that are labels most often."""
    if not trained.per_class:
        return ""
    shown = sorted(trained.per_class.items(), key=lambda item: -item[1]["support"])[:_MOST_CLASSES]
    more = len(trained.per_class) - len(shown)
    rows = [
        (_code(name), *(f"{scores[key]:.3f}" for key in ("precision", "recall", "f1")), f"{int(scores['support']):,}")
        for name, scores in shown
    ]
    note = f"\nAnd {more} more that are labels less often.\n" if more else ""
    return f"\n{_table(('label', 'precision', 'recall', 'F1', 'support'), rows)}\n{note}"


def _picture(trained: TrainedModel) -> str:
    return f"\n![Training and held-out loss over steps]({trained.picture})\n" if trained.picture else ""


def _metrics(trained: TrainedModel) -> dict[str, float]:
    return {name: value for name, value in trained.metrics.items() if name not in _COUNTS}


def _amount(trained: TrainedModel) -> str:
    samples = f"{len(trained.data.validation)} samples"
    targets = trained.metrics.get("targets")
    return samples if targets is None else f"{samples} with {int(targets)} targets"


def _header(trained: TrainedModel) -> ModelCardData:
    """The metadata that the hub reads."""
    config = trained.config
    files = [*config.data.train_files, *config.data.validation_files]
    names = list(dict.fromkeys(name.split(":")[1] for name in files if name.startswith(HUB)))
    types = [_METRIC_TYPES.get(name, name) for name in _metrics(trained) if name != "loss"]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=TASKS[config.task].hub_task,
        language=config.log.language,
        license=config.log.license,
        base_model=config.model if is_on_hub(config.model) else None,
        datasets=names or None,
        metrics=types,
        tags=["bert-warmup"],
        model_name=config.log.push_to_hub or f"{TASKS[config.task].hub_task} model",
        eval_results=[_eval_result(trained, name, value) for name, value in _metrics(trained).items()],
    )


def _eval_result(trained: TrainedModel, name: str, value: float) -> EvalResult:
    """A metric as an entry of the header's model-index, with the data that it was measured on."""
    facts, data = TASKS[trained.config.task], trained.config.data
    held_out = data.validation_files or data.train_files
    _, dataset, *configuration, split = (
        held_out[0].split(":") if held_out and held_out[0].startswith(HUB) else [None] * 3
    )
    kind = "docstrings" if not held_out else published_path(held_out[0]).split(".", 1)[-1]
    return EvalResult(
        task_type=facts.hub_task,
        dataset_type=dataset or kind,
        dataset_name=dataset or _validation_text(trained, plain=True),
        dataset_config=configuration[0] if configuration else None,
        dataset_split=split,
        metric_type=_METRIC_TYPES.get(name, name),
        metric_value=value,
        metric_name=name,
    )


def _validation_text(trained: TrainedModel, plain: bool = False) -> str:
    data = trained.config.data
    if data.validation_files:
        return _names(data.validation_files, plain)
    rows = f"{data.validation_fraction:g} of the training rows, held out"
    return rows if not plain else f"{rows} ({_names(data.train_files, plain) or 'docstrings'})"


def _sources(trained: TrainedModel) -> list[tuple[str, str]]:
    """Rows (name, value): model, data, hardware and libraries."""
    config, data = trained.config, trained.data
    train = _names(config.data.train_files) or "docstrings of the installed Python packages"
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    new = is_new_model(config.model)
    model = f"a new {TASKS[config.task].new_model}, {config.model}" if new else _code(published_path(config.model))
    origin = trained.origin
    parent = published_checkpoint(origin["checkpoint"]) if origin else ""
    return [
        ("base model", model),
        *([("branched from", f"{_code(parent)}, after {origin['samples']:,} samples")] if origin else []),
        ("parameters", f"{trained.parameters:,}"),
        ("training data", f"{train}: {data.amount}"),
        ("validation data", f"{_validation_text(trained)}: {len(data.validation)} samples"),
        ("hardware", trained.hardware),
        ("versions", versions),
    ]


def _names(files: Sequence[str], plain: bool = False) -> str:
    return ", ".join(name if plain else _code(name) for name in published_files(files))


def _code(text: str) -> str:
    """A name as code in Markdown: one line, and in more backticks than it has in a row itself."""
    text = " ".join(text.splitlines())
    fence = "`" * (_longest_backticks(text) + 1)
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _block(language: str, text: str) -> str:
    """Lines of code in Markdown, between fences that do not occur in them."""
    fence = "`" * max(3, _longest_backticks(text) + 1)
    return f"{fence}{language}\n{text.rstrip(chr(10))}\n{fence}"


def _longest_backticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown. What is in a cell cannot end it."""
    cells = [[" ".join(cell.splitlines()).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
