"""Tasks by name. What a task is stands in `task.py`; each of them is one file beside it."""

from __future__ import annotations

from collections.abc import Callable

from warmup.config import Config
from warmup.training.tasks.classification import Classification
from warmup.training.tasks.clm import CausalLM
from warmup.training.tasks.mlm import MaskedLM
from warmup.training.tasks.multi_label import MultiLabel
from warmup.training.tasks.multiple_choice import MultipleChoice
from warmup.training.tasks.question_answering import QuestionAnswering
from warmup.training.tasks.regression import Regression
from warmup.training.tasks.task import Objective, Predictor, Task
from warmup.training.tasks.token_classification import TokenClassification

__all__ = ["REGISTRY", "Objective", "Predictor", "Task", "create_task"]

REGISTRY: dict[str, Callable[[Config], Task]] = {
    "mlm": MaskedLM,
    "clm": CausalLM,
    "classification": Classification,
    "multi-label": MultiLabel,
    "regression": Regression,
    "token-classification": TokenClassification,
    "multiple-choice": MultipleChoice,
    "question-answering": QuestionAnswering,
}


def create_task(config: Config) -> Task:
    """The task that a configuration names."""
    return REGISTRY[config.task](config)
