"""The command line and YAML files -> Config. Shared by train.py and `python -m warmup plan`; does not import torch."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from argparse import Action
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import SUPPRESS, ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from warmup.config import Config
from warmup.presets import PRESETS


def _fields(cls: type, prefix: str = "") -> dict[str, Any]:
    """Every field of a configuration dataclass and of those nested in it: dotted name -> type."""
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(cls).items():
        nested = _fields(kind, f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else {prefix + name: kind}
        found |= nested
    return found


class _Words(yaml.SafeLoader):
    """YAML whose words stay as they are written, as on the command line: `no` is not False, 010 is not 8."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


set_parsing_settings(docstring_parse_attribute_docstrings=True)  # field docs are their --help
FIELDS = _fields(Config)
_LISTS = {name for name, kind in FIELDS.items() if re.search(r"Sequence|tuple", str(kind))}
_GROUPS = {name.partition(".")[0] for name in FIELDS if "." in name}
JOB = ("task", "model", "dropout", "data.", "recipe.", "batch.")
"""Fields that say what is trained, as opposed to how it is started, seeded and logged."""


class _Help(DefaultHelpFormatter):
    """What a field is for and its default, without Python's type of it."""

    def _get_help_string(self, action: Action) -> str:
        told = action.help or ""
        silent = action.default in (None, SUPPRESS, ()) or action.default is False or "(default" in told
        return told if silent else f"{told} (default: %(default)s)"

    def _format_action_invocation(self, action: Action) -> str:
        if action.dest in _LISTS:
            return f"--{action.dest} X [X ...]"
        return super()._format_action_invocation(action)


def parser(prog: str, description: str) -> ArgumentParser:
    """A parser of all fields of Config. Add a command's own options to it, then call `parse`."""
    made = ArgumentParser(
        prog=prog,
        description=description,
        exit_on_error=False,
        usage="%(prog)s [--config FILE] [--FIELD VALUE ...]",
        formatter_class=_Help,
    )
    made.add_argument("--config", metavar="FILE", help="a YAML file of fields; later arguments override it")
    made.add_argument("--preset", metavar="NAME", help=f"a published recipe: {', '.join(PRESETS)}")
    made.add_argument("--print_config", action="store_true", help="print the resolved configuration and exit")
    made.add_class_arguments(Config, None)
    for action in made._actions:
        if action.dest in _GROUPS:  # jsonargparse's files of single groups, which --config is enough for
            action.help = SUPPRESS
    return made


def parse(
    made: ArgumentParser,
    argv: Sequence[str],
    defaults: Callable[[Config, Namespace], dict[str, Any]] = lambda config, options: {},
) -> tuple[Config, Namespace]:
    """The configuration and the command's own options. Exits where --help or --print_config asked for text.

    defaults: what fields are, by dotted names, where neither a file nor the command line says, made of what these say.
    Raises ValueError with one line that names the flag, and the file where it came from one.
    """
    known = [action.dest for action in made._actions if action.dest not in _GROUPS]
    lists = _LISTS | {"world_sizes", "seeds", "predict"}
    tokens = _normalise(argv, known, lists)
    print_config = "--print_config" in tokens  # jsonargparse takes this name for itself
    tokens = [token for token in tokens if token != "--print_config"]
    base: list[str] = []
    for name, value in _options(tokens):
        if name == "preset" and value:
            base += _preset(value)
        if name == "config" and value:
            base += _yaml(made, value, known)
    namespace = _parse(made, base + tokens)
    config = _build(made, namespace)
    if under := _tokens(defaults(config, namespace)):
        namespace = _parse(made, under + base + tokens)
        config = _build(made, namespace)
    if print_config:
        print(to_yaml(config), end="")
        raise SystemExit(0)
    return config, namespace


def names_a_job(argv: Sequence[str]) -> bool:
    """Whether any argument says what to train: a config, a preset, or a field of the job."""
    names = [token[2:].split("=")[0].replace("-", "_") for token in argv if token.startswith("--")]
    return any(name in ("config", "preset") or name.startswith(JOB) for name in names)


def to_yaml(config: Config) -> str:
    """The configuration as a YAML file that gives it again."""
    return yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config))), sort_keys=False)


