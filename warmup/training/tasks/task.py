"""What a task is: the protocol that every file in this folder meets, and the two things that it makes.

A sample predicts targets at positions of its tokens. There are four kinds, and batching, packing, the partial forward
pass, evaluation and exactness over ranks are the same code for all of them:

| what is predicted                             | head     | positions                | loss                    |
|-----------------------------------------------|----------|--------------------------|-------------------------|
| one thing for the whole sample                | sequence | its first token          | per position            |
| something for some tokens                     | token    | those tokens             | per position            |
| something for all tokens                      | token    | all that have a target   | per position            |
| which one of a group of positions is the right| either   | all of the sample's      | one softmax per sample: |
|                                               |          | group                    | losses.group_cross_entropy_sum |

`data/batching/micro_batch.py` has a function for each: sequence_targets, token_targets, group_targets. The step divides
the sum of the losses by the number of targets, and a group counts as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from warmup.config import Config
from warmup.config.tasks import TaskFacts
from warmup.errors import UserError
from warmup.training.data.batching.micro_batch import Targets
from warmup.training.data.batching.prefetcher import Collate
from warmup.training.data.readers.columns import RowFormat
from warmup.training.data.samples import Samples
from warmup.training.data.tokenizers.load import load_tokenizer
from warmup.training.data.tokenizers.train import train_wordpiece
from warmup.training.data.tokenizers.windows import TokenizeBatch
from warmup.training.models.build import ModelSpec
from warmup.training.models.input_layout import Head
from warmup.training.tasks.metrics.breakdown import Breakdown

Loss = Callable[[torch.Tensor, Targets], torch.Tensor]
"""(logits, targets) -> the sum of the losses of all targets, a scalar."""


@dataclass(frozen=True)
class Objective:
    """What is trained and measured, for one tokenizer and one set of labels."""

    collate: Collate
    losses: Callable[[torch.Tensor, Targets], torch.Tensor]
    """(logits, targets) -> (N,): what is measured, at each position."""
    training_loss_sum: Loss
    """What is minimised: their sum, or that of smoothed or weighted classes."""
    results: Callable[[torch.Tensor, Targets], torch.Tensor]
    """(logits, targets) -> (samples, width): what the metrics need of each sample, such as counts."""
    width: int
    metrics: Callable[[float, torch.Tensor], dict[str, float]]
    """(sum of the losses, results) -> metrics by name."""
    target_counts: Callable[[Targets], torch.Tensor] = lambda targets: targets.is_target_N
    """(N,): how many targets there are at each position, of which a group has some at its right position."""
    combine: Callable[[torch.Tensor, Samples], torch.Tensor] = lambda results, samples: results
    """(results of all samples, those samples) -> results of what metrics count: of rows, where these have several."""
    breakdown: Callable[[torch.Tensor], Breakdown] | None = None
    """results -> the scores of each class, tag or entity type; None where there are none."""
    model_settings: Callable[[torch.Tensor], dict[str, Any]] = lambda results: {}
    """results -> what the exported model's config is to hold of them, such as thresholds, for the predictor."""
    outcome: Callable[[Sequence[float]], dict[str, str | float]] = lambda result: {}
    """results of one sample -> its label and prediction, for a person to read; {} where they are many."""


@dataclass(frozen=True)
class Predictor:
    """How rows become predictions, for one tokenizer and one set of labels."""

    row_format: RowFormat
    tokenize: Callable[[dict[str, Any]], dict[str, list]]
    """Batch of rows -> sequences, at least one of each row. Columns: `ids`; `length`; `token_targets`, not 0 for tokens
    where something is predicted; `truncated`, whether a text was too long; and those of `features`."""
    features: Mapping[str, Any]
    """Types of further columns, such as `is_first` where a row may have several sequences."""
    width: int
    postprocess: Callable[[torch.Tensor], torch.Tensor]
    """Logits (n, C) at target positions -> (n, width), what is kept of them."""
    to_record: Callable[[np.ndarray, Sequence[dict[str, Any]]], dict[str, Any]]
    """(values (n, width) of a row's sequences, those sequences) -> the prediction as JSON."""
    no_target_message: str = ""
    """Why a row may have nothing to predict."""
    check_rows: Callable[[datasets.Dataset], None] = lambda rows: None
    """Raises UserError where the rows do not go together."""
    csv_columns: tuple[str, ...] = ()
    """What a .csv file holds of a record; () if it cannot hold one."""
    json_entry: tuple[str, str] | None = None
    """The name and the value, of those in a record, in the object that a .json file holds; None if it is not one."""


