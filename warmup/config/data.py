"""The section `data`: what is trained on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from warmup.config.checks import expand_home, require
from warmup.errors import UserError


@dataclass(frozen=True)
class Data:
    """What is trained on."""

    train_files: Sequence[str] = ()
    """Training files, patterns such as 'corpus/*.txt.gz', folders written by Dataset.save_to_disk (of several splits:
    train), hub:NAME:SPLIT or hub:NAME:CONFIGURATION:SPLIT. None: docstrings of the installed Python packages. Files end
    in .csv, .tsv, .jsonl, .json (a list of objects), .txt (a document per line), .conll, .bio, .iob2 (a word and its
    tag per line) or .parquet; all but the last also in .gz, .bz2, .xz or .zst after that."""
    validation_files: Sequence[str] = ()
    """Held-out files, in the same ways (of several splits: validation). None: a part of the training rows is held
    out."""
    validation_fraction: float = 0.05
    """The part that is held out where there are no validation files."""
    text_column: str | None = None
    """Column of the text, or of the words (default: found by its name)."""
    pair_column: str | None = None
    """Column of the second text of a pair (default: found by its name, where there is one)."""
    label_column: str | None = None
    """Column of the label, or of the words' tags (default: found by its name)."""
    max_length: int = 128
    """Longest sample in tokens, special ones included. mlm, clm and token-classification make windows of the rest,
    other tasks cut it off."""
    mask_rate: float = 0.15
    """mlm: part of the tokens that is to be predicted (of these 80% masked, 10% replaced, 10% kept)."""
    whole_words: bool = False
    """mlm: predict all tokens of a word or none; words as the tokenizer takes a text apart."""
    tokenizer: str | None = None
    """Folder or hub name of a tokenizer (default: the model's; for a new model, trained on the data)."""
    vocab_size: int = 30522
    """Number of tokens of a tokenizer that is trained on the data (WordPieces; for clm of a byte-level BPE)."""
    max_bad_rows: int = 10
    """Rows that may be left out because they cannot be read; one more ends the run."""
    streaming: bool = False
    """mlm, clm: read the training files from their beginning to their end, again and again, and tokenise them on the
    way, instead of before the first step: for a corpus larger than the disk (hub data sets are not downloaded then).
    Lengths are in steps, samples or tokens."""
    shuffle_buffer: int = 10000
    """With streaming: documents that are shuffled at a time, and held in memory: fewer where they are whole books.
    Files are read in another order in each epoch."""
    cache_dir: str | None = None
    """Where tokenised data is kept (default: $WARMUP_CACHE, or ~/.cache/warmup)."""

    def __post_init__(self) -> None:
        for name in ("train_files", "validation_files"):
            object.__setattr__(self, name, tuple(map(os.path.expanduser, getattr(self, name))))
        expand_home(self, "tokenizer", "cache_dir")
        require(0 < self.validation_fraction < 1, "data.validation_fraction", self.validation_fraction, "in 0 < x < 1")
        require(0 < self.mask_rate < 1, "data.mask_rate", self.mask_rate, "in 0 < x < 1")
        require(self.max_length >= 4, "data.max_length", self.max_length, "4 or above")
        require(self.vocab_size >= 100, "data.vocab_size", self.vocab_size, "100 or above")
        require(self.max_bad_rows >= 0, "data.max_bad_rows", self.max_bad_rows, "0 or above")
        require(self.shuffle_buffer >= 1, "data.shuffle_buffer", self.shuffle_buffer, "1 or above")
        if self.streaming and not self.validation_files:
            raise UserError("data.validation_files: none given, and no rows can be held out of a stream; give some")
