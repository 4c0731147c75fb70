"""What tasks share that predict one thing for a text or for a pair of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np
from transformers import BatchEncoding, PreTrainedTokenizerBase

from warmup.config.data import Data
from warmup.errors import UserError
from warmup.training.data.batching.micro_batch import MicroBatch, padded_inputs, sequence_targets
from warmup.training.data.batching.prefetcher import Collate
from warmup.training.data.readers.columns import RowFormat, label_column, pair_column, text_column
from warmup.training.data.samples import SampleSource
from warmup.training.data.tokenizers.long_texts import count_tokens
from warmup.training.data.tokenizers.texts import encode_texts, tokenize_for_prediction
from warmup.training.data.tokenizers.windows import TokenizeBatch
from warmup.training.tasks.task import Predictor

FEATURES = {"second_start": datasets.Value("int32")}
"""Columns of tokenised texts: the position of the second text of a pair, or the length of a single one."""

LABELLED_FEATURES = {**FEATURES, "cut_tokens": datasets.Value("int32")}
"""Columns of tokenised training data besides ids, length and label: how many tokens were cut off, too."""


def row_format(data: Data, parse_label: Callable[[Any, str], str]) -> RowFormat:
    """A text, a second one where files have pairs, and a label."""
    return RowFormat.of(data, text_column(), pair_column(), label_column(parse_label))


def tokenize_labelled(
    tokenizer: PreTrainedTokenizerBase, max_length: int, label_value: Callable[[Any], Any]
) -> TokenizeBatch:
    """What turns rows into samples with the columns ids, length, second_start, cut_tokens and label.

    Args:
        tokenizer: of the task.
        max_length: the most tokens of a sample.
        label_value: the number, or the numbers, that stand for a row's label.
    """

    def tokenize(batch: dict[str, Any]) -> dict[str, list]:
        encoded, columns = encode_texts(batch, tokenizer, max_length)
        labels = [label_value(label) for label in batch["label"]]
        return columns | {"label": labels, "cut_tokens": count_cut_tokens(batch, encoded, tokenizer)}

    return tokenize


def count_cut_tokens(batch: dict[str, Any], encoded: BatchEncoding, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """How many tokens of each text, or pair of texts, were cut off.

    Args:
        batch: the texts.
        encoded: what `encode_texts` made of them.
        tokenizer: that did.
    """
    encodings = encoded.encodings or []
    truncated = [row for row, encoding in enumerate(encodings) if encoding.overflowing]
    cut_tokens = [0] * len(encodings)
    for row, length in zip(truncated, _full_lengths(batch, truncated, tokenizer), strict=True):
        cut_tokens[row] = length - len(encodings[row].ids)
    return cut_tokens


def _full_lengths(batch: dict[str, Any], rows: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """How many tokens some rows would have if nothing were cut off."""
    added = tokenizer.num_special_tokens_to_add(pair=batch["pair"][0] is not None)
    texts = [[batch[column][row] or "" for column in ("text", "pair")] for row in rows]
    return [added + sum(count_tokens(text, tokenizer) for text in both) for both in texts]


def collate_labelled(tokenizer: PreTrainedTokenizerBase, target_values: Callable[[np.ndarray], np.ndarray]) -> Collate:
    """What makes micro-batches of these samples.

    Args:
        tokenizer: of the task.
        target_values: the labels of samples, as they are in their column, -> their targets.
    """

    def collate(samples: SampleSource, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
        ids_BT, mask_BT, columns = samples.gather(indices)
        inputs = padded_inputs(ids_BT, mask_BT, tokenizer, columns["second_start"])
        return sequence_targets(inputs, target_values(columns["label"]))

    return collate


def predictor(row_format: RowFormat, tokenizer: PreTrainedTokenizerBase, max_length: int, **outputs: Any) -> Predictor:
    """The predictor of one thing for each row, at its first token.

    Args:
        row_format: of training data.
        tokenizer: of the model.
        max_length: the most tokens of a sample.
        outputs: the fields of a Predictor that say what is made of the logits.
    """

    def tokenize(batch: dict[str, Any]) -> dict[str, list]:
        columns = tokenize_for_prediction(batch, tokenizer, max_length)
        return columns | {"token_targets": [[1, *[0] * (length - 1)] for length in columns["length"]]}

    return Predictor(row_format.without("label"), tokenize, FEATURES, check_rows=check_pairs, **outputs)


def check_pairs(*tables: datasets.Dataset) -> None:
    """Raise UserError where some rows are pairs and others single texts."""
    columns = [table.data.column("pair") for table in tables]  # of all rows, also where a table is a selection of them
    single = sum(column.null_count for column in columns)
    if 0 < single < sum(map(len, columns)):
        raise UserError("data: some files have a second text and some have none; name it with --data.pair_column")


def class_scores(labels: Sequence[str], values_C: np.ndarray) -> dict[str, float]:
    """Scores by class, to six digits."""
    return {label: float(f"{value:.6g}") for label, value in zip(labels, values_C, strict=True)}
