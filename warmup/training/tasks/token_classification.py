"""Token classification: the tag of each word, such as named entities or parts of speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import datasets
import numpy as np
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase

from warmup.config import Config
from warmup.config.tasks import TASKS
from warmup.training.data.batching.micro_batch import MicroBatch, padded_inputs, token_targets
from warmup.training.data.readers.columns import STRING, RowFormat, check_tags, tags_column, words_column
from warmup.training.data.samples import IGNORE_INDEX, IS_FIRST, NO_TAG, SampleSource
from warmup.training.data.tokenizers.load import load_word_tokenizer
from warmup.training.data.tokenizers.windows import TokenizeBatch
from warmup.training.data.tokenizers.words import sentence_parts, tokenize_tagged
from warmup.training.models.input_layout import Head
from warmup.training.tasks.labels import find_classes
from warmup.training.tasks.losses import classification_loss, cross_entropy
from warmup.training.tasks.metrics import entity_metrics, tag_counts, tag_metrics
from warmup.training.tasks.metrics.breakdown import entity_breakdown, tag_breakdown
from warmup.training.tasks.metrics.entity_f1 import entity_counts, is_entity_tag, parse_scheme
from warmup.training.tasks.task import Objective, Predictor, Task, best_index


class TokenClassification(Task):
    """Predicts the tag of each word of a sentence, at the word's first token."""

    facts = TASKS["token-classification"]
    auto_class: Any = AutoModelForTokenClassification
    head: Head = "token"
    features: Mapping[str, Any] = {"token_labels": datasets.List(datasets.Value("int32"))}

    def __init__(self, config: Config):
        self._data, self._recipe = config.data, config.recipe
        self._ignored = (NO_TAG, *config.data.ignore_labels)
        self.row_format = RowFormat.of(config.data, words_column(), tags_column(), check=check_tags)

    def load_tokenizer(self, name: str, flag: str) -> PreTrainedTokenizerBase:
        return load_word_tokenizer(name, flag)

    def find_labels(self, train: datasets.Dataset, validation: datasets.Dataset) -> list[str]:
        return find_classes(train, validation, self._ignored)

    def notes(self, labels: Sequence[str]) -> dict[str, str]:
        others = [label for label in labels if not is_entity_tag(label)]
        if not others:
            return {}
        return {"f1": f"the mean over the tags, not of entities: {others[0]!r} is not like B-PER, I-PER or O"}

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> TokenizeBatch:
        label_ids = dict.fromkeys(self._ignored, IGNORE_INDEX) | {label: index for index, label in enumerate(labels)}
        return partial(tokenize_tagged, tokenizer=tokenizer, max_length=self._data.max_length, label_ids=label_ids)

    def objective(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], train: Any) -> Objective:
        """Metrics are of entities if all tags are of some (B-PER, I-PER, O), otherwise of tags."""

        def collate(samples: SampleSource, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
            ids_BT, mask_BT, columns = samples.gather(indices)
            labels_BT = columns["token_labels"]
            predicted_BT = mask_BT & (labels_BT != IGNORE_INDEX)
            return token_targets(padded_inputs(ids_BT, mask_BT, tokenizer), predicted_BT, labels_BT)

        scheme = parse_scheme(labels)
        return Objective(
            collate=collate,
            losses=cross_entropy,
            training_loss_sum=classification_loss(self._recipe, labels, train, "token_labels"),
            results=partial(entity_counts, scheme=scheme) if scheme else tag_counts,
            width=2 + 3 * len(scheme.types) if scheme else 3 * len(labels),
            metrics=entity_metrics if scheme else tag_metrics,
            breakdown=partial(entity_breakdown, types=scheme.types) if scheme else partial(tag_breakdown, tags=labels),
        )

    def predictor(
        self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], settings: Mapping[str, Any]
    ) -> Predictor:
        """The likeliest tag of each word by itself; None for a word of which the tokenizer leaves nothing."""

        def tokenize(batch: dict[str, Any]) -> dict[str, list]:
            parts = list(sentence_parts(batch["text"], tokenizer, self._data.max_length))
            return {
                IS_FIRST: [part.is_first for part in parts],
                "ids": [part.ids for part in parts],
                "length": [len(part.ids) for part in parts],
                "token_targets": [part.words for part in parts],
                "truncated": [part.truncated for part in parts],
                "words": [batch["text"][part.row] if part.is_first else [] for part in parts],
            }

        def to_record(values: np.ndarray, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
            words = samples[0]["words"]
            targets = [word for sample in samples for word in sample["token_targets"] if word]
            tags: list[str | None] = [None] * len(words)
            for word, best in zip(targets, values[:, 0], strict=True):
                tags[word - 1] = labels[int(best)]
            return {"tokens": words, "tags": tags}

        return Predictor(
            row_format=self.row_format.without("label"),
            tokenize=tokenize,
            features={IS_FIRST: datasets.Value("bool"), "words": datasets.List(STRING)},
            width=1,
            postprocess=best_index,
            to_record=to_record,
            no_target_message="holds no word of which the tokenizer leaves anything",
        )
