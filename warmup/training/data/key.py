"""The key of tokenised data: equal where the same content gives the same samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from warmup.config import Config, Data
from warmup.training.data.notes import changed_reading
from warmup.training.data.readers.text import read_names
from warmup.training.data.sources import Source

KEY_FORMAT = 2  # raise it where the same content would give other samples
PATH_FIELDS = ("data.train_files", "data.validation_files", "data.tokenizer", "data.cache_dir", "data.label_names")
"""Fields that may differ from machine to machine: the key says whether what is there is the same."""
FIRST_FIELDS = (
    *("train_files", "validation_files", "validation_fraction", "text_column", "pair_column", "label_column"),
    *("max_length", "mask_rate", "whole_words", "vocab_size", "max_bad_rows", "streaming", "shuffle_buffer"),
)
"""Fields that are always in the key. At its default, any other field leaves the keys of older versions as they were."""
Sources = tuple[Sequence[Source], Sequence[Source]]  # of training and of validation rows


def data_key(
    config: Config,
    sources: Sources,
    known_labels: list[str],
    declared_orders: list[list[str]],
    tokenizer_identity: list[Any],
    group: str | None = None,
) -> str:
    """A hash of everything that the samples depend on: contents, not names or times.

    Args:
        config: the configuration.
        sources: of training and of validation rows.
        known_labels: those of a model that is fine-tuned.
        declared_orders: of the classes of training data sets; none where all are the usual one.
        tokenizer_identity: what of its tokenizer decides how texts are tokenised; [None] for one that is trained.
        group: the column by which rows are held out, if some are and not one by one.
    """
    data = {name: value for name, value in asdict(config.data).items() if name not in ("cache_dir", "tokenizer")}
    if config.data.label_names:
        data["label_names"] = read_names(config.data.label_names)
    train, validation = ([source.content() for source in part] for part in sources)
    data |= {"train_files": train, "validation_files": validation}
    irrelevant = {
        "mask_rate": True,
        "max_document_bytes": True,
        "vocab_size": tokenizer_identity != [None],
        "whole_words": not config.data.whole_words,
        "streaming": not config.data.streaming,
        "shuffle_buffer": not config.data.streaming,
    }
    new_fields = data.keys() - set(FIRST_FIELDS)
    irrelevant |= {name: True for name in new_fields if getattr(config.data, name) == getattr(Data, name)}
    data = {name: value for name, value in data.items() if not irrelevant.get(name)}
    if quotation_marks := [
        reading for part in sources for source in part if (reading := changed_reading(source, config.data))
    ]:
        data["quotation_marks"] = quotation_marks
    if group:
        data["held_out_by"] = group
    if declared_orders:
        data["class_orders"] = declared_orders
    parts = [KEY_FORMAT, config.task, known_labels, data, *tokenizer_identity]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
