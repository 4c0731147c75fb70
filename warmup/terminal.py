"""What may be shown where: colours and bars on a terminal, plain lines in a file or a pipe. Standard library only."""

from __future__ import annotations

import os
import re
from typing import TextIO

_COLOURS = {"warning": "\033[33m", "error": "\033[31m", "bold": "\033[1m"}
_END = "\033[0m"


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can go back in a line."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def colour(text: str, name: str, stream: TextIO) -> str:
    """A text in a colour of _COLOURS, where the stream shows colours (https://no-color.org)."""
    return f"{_COLOURS[name]}{text}{_END}" if is_terminal(stream) and not os.environ.get("NO_COLOR") else text


def highlight(text: str, stream: TextIO) -> str:
    """A text whose lines that begin with "warning" or "error" stand out, where the stream shows colours."""
    return re.sub(r"(?m)^\s*(warning|error)\b.*", lambda found: colour(found[0], found[1], stream), text)
