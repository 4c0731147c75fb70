"""Classification: the class of a text or of a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import datasets
import numpy as np
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from warmup.config import Config
from warmup.config.tasks import TASKS
from warmup.training.data.readers.values import parse_class
from warmup.training.data.tokenizers.windows import TokenizeBatch
from warmup.training.models.input_layout import Head
from warmup.training.tasks import text_pairs
from warmup.training.tasks.labels import find_classes
from warmup.training.tasks.losses import classification_loss, cross_entropy
from warmup.training.tasks.metrics import class_metrics, prediction_and_label
from warmup.training.tasks.metrics.breakdown import class_breakdown, class_outcome
from warmup.training.tasks.task import Objective, Predictor, Task


class Classification(Task):
    """Predicts one of several classes for each text or pair of texts."""

    facts = TASKS["classification"]
    auto_class: Any = AutoModelForSequenceClassification
    head: Head = "sequence"
    features: Mapping[str, Any] = {**text_pairs.LABELLED_FEATURES, "label": datasets.Value("int32")}

    def __init__(self, config: Config):
        self._data, self._recipe = config.data, config.recipe
        self.row_format = text_pairs.row_format(config.data, parse_class)

    def find_labels(self, train: datasets.Dataset, validation: datasets.Dataset) -> list[str]:
        labels = find_classes(train, validation)
        text_pairs.check_pairs(train, validation)
        return labels

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> TokenizeBatch:
        return text_pairs.tokenize_labelled(tokenizer, self._data.max_length, list(labels).index)

    def objective(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], train: Any) -> Objective:
        return Objective(
            collate=text_pairs.collate_labelled(tokenizer, partial(np.array, dtype=np.int64)),
            losses=cross_entropy,
            training_loss_sum=classification_loss(self._recipe, labels, train, "label"),
            results=lambda logits, targets: prediction_and_label(logits.flatten(0, -2).argmax(-1), targets),
            width=2,
            metrics=partial(class_metrics, classes=len(labels)),
            breakdown=partial(class_breakdown, labels=labels),
            outcome=partial(class_outcome, labels=labels),
        )

    def predictor(
        self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], settings: Mapping[str, Any]
    ) -> Predictor:
        """The likeliest class, and the probability of each."""

        def to_record(values: np.ndarray, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
            scores = text_pairs.class_scores(labels, values[0])
            best = labels[int(values[0].argmax())]
            return {"label": best, "score": scores[best], "scores": scores}

        return text_pairs.predictor(
            self.row_format,
            tokenizer,
            self._data.max_length,
            width=len(labels),
            postprocess=lambda logits_nC: logits_nC.softmax(-1),
            to_record=to_record,
            csv_columns=("label", "score"),
        )
