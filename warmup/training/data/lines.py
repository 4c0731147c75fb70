"""The lines of a text file, plain or compressed, as bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow

from warmup.errors import UserError


def _open_zst(path: str, mode: str) -> BinaryIO:
    return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"))


_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zst}
COMPRESSIONS = tuple(_OPENERS)


def lines(file: str) -> Iterator[bytes]:
    """Yield the lines of a file, without the byte order mark that it may begin with.

    Lines are split at b"\\n" only, so that line numbers are those that an editor shows.

    Raises:
        UserError: The file is UTF-16, or it cannot be read to its end. The rest of a damaged file is never taken for
            all of it.
    """
    suffix = next((suffix for suffix in _OPENERS if file.lower().endswith(suffix)), "")
    line_number = 0
    try:
        with _OPENERS.get(suffix, open)(file, "rb") as stream:
            for line_number, line in enumerate(stream, 1):
                if line_number == 1:
                    _check_utf8(file, line)
                    line = line.removeprefix(b"\xef\xbb\xbf")
                yield line
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.strerror:  # raised by the system; those of decompressors have none
            raise UserError(f"{file} cannot be read: {error.strerror}") from error
        raise UserError(f"{file}: damaged or cut off {suffix} data after line {line_number} ({error})") from error


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
