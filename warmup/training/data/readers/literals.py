"""Lists and objects in a string: as JSON, as Python prints them, or as numpy does."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

_TOKEN = re.compile(
    r"""(?P<blank>\s*)(?:(?P<open>array\(|[\[{(])|(?P<close>,\s*dtype=[^()]*\)|[\]})])|(?P<comma>,)"""
    r"""|(?P<value>u?'(?:[^'\\\n]|\\.)*'|u?"(?:[^"\\\n]|\\.)*"|[^\s,:()\[\]{}'"]+)|(?P<other>.))"""
)
"""Of what Python and numpy print. A string begins with u where Python 2 printed it."""


def read_literal(text: str) -> Any:
    """A value as JSON, as Python prints it, or as numpy does: `['a' 'b']`, which `Dataset.to_csv` writes.

    Raises ValueError for others. What numpy leaves out of a long list is an Ellipsis.
    """
    for read in (json.loads, _read_printed):
        try:
            return read(text)
        except (ValueError, SyntaxError, IndexError, RecursionError, MemoryError):
            continue
    raise ValueError("neither JSON nor as Python or numpy prints it")


def _read_printed(text: str) -> Any:
    """Python's literal, once numpy's lists have commas and their array(...) is taken away.

    Raises ValueError where values of a list are parted by both commas and blanks, or by nothing: Python would join
    strings.
    """
    written: list[str] = []
    open_brackets: list[set[str]] = []  # what parts the values in each
    after_value = False
    for match in _TOKEN.finditer(text.strip()):
        kind = str(match.lastgroup)
        token = match[kind]
        if (after_value and not open_brackets) or (kind == "other" and token != ":"):
            raise ValueError(f"no literal from {token[:20]!r} on")
        if kind == "comma":
            open_brackets[-1].add(",")
        elif after_value and kind in ("open", "value"):
            open_brackets[-1].add(" " if match["blank"] else "")
            written.append(",")
        if kind == "open":
            open_brackets.append(set() if token == "[" else {","})
        elif kind == "close" and open_brackets.pop() not in (set(), {","}, {" "}):
            raise ValueError("values are parted in several ways")
        after_value = kind in ("close", "value")
        written.append(token[-1] if kind in ("open", "close") else token)
    return ast.literal_eval("".join(written))