def _parse(made: ArgumentParser, tokens: list[str]) -> Namespace:
    try:
        return made.parse_args(tokens)
    except ArgumentError as error:
        text = re.sub(r"Expected a typing.Literal\[([^]]*)\]", r"Expected one of \1", re.sub(r"\s+", " ", str(error)))
        raise ValueError(re.sub(r'^Parser key "([^"]+)":', r"\1:", text).replace("argument --", "")) from None


def _build(made: ArgumentParser, namespace: Namespace) -> Config:
    values = made.instantiate(namespace)
    return Config(**{field.name: values[field.name] for field in dataclasses.fields(Config)})


def _normalise(argv: Sequence[str], known: Sequence[str], lists: set[str]) -> list[str]:
    """Options as --name=value with underscores; several values of a list field as one JSON list."""
    tokens: list[str] = []
    position = 0
    while position < len(argv):
        token = argv[position]
        position += 1
        if token in ("-h", "--help"):
            tokens.append("--help")
            continue
        if not token.startswith("--"):
            raise ValueError(f"{token!r}: not an option; options are written --name value")
        name, equals, value = token[2:].partition("=")
        name = _known(name.replace("-", "_"), known)
        values = [value] if equals else []
        while position < len(argv) and not argv[position].startswith("--"):
            values.append(argv[position])
            position += 1
        tokens += _token(name, values, lists)
    return tokens


def _token(name: str, values: list[str], lists: set[str]) -> list[str]:
    if name in lists:
        one = values[0] if len(values) == 1 else None
        return [f"--{name}={one if one and one.startswith('[') else json.dumps(_split(values))}"]
    if len(values) > 1:
        raise ValueError(f"{name}: takes one value, not {len(values)}: {' '.join(values)}")
    return [f"--{name}={values[0]}"] if values else [f"--{name}"]


def _split(values: list[str]) -> list[str]:
    """Numbers may also be separated by commas: --world-sizes 1,2,8."""
    return [part for value in values for part in (value.split(",") if re.fullmatch(r"[\d.,e-]+", value) else [value])]


def _known(name: str, known: Sequence[str], where: str = "") -> str:
    """The name, if there is such a field. Otherwise a ValueError with the nearest one."""
    if name in known:
        return name
    leaf = name.rpartition(".")[2]
    last = {other: other.rpartition(".")[2] for other in known}
    near = difflib.get_close_matches(name, known, 1, 0.9)
    near = near or [other for other in known if last[other] == leaf]  # of another part of the configuration
    near = near or difflib.get_close_matches(name, known, 1, 0.6)
    near = near or [other for other in known if difflib.get_close_matches(leaf, [last[other]], 1, 0.65)]
    raise ValueError(f"{where}{name}: no such field" + (f"; did you mean {near[0]}?" if near else "; see --help"))


def _options(tokens: list[str]) -> Iterable[tuple[str, str]]:
    return ((name[2:], value) for name, _, value in (token.partition("=") for token in tokens))


def _yaml(made: ArgumentParser, path: str, known: Sequence[str]) -> list[str]:
    """A YAML file as command-line tokens, checked on its own so that its errors name the file."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Words)
    except OSError as error:
        raise ValueError(f"--config: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config: {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict | None):
        raise ValueError(f"--config: {path} does not hold fields (name: value)")
    tokens = []
    for name, value in leaves(content or {}):
        if value is None and name in _GROUPS:  # a heading with nothing under it
            continue
        _known(name, [field for field in known if field in FIELDS], f"{path}: ")
        if value is None and type(None) not in get_args(FIELDS[name]):
            raise ValueError(f"{path}: {name}: needs a value; leave the line out for its default")
        if isinstance(value, list) and name not in _LISTS:
            raise ValueError(f"{path}: {name}: takes one value, not a list")
        if name in _LISTS:
            value = json.dumps(value if isinstance(value, list) else [value])
        tokens.append(f"--{name}={'null' if value is None else value}")
    try:
        _build(made, _parse(made, tokens))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return tokens


def leaves(content: dict, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _preset(name: str) -> list[str]:
    if name not in PRESETS:
        raise ValueError(f"--preset: {name!r} is none of {', '.join(PRESETS)}")
    values = {"recipe": dataclasses.asdict(PRESETS[name].recipe), "batch": dataclasses.asdict(PRESETS[name].batch)}
    return _tokens(dict(leaves(values)))


def _tokens(values: dict[str, Any]) -> list[str]:
    return [f"--{field}={value if isinstance(value, str) else json.dumps(value)}" for field, value in values.items()]
