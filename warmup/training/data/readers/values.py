"""What can be used of a value in a row: texts, labels, numbers, and lists of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from warmup.training.data.readers.literals import read_literal

BLANKS = " \t\r\n\v\f"
"""What parts words. Blanks of other scripts, such as U+3000, may be words: tagged corpora have them."""
MAX_NUMBER = float(2**127)  # training computes in 32 bits


def parse_text(value: Any, what: str, blanks: str | None = None) -> str:
    """A text as it stands. Raises ValueError with the reason where it cannot be used.

    Args:
        value: the text.
        what: its name for messages.
        blanks: characters that alone are no text; None for all white space.
    """
    if value is None:
        raise ValueError(f"{what} is missing")
    if not isinstance(value, str):
        raise ValueError(f"{what} is not a string")
    if is_blank(value, blanks):
        raise ValueError(f"{what} is blank")
    if "\0" in value:
        raise ValueError(f"{what} holds a NUL byte")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} holds a lone surrogate") from error
    return value


def is_blank(text: str, blanks: str | None = None) -> bool:
    """Whether a text is empty or has nothing but blanks: these, or all white space. (A long one is not copied.)"""
    return not text or (text.isspace() if blanks is None else not text.strip(blanks))


def parse_class(value: Any, what: str) -> str:
    """The name of a class without blanks around it: 1 and 1.0 are "1", true is "True"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{what} is neither a string nor a whole number")
    return parse_text(value, what).strip()


def parse_number(value: Any, what: str) -> str:
    """What `float` reads, as its `repr`. Raises ValueError unless it is finite in 32 bits."""
    if value is None or isinstance(value, str):
        value = parse_text(value, what).strip()
    try:
        number = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):  # no number; one of 400 digits
        number = math.nan
    if not abs(number) <= MAX_NUMBER:
        raise ValueError(f"{what} is not a finite number: {str(value)[:40]!r}")
    return repr(number)


def split_words(text: str) -> list[str]:
    """What stands between blanks."""
    return [word for word in re.split(f"[{BLANKS}]+", text) if word]


def parse_list(value: Any, what: str, split: Callable[[str], list[str]] = split_words) -> list[Any]:
    """A list as it is; of a string, what it holds: a list as JSON, or as Python or numpy prints it; or parts.

    Raises ValueError where it is no list.

    Args:
        value: a list or a string.
        what: its name for messages.
        split: what makes parts of a string that is no list.
    """
    if isinstance(value, str):
        text = value.strip(BLANKS)
        try:
            value = read_literal(text) if text.startswith("[") and text.endswith("]") else split(text)
        except ValueError as error:
            message = f"{what} looks like a JSON list and is not valid JSON, nor a list as Python or numpy prints it"
            raise ValueError(message) from error
        if ... in value:
            raise ValueError(f"{what} is a list from which numpy left values out ('...'); write all of them, as JSON")
    if value is None:
        raise ValueError(f"{what} is missing")
    if not isinstance(value, list):
        raise ValueError(f"{what} is not a list")
    return value
