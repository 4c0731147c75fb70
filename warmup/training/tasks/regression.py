"""Regression: a number for a text or for a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import datasets
import numpy as np
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from warmup.config import Config
from warmup.config.tasks import TASKS
from warmup.training.data.readers.values import parse_number
from warmup.training.data.tokenizers.windows import TokenizeBatch
from warmup.training.models.input_layout import Head
from warmup.training.tasks import text_pairs
from warmup.training.tasks.losses import squared_error, squared_error_sum
from warmup.training.tasks.metrics import prediction_and_label, regression_metrics
from warmup.training.tasks.metrics.breakdown import number_breakdown, number_outcome
from warmup.training.tasks.task import Objective, Predictor, Task, significant


class Regression(Task):
    """Predicts a number for each text or pair of texts."""

    facts = TASKS["regression"]
    auto_class: Any = AutoModelForSequenceClassification
    head: Head = "sequence"
    outputs = ("value",)
    features: Mapping[str, Any] = {**text_pairs.LABELLED_FEATURES, "label": datasets.Value("float64")}

    def __init__(self, config: Config):
        self._data = config.data
        self.row_format = text_pairs.row_format(config.data, parse_number)

    def find_labels(self, train: datasets.Dataset, validation: datasets.Dataset) -> list[str]:
        text_pairs.check_pairs(train, validation)
        return list(self.outputs)

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> TokenizeBatch:
        return text_pairs.tokenize_labelled(tokenizer, self._data.max_length, float)

    def objective(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], train: Any) -> Objective:
        return Objective(
            collate=text_pairs.collate_labelled(tokenizer, partial(np.array, dtype=np.float32)),
            losses=squared_error,
            training_loss_sum=squared_error_sum,
            results=lambda logits, targets: prediction_and_label(logits.flatten().float(), targets),
            width=2,
            metrics=regression_metrics,
            breakdown=number_breakdown,
            outcome=number_outcome,
        )

    def predictor(
        self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], settings: Mapping[str, Any]
    ) -> Predictor:
        return text_pairs.predictor(
            self.row_format,
            tokenizer,
            self._data.max_length,
            width=1,
            postprocess=lambda logits_n1: logits_n1,
            to_record=lambda values, samples: {"value": significant(values[0, 0])},
            csv_columns=("value",),
        )
