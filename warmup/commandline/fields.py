"""The fields of the configuration by their dotted names, and what kind each of them is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from warmup.config import Config


def _fields(cls: type, prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, kind in get_type_hints(cls).items():
        fields |= _fields(kind, f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else {prefix + name: kind}
    return fields


FIELDS: dict[str, Any] = _fields(Config)
"""All fields of Config and of the sections nested in it: dotted name -> type."""
SECTIONS = {name.partition(".")[0] for name in FIELDS if "." in name}
LISTS = {name for name, kind in FIELDS.items() if re.search(r"Sequence|tuple", str(kind))}
"""Fields that take several values."""
SWITCHES = {name for name, kind in FIELDS.items() if kind is bool}
"""Fields that are true or false."""


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def describe_kind(kind: Any) -> str:
    """What a value of a type is, in words: "a whole number", "cpu or cuda", "2 numbers"."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return f"{', '.join(map(str, parts[:-1]))} or {parts[-1]}" if len(parts) > 1 else str(parts[0])
    if get_origin(kind) is tuple:
        return f"{len(parts)} {describe_kind(parts[0]).removeprefix('a ')}s"
    if get_origin(kind) in (list, Sequence):
        return f"a list, each of it {describe_kind(parts[0])}"
    if parts:
        return " or ".join(describe_kind(part) for part in parts if part is not NoneType)
    return _KINDS.get(kind, str(kind))


def leaves(content: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted name, value) of everything in a nested dict that is not itself a dict."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
