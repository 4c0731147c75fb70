"""The lines of a text file, plain or compressed, as bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, NoReturn, cast

import pyarrow

from warmup.errors import UserError


def _open_zst(path: str, mode: str) -> BinaryIO:
    return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"))


_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zst}
COMPRESSIONS = tuple(_OPENERS)


def lines(file: str, max_bytes: int) -> Iterator[bytes]:
    """Yield the lines of a file, without the byte order mark that it may begin with.

    Lines are split at b"\\n" only, so that line numbers are those that an editor shows.

    Args:
        file: Its name.
        max_bytes: The most that a line may have; no more is read of one that is longer.

    Raises:
        UserError: The file is UTF-16, a line is too long, or the file cannot be read to its end. The rest of a damaged
            file is never taken for all of it.
    """
    line_number = 0
    with _opened(file, lambda: f"after line {line_number}") as stream:
        for line_number, line in enumerate(iter(partial(stream.readline, max_bytes + 1), b""), 1):
            if len(line) > max_bytes and not line.endswith(b"\n"):
                raise_too_large(f"{file}:{line_number}: a line", max_bytes)
            if line_number == 1:
                _check_utf8(file, line)
                line = line.removeprefix(b"\xef\xbb\xbf")
            yield line


def is_empty(file: str) -> bool:
    """Whether a file, once it is decompressed, has no byte. Raises UserError where its beginning cannot be read."""
    with _opened(file, lambda: "after line 0") as stream:
        return not stream.read(1)


@contextmanager
def _opened(file: str, where: Callable[[], str]) -> Iterator[BinaryIO]:
    """Open a file for reading, decompressed. Raises UserError where it cannot be read; `where` tells how far it was."""
    suffix = next((suffix for suffix in _OPENERS if file.lower().endswith(suffix)), "")
    try:
        with _OPENERS.get(suffix, open)(file, "rb") as stream:
            yield cast(BinaryIO, stream)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.strerror:  # raised by the system; those of decompressors have none
            raise UserError(f"{file} cannot be read: {error.strerror}") from error
        raise UserError(f"{file}: damaged or cut off {suffix} data {where()} ({error})") from error


def raise_too_large(what: str, max_bytes: int) -> NoReturn:
    """Raise UserError for a document that is larger than the configuration allows.

    Args:
        what: It, after its place.
        max_bytes: What is allowed.
    """
    raise UserError(
        f"{what} of more than {max_bytes} bytes, the most that data.max_document_bytes allows; divide it into several "
        "documents, or raise the limit (in memory, a document takes up to 12 times its size)"
    )


def _check_utf8(file: str, line: bytes) -> None:
    """Raise UserError where the first line of a file says that it is UTF-16 (or UTF-32), which has a NUL byte beside
    each Latin letter.
    """
    start = line[:200]
    nul_share = start.count(b"\0") / max(len(start), 1)
    if start.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")) or (len(start) >= 4 and nul_share >= 0.4):
        width = 32 if start.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")) else 16
        raise UserError(
            f"{file}: UTF-{width}, and files must be UTF-8; convert it: iconv -f UTF-{width} -t UTF-8 OLD > NEW"
        )


def why_not_text(line: bytes) -> str | None:
    """Return why these bytes are not text, or None if they are."""
    if b"\0" in line:
        return "holds a NUL byte"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1} of the line)"
    return None
