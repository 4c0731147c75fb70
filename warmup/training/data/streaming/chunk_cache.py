"""Tokenised chunks of a stream on disk, shared by the ranks of a machine."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow
from filelock import FileLock

from warmup.errors import UserError
from warmup.training.data.samples import Samples

TOKENIZE_BATCH = 1000  # documents that are tokenised at once
STALE_SECONDS = 3600.0  # seconds after which a file is one that a killed run left behind


@dataclass(frozen=True)
class ChunkCache:
    """Where the samples of blocks lie while they are needed, each under a hash of its texts.

    cut, features: as `tokens.cutter` gives them.
    """

    folder: Path
    cut: Callable[[dict], dict]
    features: datasets.Features

    def samples(self, texts: Sequence[str]) -> tuple[Samples, Path]:
        """The samples of these texts, tokenised unless another process has done it, and their file."""
        digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=10).hexdigest()
        file = self.folder / f"{digest}.arrow"
        try:
            self.folder.mkdir(exist_ok=True)
            while (found := load_chunk(file)) is None:
                with FileLock(self.folder / "lock"):
                    if load_chunk(file) is None:
                        self._sweep()
                        self._write(texts, file)
        except OSError as error:
            raise UserError(f"data.cache_dir: {error.filename or file}: {error.strerror or error}") from error
        return found, file

    def _sweep(self) -> None:
        """Remove what a run that was killed left behind."""
        for left in (*self.folder.glob("*.arrow"), *self.folder.glob("*.stage")):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    left.unlink()

    def _write(self, texts: Sequence[str], file: Path) -> None:
        stage = file.with_suffix(".stage")
        schema = self.features.arrow_schema
        with pyarrow.OSFile(str(stage), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
            for start in range(0, len(texts), TOKENIZE_BATCH):
                writer.write_table(pyarrow.table(self.cut({"text": texts[start : start + TOKENIZE_BATCH]}), schema))
        stage.replace(file)


def load_chunk(file: Path) -> Samples | None:
    """A block's samples, None where there is no whole file of them."""
    try:
        table = datasets.Dataset.from_file(str(file))
    except (FileNotFoundError, pyarrow.ArrowInvalid):
        return None
    return Samples(table.with_format("arrow"), table.data.column("length").to_numpy())


def remove_chunk(file: Path) -> None:
    """Whoever has it open keeps it; one that came late makes it again."""
    with contextlib.suppress(OSError):
        file.unlink()
