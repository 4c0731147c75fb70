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

from warmup.training.columns import BadRow, Choose
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


def txt_rows(file: str, choose: Choose) -> Iterator[dict | BadRow]:
    for number, line in enumerate(lines(file), 1):
        if reason := fault(line):
            yield BadRow(file, number, reason)
        elif line.decode("utf-8").strip():
            yield {"text": line.decode("utf-8").rstrip("\r\n"), "pair": None, "label": None}


def conll_rows(file: str, choose: Choose) -> Iterator[dict | BadRow]:
    """Sentences of a word per line, its tag in the last column, with an empty line after each (Tjong Kim Sang and De
    Meulder 2003). A sentence with a bad line is left out as a whole.
    """
    words: list[str] = []
    tags: list[str] = []
    bad: BadRow | None = None
    for number, line in enumerate(chain(lines(file), [b""]), 1):
        if line.strip() and not line.startswith(b"-DOCSTART-"):
            try:
                word, tag = _word_and_tag(line)
                words.append(word)
                tags.append(tag)
            except ValueError as error:
                bad = bad or BadRow(file, number, str(error))
        elif words or bad:
            yield bad or {"text": words, "pair": None, "label": tags}
            words, tags, bad = [], [], None


def _word_and_tag(line: bytes) -> tuple[str, str]:
    """The first and the last column. They are parted by tabs, or where there are none by blanks."""
    if reason := fault(line):
        raise ValueError(reason)
    text = line.decode("utf-8").strip(" \r\n")
    columns = text.split("\t") if "\t" in text else re.split(" +", text)
    word, tag = columns[0].strip(), columns[-1].strip()
    if len(columns) < 2 or not word or not tag:
        raise ValueError("not a word and its tag; a line has at least two columns, parted by tabs or blanks")
    return word, tag
