"""Facts about each task that need no library: for --help, the plan command, prediction and the model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""What transformers' config.problem_type can be."""
TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""Kinds of file whose rows have named columns."""
WORD_FILES = (".conll", ".bio", ".iob2")
"""Kinds of file with one word and its tag per line."""
TEXT_FILES = (".txt",)
"""Kinds of file with one text per line, and no labels."""


@dataclass(frozen=True)
class TaskFacts:
    """One task as the user sees it. Everything else about it is in `warmup/training/tasks/<name>.py`."""

    name: str
    help: str
    """One line for --help."""
    metrics: tuple[str, ...]
    """Held-out metrics by which evaluations can be compared: what `evaluation.metric` may be."""
    pipeline: str | None
    """transformers' pipeline that runs the exported model; None if it has none for this task."""
    architectures: tuple[str, ...]
    """Endings of the names of transformers' model classes that are trained for it; that of its Auto class first."""
    label: Literal["class", "classes", "tags", "number", "choice", "answers"] | None = None
    """What a row's label is: one of several classes, any number of them, one for each word, a number, one of the row's
    own choices, or answers in the words of its text; None for tasks without labels."""
    problem_type: ProblemType | None = None
    """What its labels are to transformers."""
    label_means: str = ""
    """What its files must hold, for the error that none were given; "" if the default corpus will do."""
    file_kinds: tuple[str, ...] = TABLES
    """Kinds of file that it trains on."""
    predicts_lines: bool = True
    """Whether predictions are also made for each line of a .txt file."""
    fields: tuple[str, ...] = ()
    """Fields of the configuration that this task has and not every other one."""
    prediction_fields: tuple[str, ...] = ()
    """Those of them, besides columns of the data, that a run's model predicts with as it was trained with them."""
    model_settings: tuple[str, ...] = ()
    """What evaluations choose and the config of an exported model holds, besides what transformers has there."""
    other_names: tuple[str, ...] = ()
    """What pipelines and example scripts call it, and their data sets."""
    script_options: tuple[str, ...] = ()
    """Options that only transformers' example script for it has: a sign that a command is of that one."""
    lower_is_better: tuple[str, ...] = ("loss",)
    """Metrics for which a lower value is better."""
    pipeline_options: str = ""
    """Arguments that make the pipeline return what was trained."""
    no_prediction: str = ""
    """Why --predict does not work for it, with {model} where the model is named; "" if it works."""
    new_model: str = "BERT"
    """What `model: tiny` and the other sizes are."""
    recipe: str = ""
    """The file in configs/ that is the base of a run without a --config."""
    recipe_on_docstrings: str = ""
    """The same for a run on the default corpus; "" if that is no other one."""

    @property
    def has_classes(self) -> bool:
        """Whether labels are names of classes."""
        return self.label in ("class", "classes", "tags")

    @property
    def hub_task(self) -> str:
        """What the hub calls it."""
        return self.pipeline or self.name


