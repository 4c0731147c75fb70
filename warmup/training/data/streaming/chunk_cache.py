"""Tokenized chunks of a stream on disk, shared by the ranks of a machine."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow
from filelock import FileLock

from warmup.errors import UserError
from warmup.training.data.samples import Samples
from warmup.training.data.tables import write_samples
from warmup.training.data.tokenizers.windows import TokenizeBatch
from warmup.training.files import staged_file

STALE_SECONDS = 3600.0  # a file that is older than this was left behind by a killed run


@dataclass(frozen=True)
class ChunkCache:
    """The samples of each chunk, in a file named by a hash of the chunk's texts."""

    folder: Path
    """Where the files are. Its parent must exist."""

    tokenize: TokenizeBatch
    """Turns rows with a column `text` into samples."""

    features: datasets.Features
    """The columns of the samples and their types."""

    def samples(self, texts: Sequence[str]) -> tuple[Samples, Path]:
        """The samples of a chunk. Its texts are tokenized unless another process has done so.

        Args:
            texts: The documents of the chunk.

        Returns:
            The samples, and the file that holds them.

        Raises:
            UserError: The file cannot be written or read.
        """
        file = self.folder / f"{_digest(texts)}.arrow"
        try:
            self.folder.mkdir(exist_ok=True)
            while (samples := load_chunk(file)) is None:
                with FileLock(self.folder / "lock"):
                    if load_chunk(file) is None:
                        self._remove_leftovers()
                        self._write(texts, file)
        except OSError as error:
            raise UserError(f"data.cache_dir: {error.filename or file}: {error.strerror or error}") from error
        return samples, file

    def _remove_leftovers(self) -> None:
        """Remove the files of runs that were killed."""
        for leftover in (*self.folder.glob("*.arrow"), *self.folder.glob("*.stage")):
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                    leftover.unlink()

    def _write(self, texts: Sequence[str], file: Path) -> None:
        with staged_file(file) as stage:
            samples = self.tokenize({"text": texts})
            write_samples([samples] if isinstance(samples, Mapping) else samples, stage, self.features)


def _digest(texts: Sequence[str]) -> str:
    """A hash of the texts with a NUL byte between them."""
    digest = hashlib.blake2b(digest_size=10)
    for number, text in enumerate(texts):
        digest.update(b"\0" if number else b"")
        digest.update(text.encode())
    return digest.hexdigest()


def load_chunk(file: Path) -> Samples | None:
    """The samples in a chunk's file, or None if there is no complete file."""
    try:
        table = datasets.Dataset.from_file(str(file))
    except (FileNotFoundError, pyarrow.ArrowInvalid):
        return None
    return Samples.of(table)


def remove_chunk(file: Path) -> None:
    """Remove a chunk's file. Ranks that have it open keep its content; a rank that opens it later writes it again."""
    with contextlib.suppress(OSError):
        file.unlink()
