"""YAML files of fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from warmup.commandline.fields import leaves
from warmup.errors import UserError, one_line


class _StringLoader(yaml.SafeLoader):
    """Loads YAML scalars as the strings they are written as, like the command line: `no` is not False, 010 is not 8."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_yaml(path: str) -> list[tuple[str, Any]]:
    """(dotted name, value) of everything in a YAML file. Raises UserError if it is not a YAML file of fields."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_StringLoader)
    except OSError as error:
        raise UserError(f"--config: cannot read {path}: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"--config: {path} is nested too deeply; write fields as section: {{name: value}}") from None
    except Exception as error:  # for a value that is not what its tag says, PyYAML raises what comes
        raise UserError(f"--config: {path} is not YAML: {one_line(error)}") from None
    if not isinstance(content, dict | None):
        raise UserError(f"--config: {path} does not hold fields (name: value)")
    try:
        return list(leaves(content or {}))
    except RecursionError:
        raise UserError(f"--config: {path} has a section that contains itself") from None
