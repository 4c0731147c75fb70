"""What a run says about its data at the start: how files were read, and what is odd about labels and tokens.

Each function returns notes by a few words that name their subject.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from warmup.config import Data
from warmup.config.tasks import WORD_FILES, TaskFacts
from warmup.training.data.readers.conll import find_layout, has_other_lines
from warmup.training.data.readers.delimited import DELIMITERS
from warmup.training.data.readers.quoting import find_quoting
from warmup.training.data.samples import NO_TAG, row_starts
from warmup.training.data.sources import Source
from warmup.training.data.splits import group_numbers, label_counts

_NO_LABELS = {"-", "-1", NO_TAG, "nan", "null", "?"}
"""Labels that mean in some data sets that a row has none."""
_LARGE_SHARE = 0.05  # of tokens
_IDEOGRAPH = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]")
"""CJK ideographs, between which BERT's tokenizers split (Devlin et al. 2018, tokenization.py)."""


def changed_reading(source: Source, data: Data) -> str | None:
    """How a file is read, if older versions read it otherwise."""
    if source.table is None and source.kind in DELIMITERS and data.quoting == "auto":
        delimiter = data.delimiter or DELIMITERS[source.kind]
        decision = find_quoting(source.name, delimiter, len(data.column_names), data.max_document_bytes)
        return None if decision.plain else decision.quoting
    if source.table is None and source.kind in WORD_FILES and has_other_lines(source.name, data):
        return "lines"
    return None


def source_notes(sources: Sequence[Sequence[Source]], data: Data) -> dict[str, str]:
    """How files are read, where that was decided by looking at them."""
    files = [source for part in sources for source in part if source.table is None]
    notes = {}
    if unquoted := [source.name for source in files if changed_reading(source, data) == "none"]:
        notes["quotation marks"] = f"characters of the texts in {_few(unquoted)} (data.quoting)"
    for source in files:
        if source.kind in WORD_FILES and (note := find_layout(source.name, data).note):
            notes["columns"] = f"{note} (data.word_column, data.tag_column)"
    return notes


def split_notes(train: datasets.Dataset, validation: datasets.Dataset, group: str) -> dict[str, str]:
    """Whether rows of one group, which have the same value in a column, are on both sides of a split."""
    both = datasets.concatenate_datasets([rows.select_columns(group) for rows in (train, validation)])
    numbers = group_numbers(both, group)
    if shared := int(np.isin(numbers[len(train) :], numbers[: len(train)]).sum()):
        return {
            "held out": f"{shared} of {len(validation)} held-out rows have a text that training rows have too, as each "
            "text has too many rows to hold out all of them; give --data.validation_files"
        }
    return {}


def label_notes(
    train: datasets.Dataset, labels: Sequence[str], ignored_rows: Mapping[str, int], facts: TaskFacts, data: Data
) -> dict[str, str]:
    """What is odd about the labels of classes: those that no training row has, or only one (a header among the rows, a
    slip), those that mean elsewhere that there is no label, and those that are ignored.
    """
    counts = label_counts(train)
    unit, ignored_unit, ignored = "training rows", "rows", dict(ignored_rows)
    if facts.label == "tags":
        unit = ignored_unit = "words"
        ignored = {tag: counts.pop(tag) for tag in (NO_TAG, *data.ignore_labels) if tag in counts}
    notes = {}
    if ignored:
        notes["not learned"] = ", ".join(
            f"{label!r} of {count} {ignored_unit}" for label, count in sorted(ignored.items())
        )
    if once := sorted(repr(label) for label, count in counts.items() if count == 1):
        notes["labels seen once"] = f"{_few(once)}; is it meant as one?"
    if never := sorted(repr(label) for label in set(labels).difference(counts)):
        notes["labels never seen"] = _few(never)
    can_ignore = "data.ignore_labels" in facts.fields
    for label in sorted(_NO_LABELS.intersection(counts)) if can_ignore else ():
        notes[f"label {label!r}"] = (
            f"A CLASS LIKE ANY OTHER, of {counts[label]} {unit}; if it means that they have none: "
            f"--data.ignore_labels {label}"
        )
    return notes


def token_notes(samples: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, data: Data) -> dict[str, str]:
    """How many tokens the tokenizer does not know, if many; how many texts are truncated, and by how much; how many
    whole words are single characters, if many.
    """
    notes = {}
    special = np.setdiff1d(tokenizer.all_special_ids, tokenizer.unk_token_id)
    tokens = unknown = 0
    for chunk in samples.data.column("ids").chunks:
        ids = chunk.flatten().to_numpy()
        tokens += int((~np.isin(ids, special)).sum())
        unknown += int((ids == tokenizer.unk_token_id).sum())
    if unknown > _LARGE_SHARE * tokens:
        notes["unknown tokens"] = (
            f"{unknown / tokens:.1%} of the training tokens are {tokenizer.unk_token}: the tokenizer may be for texts "
            "in another language or case"
        )
    if "cut_tokens" in samples.column_names:
        cut = samples.data.column("cut_tokens").to_numpy()
        cut_of_rows = np.add.reduceat(cut, row_starts(samples)[:-1])
        if truncated := int((cut_of_rows > 0).sum()):
            share = cut.sum() / (cut.sum() + samples.data.column("length").to_numpy().sum())
            longest = int((cut + samples.data.column("length").to_numpy()).max())
            notes["truncated"] = (
                f"{truncated} of {len(cut_of_rows)} training rows, which loses {share:.1%} of all tokens; "
                f"data.max_length is {data.max_length}, and the longest row has {longest} tokens"
            )
    ideographs = _share_of_ideographs(samples, tokenizer) if "token_words" in samples.column_names else 0.0
    if ideographs > _LARGE_SHARE:
        notes["whole words"] = (
            f"{ideographs:.1%} of the training tokens are Chinese characters, each of which is a word of its own: "
            "data.whole_words masks single characters there"
        )
    return notes


def _share_of_ideographs(samples: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> float:
    """The share of tokens that are a word of one Chinese character, special tokens included."""
    ideographs = [index for token, index in tokenizer.get_vocab().items() if _IDEOGRAPH.fullmatch(token)]
    tokens = found = 0
    for chunk, words in zip(*(samples.data.column(name).chunks for name in ("ids", "token_words")), strict=True):
        word = words.flatten().to_numpy()
        ends = np.append(np.diff(word) != 0, True)  # the next token is of another word
        found += int((np.isin(chunk.flatten().to_numpy(), ideographs) & ends & np.roll(ends, 1)).sum())
        tokens += len(word)
    return found / tokens if tokens else 0.0


def _few(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
