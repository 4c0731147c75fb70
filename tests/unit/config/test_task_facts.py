"""Facts about tasks: they fit the configuration, the readers and each other; an unknown task or field is refused."""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter

import pytest

from warmup.config import Config
from warmup.config.data import Data
from warmup.config.recipe import Recipe
from warmup.config.run import Evaluation, Speed
from warmup.config.tasks import (
    CALLED_ELSEWHERE,
    TABLES,
    TASKS,
    TEXT_FILES,
    WORD_FILES,
    TaskFacts,
    lower_is_better,
    name_tasks,
    tasks_with,
)
from warmup.errors import UserError
from warmup.training.data.readers import _READERS
from warmup.training.run import arguments

EACH = pytest.mark.parametrize("facts", TASKS.values(), ids=TASKS)
CHANGED = {  # a value of each field that only some tasks have
    "data.whole_words": ("data", Data(whole_words=True)),
    "data.word_column": ("data", Data(word_column=1)),
    "data.tag_column": ("data", Data(tag_column=2)),
    "data.ignore_labels": ("data", Data(ignore_labels=("-1",))),
    "data.streaming": ("data", Data(train_files=("a.txt",), validation_files=("b.txt",), streaming=True)),
    "data.label_columns": ("data", Data(label_columns=("joy", "love"))),
    "data.label_separator": ("data", Data(label_separator="|")),
    "data.label_names": ("data", Data(label_names="names.txt")),
    "data.choice_column": ("data", Data(choice_column="options")),
    "data.choice_columns": ("data", Data(choice_columns=("a", "b"))),
    "data.doc_stride": ("data", Data(doc_stride=20)),
    "evaluation.max_answer_length": ("evaluation", Evaluation(max_answer_length=9)),
    "evaluation.n_best": ("evaluation", Evaluation(n_best=3)),
    "evaluation.thresholds": ("evaluation", Evaluation(thresholds="tuned")),
    "data.pair_column": ("data", Data(pair_column="second")),
    "recipe.label_smoothing": ("recipe", Recipe(label_smoothing=0.1)),
    "recipe.class_weights": ("recipe", Recipe(class_weights=("balanced",))),
    "speed.compile": ("speed", Speed(compile=True)),
}
CLAIMED = sorted({field for facts in TASKS.values() for field in facts.fields})


@EACH
def test_every_field_that_a_task_claims_exists(facts: TaskFacts) -> None:
    config = Config(task=facts.name)
    for name in facts.fields:
        section, _, field = name.partition(".")
        assert field in {field_.name for field_ in fields(attrgetter(section)(config))}
    assert len(set(facts.fields)) == len(facts.fields)


@EACH
def test_every_kind_of_file_has_a_reader(facts: TaskFacts) -> None:
    assert set(facts.file_kinds) <= set(_READERS)
    assert facts.file_kinds[: len(TABLES)] == TABLES and len(set(facts.file_kinds)) == len(facts.file_kinds)


def test_every_reader_is_for_a_kind_of_file_of_some_task() -> None:
    assert set(_READERS) == {*TABLES, *TEXT_FILES, *WORD_FILES}
    assert set(_READERS) == {kind for facts in TASKS.values() for kind in facts.file_kinds}


@EACH
def test_facts_agree_with_each_other(facts: TaskFacts) -> None:
    assert TASKS[facts.name] is facts
    assert set(facts.lower_is_better) <= set(facts.metrics) and len(set(facts.metrics)) == len(facts.metrics)
    assert [metric for metric in facts.metrics if lower_is_better(facts.name, metric)] == list(facts.lower_is_better)
    assert Evaluation().metric in facts.metrics
    assert facts.help and "\n" not in facts.help and facts.architectures
    assert not (facts.label and set(TEXT_FILES) & set(facts.file_kinds))  # lines have no labels
    assert "{model}" in facts.no_prediction or not facts.no_prediction


def test_tasks_that_have_a_field() -> None:
    assert tasks_with("data.whole_words") == ["mlm"]
    assert tasks_with("data.streaming") == ["mlm", "clm"]
    assert tasks_with("recipe.class_weights") == ["classification", "multi-label", "token-classification"]
    assert tasks_with("speed.compile") == [name for name in TASKS if name != "clm"]
    assert tasks_with("recipe.lr") == list(TASKS)  # which no task claims


@pytest.mark.parametrize("name", CLAIMED)
def test_a_field_is_refused_for_every_other_task(name: str) -> None:
    section, changed = CHANGED[name]
    for task in TASKS:
        if task in tasks_with(name):
            Config(task=task, **{section: changed})
        else:
            with pytest.raises(UserError) as caught:
                Config(task=task, **{section: changed})
            names = name_tasks(tasks_with(name))
            assert str(caught.value) == f"{name}: is for {names}, not for {task}; leave it out"


def test_tasks_are_named_in_words() -> None:
    assert name_tasks(["a"]) == "the task a"
    assert name_tasks(["a", "b"]) == "the tasks a and b"
    assert name_tasks(["a", "b", "c"]) == "the tasks a, b and c"


@EACH
def test_an_evaluation_metric_is_one_of_the_task(facts: TaskFacts) -> None:
    for metric in {metric for other in TASKS.values() for metric in other.metrics}:
        if metric in facts.metrics:
            Config(task=facts.name, evaluation=Evaluation(metric=metric))
        else:
            with pytest.raises(UserError) as caught:
                Config(task=facts.name, evaluation=Evaluation(metric=metric))
            names = ", ".join(facts.metrics)
            assert str(caught.value) == f"evaluation.metric: {metric!r} is none of those of {facts.name}: {names}"


def test_an_unknown_task_is_refused_with_the_list_of_tasks() -> None:
    message = f"task: 'nor' is not one of {', '.join(TASKS)}"
    for refused in (lambda: Config(task="nor"), lambda: arguments.parse(["--task", "nor"])):
        with pytest.raises(UserError) as caught:
            refused()
        assert str(caught.value) == message
    assert message.endswith(", ".join(TASKS))


@pytest.mark.parametrize(("name", "meant"), CALLED_ELSEWHERE.items())
def test_a_task_that_is_called_something_else(name: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        Config(task=name)
    assert str(caught.value) == f"task: {name!r} is called {meant} here" and meant in TASKS and name not in TASKS