class Task(Protocol):
    """One task, configured. A task inherits what is usual, and states what is not."""

    facts: TaskFacts
    auto_class: Any
    """transformers' Auto class of its models."""
    head: Head
    outputs: tuple[str, ...] = ()
    """Names of the outputs of the model's head, where they are no classes of the data and no tokens."""
    causal: bool = False
    """Whether its models must not see later tokens."""
    row_format: RowFormat
    """What it reads of a row of training data."""
    features: Mapping[str, Any]
    """Types of the columns of its tokenised sequences, besides ids and length. With `is_first`, a row may have several
    of them, which metrics and predictions can join."""
    whole_rows: bool = False
    """Whether a sample is all sequences of a row, which are compared with one another, instead of one sequence."""

    def load_tokenizer(self, name: str, flag: str) -> PreTrainedTokenizerBase:
        """The tokenizer of a folder or hub name. Raises UserError, naming `flag`, if it does not suit the task."""
        return load_tokenizer(name, flag)

    def train_tokenizer(self, rows: datasets.Dataset, vocab_size: int) -> PreTrainedTokenizerBase:
        """A tokenizer for a new model, trained on the rows' texts."""
        return train_wordpiece(rows, vocab_size)

    def tokenizer_facts(self, tokenizer: PreTrainedTokenizerBase) -> list[Any]:
        """What of a tokenizer, besides its backend, decides how texts are tokenised."""
        return []

    def find_labels(self, train: datasets.Dataset, validation: datasets.Dataset) -> list[str]:
        """Names of the outputs of the model's head, none for language models. Raises UserError on bad rows or labels.

        Classes are brought into the order of the model that training starts from, or of the data set that declares one.

        Args:
            train: training rows.
            validation: held-out rows.
        """
        return list(self.outputs)

    def adapt_model(self, model: PreTrainedModel) -> None:
        """Let a model take sequences (B, T) and give `logits` for what is read, where its class would not."""

    def model_spec(self, config: Config, labels: Sequence[str]) -> ModelSpec:
        """The model of a configuration, built for it with these outputs."""
        return ModelSpec(
            name=config.model,
            auto_class=self.auto_class,
            max_length=config.data.max_length,
            seed=config.seed,
            dropout=config.dropout,
            labels=tuple(labels),
            problem_type=self.facts.problem_type,
            has_classes=self.facts.has_classes,
            causal=self.causal,
            adapt=self.adapt_model,
        )

    def notes(self, labels: Sequence[str]) -> dict[str, str]:
        """What a user should know at the start of a run about training on these labels, by a word for it."""
        return {}

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> TokenizeBatch:
        """What turns a batch of rows into sequences."""
        ...

    def objective(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], train: Any) -> Objective:
        """What is trained and measured.

        Args:
            tokenizer: of the samples.
            labels: what `find_labels` gave.
            train: training samples, to count classes in.
        """
        ...

    def output_biases(self, labels: Sequence[str], train: Any) -> Sequence[float]:
        """Biases of the outputs of a new head, (C,), where the training samples tell better ones than 0; else ()."""
        return ()

    def predictor(
        self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], settings: Mapping[str, Any]
    ) -> Predictor:
        """How rows become predictions. Raises UserError if this task has none.

        Args:
            tokenizer: of the model.
            labels: names of the outputs of its head.
            settings: its config, with what `Objective.model_settings` put there.
        """
        ...


def evaluation_batch(objective: Objective, samples: Samples, indices: np.ndarray) -> Any:
    """A micro-batch for evaluation, in which what is random depends on the sample only: the same in every run."""
    return objective.collate(samples, indices, np.zeros_like(indices), _EVALUATION_SEED)


def check_targets(objective: Objective, samples: Samples, flag: str, unknown: str = "") -> None:
    """Raise UserError where no sample has a target, so that nothing can be learned or measured.

    Args:
        objective: what is trained.
        samples: all of them.
        flag: where they are from.
        unknown: what is known of tokens that the tokenizer does not know.
    """
    for start in range(0, len(samples), _CHECKED):
        indices = np.arange(start, min(start + _CHECKED, len(samples)))
        if evaluation_batch(objective, samples, indices).target_count:
            return
    why = f" ({unknown})" if unknown else ""
    raise UserError(f"{flag}: none of {len(samples)} samples has anything to predict{why}")


_CHECKED = 256  # samples at a time
_EVALUATION_SEED = 0xE7A1


def significant(value: float) -> float:
    """A score rounded to six digits; the seventh depends on how many samples and threads were computed together."""
    return float(f"{value:.6g}")


def best_index(logits_nC: torch.Tensor) -> torch.Tensor:
    """The index of the largest logit, (n, 1); NaN where that is not finite."""
    best_n1, indices_n1 = logits_nC.max(-1, keepdim=True)
    return indices_n1.float().where(best_n1.isfinite(), torch.nan)
