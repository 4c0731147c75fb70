"""The section `data`: the training and validation data, and how it becomes samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from warmup.config.checks import expand_home, require
from warmup.errors import UserError


@dataclass(frozen=True)
class Data:
    """The training and validation data, and how it becomes samples."""

    train_files: Sequence[str] = ()
    """Training files, patterns such as 'corpus/*.txt.gz', folders written by Dataset.save_to_disk (of several splits,
    train is used), hub:NAME:SPLIT or hub:NAME:CONFIGURATION:SPLIT. Without any: docstrings of the installed Python
    packages. Files end in .csv, .tsv, .jsonl, .json (a list of objects), .txt (a document per line), .conll, .bio,
    .iob2 (a word and its tag per line) or .parquet; all except .parquet may be compressed and then also end in .gz,
    .bz2, .xz or .zst."""
    validation_files: Sequence[str] = ()
    """Held-out files, given in the same ways (of several splits, validation is used). Without any, a fraction of the
    training rows is held out."""
    validation_fraction: float = 0.05
    """Fraction of the training rows that is held out if there are no validation files."""
    text_column: str | None = None
    """Column of the text, of the words, or of the context of a question (default: found by its name)."""
    pair_column: str | None = None
    """Column of the second text of a pair; multiple-choice: of the text that all choices go on with (default: found by
    its name, if there is one); question-answering: of the question."""
    label_column: str | None = None
    """Column of the label, of the words' tags, or of the answers (default: found by its name)."""
    label_columns: Sequence[str] = ()
    """multi-label: columns that are 1 in rows with the label of their name, and 0 in others."""
    label_separator: str = ","
    """multi-label: what parts labels that are one text."""
    label_names: str | None = None
    """multi-label: file with the name of a label per line, for labels that are numbers: 0 is the first line's."""
    choice_column: str | None = None
    """multiple-choice: column of the list of choices (default: found by its name)."""
    choice_columns: Sequence[str] = ()
    """multiple-choice: columns with a choice each, of which the last may be blank (default: ending0, ending1, ... or
    choice0, choice1, ...)."""
    word_column: int | None = None
    """token-classification: number of the column of .conll, .bio and .iob2 files that has the words, from 1 (default:
    the first; of CoNLL-U's ten the second)."""
    tag_column: int | None = None
    """token-classification: number of the column of such files that has the tags (default: the last; of CoNLL-U's ten
    the fourth, parts of speech)."""
    ignore_labels: Sequence[str] = ()
    """classification: labels whose rows are left out, such as "-" in SNLI or -1 in the test files of GLUE.
    token-classification: tags that are not learned; -100 never is."""
    quoting: Literal["auto", "standard", "none"] = "auto"
    """What quotation marks are in .csv and .tsv files: standard (fields may be enclosed in them), none (characters like
    any other), or auto: decided for each file by whether they come in pairs that the format explains."""
    delimiter: str | None = None
    """What separates the fields of .csv and .tsv files (default: a comma, or a tab)."""
    column_names: Sequence[str] = ()
    """Names of the columns of .csv and .tsv files without a header, in order."""
    max_length: int = 128
    """Maximum length of a sample in tokens, special tokens included. mlm, clm, token-classification and
    question-answering split longer texts into windows; other tasks truncate them."""
    doc_stride: int | None = None
    """question-answering: tokens that two windows of a context share which follow each other, as the `stride` of
    tokenizers (default: a third of max_length)."""
    mask_rate: float = 0.15
    """mlm: fraction of the tokens to predict (80% of them are masked, 10% replaced, 10% left as they are)."""
    whole_words: bool = False
    """mlm: predict either all tokens of a word or none. Words are those that the tokenizer splits a text into."""
    tokenizer: str | None = None
    """Folder or hub name of a tokenizer (default: the model's; for a new model, one that is trained on the data)."""
    vocab_size: int = 30522
    """Vocabulary size of a tokenizer that is trained on the data (WordPiece; byte-level BPE for clm)."""
    max_bad_rows: int = 10
    """Number of unreadable rows that may be skipped; one more ends the run."""
    max_document_bytes: int = 256_000_000
    """The largest document: bytes of a line (uncompressed), of a .json file, of a cell of a table, or of the lines of a
    sentence. A larger one ends the run. Preparing a text takes up to 12 times its size in memory, and a sentence of
    words about 20 times."""
    streaming: bool = False
    """mlm, clm: read the training files from beginning to end, over and over, and tokenize them on the way instead of
    before the first step: for a corpus larger than the disk. Hub data sets are then not downloaded. Durations must be
    in steps, samples or tokens."""
    shuffle_buffer: int = 10000
    """With streaming: number of documents that are held in memory and shuffled; use fewer if they are whole books. The
    order of the files also changes every epoch."""
    cache_dir: str | None = None
    """Where tokenized data is kept (default: $WARMUP_CACHE, or ~/.cache/warmup)."""

    def __post_init__(self) -> None:
        for name in ("train_files", "validation_files"):
            object.__setattr__(self, name, tuple(map(os.path.expanduser, getattr(self, name))))
        expand_home(self, "tokenizer", "cache_dir", "label_names")
        object.__setattr__(self, "column_names", tuple(self.column_names))
        for name in ("label_columns", "choice_columns"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_columns()
        object.__setattr__(self, "label_separator", self.label_separator.replace("\\t", "\t"))
        require(bool(self.label_separator), "data.label_separator", self.label_separator, "a character or more")
        object.__setattr__(self, "ignore_labels", tuple(map(str, self.ignore_labels)))
        if self.delimiter is not None:
            object.__setattr__(self, "delimiter", self.delimiter.replace("\\t", "\t"))
            require(
                len(self.delimiter) == 1 and self.delimiter not in '"\r\n',
                "data.delimiter",
                self.delimiter,
                "one character",
            )
        for name in ("word_column", "tag_column"):
            require(
                getattr(self, name) is None or getattr(self, name) >= 1,
                f"data.{name}",
                getattr(self, name),
                "1 or above",
            )
        twice = [name for name in self.column_names if self.column_names.count(name) > 1]
        require(not twice, "data.column_names", twice[:1], "named once")
        require(0 < self.validation_fraction < 1, "data.validation_fraction", self.validation_fraction, "in 0 < x < 1")
        require(0 < self.mask_rate < 1, "data.mask_rate", self.mask_rate, "in 0 < x < 1")
        require(self.max_length >= 4, "data.max_length", self.max_length, "4 or above")
        stride = self.doc_stride
        require(stride is None or 0 <= stride < self.max_length, "data.doc_stride", stride, "in 0 <= x < max_length")
        require(self.vocab_size >= 100, "data.vocab_size", self.vocab_size, "100 or above")
        require(self.max_bad_rows >= 0, "data.max_bad_rows", self.max_bad_rows, "0 or above")
        require(self.max_document_bytes >= 1, "data.max_document_bytes", self.max_document_bytes, "1 or above")
        require(self.shuffle_buffer >= 1, "data.shuffle_buffer", self.shuffle_buffer, "1 or above")
        if self.streaming and not self.validation_files:
            raise UserError("data.validation_files: needed with streaming, because no rows can be held out of a stream")

    def _check_columns(self) -> None:
        """Raise UserError for columns that are named twice, or in two ways."""
        for name in ("label_columns", "choice_columns"):
            folded = [column.strip().lower() for column in getattr(self, name)]
            for column in folded:
                if folded.count(column) > 1:
                    raise UserError(f"data.{name}: names {column!r} twice; name each column once")
            if folded and getattr(self, name.removesuffix("s")):
                raise UserError(f"data.{name.removesuffix('s')}: data.{name} is given too; leave out one of them")
        if self.label_columns and self.label_names:
            raise UserError("data.label_names: data.label_columns names the labels; leave out one of them")
