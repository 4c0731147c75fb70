"""The lines of a text file, compressed or not, as bytes; and the rows of files that are no more: .txt, .conll."""

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

import pyarrow

from warmup.training.columns import BadRow
from warmup.training.outcome import UserError


def _open_zst(path: str, mode: str) -> BinaryIO:
    return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"))


_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zst}
COMPRESSIONS = tuple(_OPENERS)


def lines(file: str) -> Iterator[bytes]:
    """Yield the lines (split at b"\\n" alone, so that their numbers are an editor's), less a byte order mark.

    Raises UserError where the file cannot be read to its end, so that what is left of a damaged one is never taken
    for all of it.
    """
    suffix = next((suffix for suffix in _OPENERS if file.lower().endswith(suffix)), "")
    number = 0
    try:
        with _OPENERS.get(suffix, open)(file, "rb") as stream:
            for number, line in enumerate(stream, 1):
                yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.strerror:  # the system's; the decompressors' errors have none
            raise UserError(f"{file} cannot be read: {error.strerror}") from error
        raise UserError(f"{file}: damaged or cut off {suffix} data after line {number} ({error})") from error


def fault(line: bytes) -> str | None:
    """Say why these bytes are no text, or None."""
    if b"\0" in line:
        return "holds a NUL byte"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1} of the line)"
    return None


def txt_rows(file: str, words: bool) -> Iterator[dict | BadRow]:
    """A text per line; words: as the list of its words, which are parted by blanks."""
    for number, line in enumerate(lines(file), 1):
        if reason := fault(line):
            yield BadRow(file, number, reason)
        elif line.decode("utf-8").strip():
            text = line.decode("utf-8").rstrip("\r\n")
            yield {"text": text.split() if words else text, "pair": None, "label": None}


def conll_rows(file: str, tagged: bool) -> Iterator[dict | BadRow]:
    """Sentences of a word per line, its tag in the last column, with an empty line after each (Tjong Kim Sang and De
    Meulder 2003). A sentence with a bad line is left out as a whole. Not `tagged`, the first column alone is read.
    """
    words: list[str] = []
    tags: list[str] = []
    bad: BadRow | None = None
    for number, line in enumerate(chain(lines(file), [b""]), 1):
        if line.strip() and not line.startswith(b"-DOCSTART-"):
            try:
                columns = _columns(line, tagged)
                words.append(columns[0])
                tags.append(columns[-1])
            except ValueError as error:
                bad = bad or BadRow(file, number, str(error))
        elif words or bad:
            yield bad or {"text": words, "pair": None, "label": tags if tagged else None}
            words, tags, bad = [], [], None


def _columns(line: bytes, tagged: bool) -> list[str]:
    """A line's columns, with a word in the first, and where it is `tagged` its tag in the last. They are parted by
    tabs, or where there are none by blanks.
    """
    if reason := fault(line):
        raise ValueError(reason)
    text = line.decode("utf-8").strip(" \r\n")
    columns = [column.strip() for column in (text.split("\t") if "\t" in text else re.split(" +", text))]
    if tagged and not (len(columns) > 1 and columns[0] and columns[-1]):
        raise ValueError("not a word and its tag; a line has at least two columns, parted by tabs or blanks")
    if not columns[0]:
        raise ValueError("no word in the first column; columns are parted by tabs or blanks")
    return columns