_ALL = (
    TaskFacts(
        name="mlm",
        help="masked language modelling, BERT's pretraining",
        recipe="pretrain_mlm.yaml",
        recipe_on_docstrings="quickstart_pretrain.yaml",
        metrics=("loss", "perplexity", "accuracy"),
        lower_is_better=("loss", "perplexity"),
        pipeline="fill-mask",
        architectures=("ForMaskedLM", "ForPreTraining"),
        file_kinds=TABLES + TEXT_FILES,
        fields=("data.whole_words", "data.streaming", "speed.compile"),
        other_names=("fill-mask", "masked-lm", "pretraining"),
        script_options=("mlm_probability", "line_by_line"),
    ),
    TaskFacts(
        name="clm",
        help="causal language modelling: continuing a text, as GPT-2 does",
        recipe="pretrain_clm.yaml",
        metrics=("loss", "perplexity", "accuracy"),
        lower_is_better=("loss", "perplexity"),
        pipeline="text-generation",
        architectures=("ForCausalLM", "LMHeadModel"),
        file_kinds=TABLES + TEXT_FILES,
        fields=("data.streaming",),
        other_names=("text-generation", "causal-lm", "lm"),
        script_options=("block_size",),
        no_prediction="a causal language model writes on, which is transformers' work: "
        'pipeline("text-generation", model="{model}")',
        new_model="GPT-2",
    ),
    TaskFacts(
        name="classification",
        help="the class of a text or of a pair of texts",
        recipe="finetune_classification.yaml",
        recipe_on_docstrings="quickstart_finetune.yaml",
        metrics=("loss", "accuracy", "f1", "matthews"),
        pipeline="text-classification",
        architectures=("ForSequenceClassification",),
        label="class",
        problem_type="single_label_classification",
        other_names=("text-classification", "sequence-classification", "sentiment-analysis"),
        script_options=("text_column_names", "metric_name"),
        fields=(
            "data.pair_column",
            "data.ignore_labels",
            "recipe.label_smoothing",
            "recipe.class_weights",
            "speed.compile",
        ),
    ),
    TaskFacts(
        name="multi-label",
        help="any number of labels for a text or for a pair of texts",
        recipe="finetune_multi_label.yaml",
        metrics=("loss", "micro_f1", "macro_f1", "subset_accuracy"),
        pipeline="text-classification",
        pipeline_options=", top_k=None",  # the probability of each label
        architectures=("ForSequenceClassification",),
        label="classes",
        problem_type="multi_label_classification",
        model_settings=("thresholds",),
        other_names=("multi-label-classification", "multilabel"),
        label_means="files whose rows have labels",
        fields=(
            "data.pair_column",
            "data.label_columns",
            "data.label_separator",
            "data.label_names",
            "recipe.label_smoothing",
            "recipe.class_weights",
            "evaluation.thresholds",
            "speed.compile",
        ),
    ),
    TaskFacts(
        name="regression",
        help="a number for a text or for a pair of texts",
        recipe="finetune_classification.yaml",
        metrics=("loss", "mse", "pearson", "spearman"),
        lower_is_better=("loss", "mse"),
        pipeline="text-classification",
        pipeline_options=', function_to_apply="none"',  # the number itself
        architectures=("ForSequenceClassification",),
        label="number",
        problem_type="regression",
        label_means="files whose labels are numbers",
        fields=("data.pair_column", "speed.compile"),
    ),
    TaskFacts(
        name="token-classification",
        help="the tag of each word, such as named entities or parts of speech",
        recipe="finetune_tokens.yaml",
        metrics=("loss", "accuracy", "f1"),
        pipeline="token-classification",
        pipeline_options=', aggregation_strategy="first"',  # a word's tag, which its first piece has
        architectures=("ForTokenClassification",),
        label="tags",
        problem_type="single_label_classification",
        other_names=("ner", "pos", "chunk"),
        script_options=("return_entity_level_metrics", "label_all_tokens"),
        label_means="files of words and their tags",
        file_kinds=TABLES + WORD_FILES,
        fields=(
            "data.word_column",
            "data.tag_column",
            "data.ignore_labels",
            "recipe.label_smoothing",
            "recipe.class_weights",
            "speed.compile",
        ),
    ),
    TaskFacts(
        name="multiple-choice",
        help="which of its choices answers a question or goes on with a text",
        recipe="finetune_multiple_choice.yaml",
        metrics=("loss", "accuracy"),
        pipeline=None,
        architectures=("ForMultipleChoice",),
        label="choice",
        other_names=("swag", "multiple_choice"),
        label_means="files of questions with choices and answers",
        fields=("data.pair_column", "data.choice_column", "data.choice_columns", "speed.compile"),
    ),
    TaskFacts(
        name="question-answering",
        help="the words of a text that answer a question, or that it has no answer there",
        recipe="finetune_question_answering.yaml",
        metrics=("loss", "exact_match", "f1"),
        pipeline=None,
        architectures=("ForQuestionAnswering",),
        label="answers",
        label_means="files of questions, their contexts and answers",
        predicts_lines=False,
        fields=(
            "data.pair_column",
            "data.doc_stride",
            "evaluation.max_answer_length",
            "evaluation.n_best",
            "speed.compile",
        ),
        prediction_fields=("data.doc_stride", "evaluation.max_answer_length", "evaluation.n_best"),
        model_settings=("null_threshold",),
        other_names=("qa", "squad", "squad_v2", "extractive-qa"),
        script_options=("doc_stride", "n_best_size", "max_answer_length", "version_2_with_negative"),
    ),
)
TASKS: dict[str, TaskFacts] = {facts.name: facts for facts in _ALL}
"""All tasks by name."""

CALLED_ELSEWHERE = {name: facts.name for facts in _ALL for name in facts.other_names}
"""The name of a task by other names of it."""


def tasks_with(field: str) -> list[str]:
    """Names of the tasks that have a field of the configuration; all of them if no task claims it."""
    return [name for name, facts in TASKS.items() if field in facts.fields] or list(TASKS)


def name_tasks(names: Sequence[str]) -> str:
    """Tasks in words: "the task a", "the tasks a, b and c"."""
    *others, last = names
    return f"the tasks {', '.join(others)} and {last}" if others else f"the task {last}"


def lower_is_better(task: str, metric: str) -> bool:
    """Whether the evaluation with the lower value of this metric is the better one."""
    return metric in TASKS[task].lower_is_better
