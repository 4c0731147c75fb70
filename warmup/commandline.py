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
from warmup.config.tasks import TASKS
from warmup.errors import UserError, one_line
from warmup.presets import PRESETS


def _fields(cls: type, prefix: str = "") -> dict[str, Any]:
    """All fields of a configuration dataclass and of the sections nested in it: dotted name -> type."""
    fields: dict[str, Any] = {}
    for name, kind in get_type_hints(cls).items():
        fields |= _fields(kind, f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else {prefix + name: kind}
    return fields


class _StringLoader(yaml.SafeLoader):
    """Loads YAML scalars as the strings they are written as, like the command line: `no` is not False, 010 is not 8."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


set_parsing_settings(docstring_parse_attribute_docstrings=True)  # field docstrings become the --help texts
FIELDS = _fields(Config)
_LISTS = {name for name, kind in FIELDS.items() if re.search(r"Sequence|tuple", str(kind))}
_SECTIONS = {name.partition(".")[0] for name in FIELDS if "." in name}
_JOB = ("task", "model", "dropout", "data.", "recipe.", "batch.")
"""Fields that say what is trained, as opposed to how the run is started, seeded and logged."""


class _HelpFormatter(DefaultHelpFormatter):
    """Prints a field's help text and default, without its Python type."""

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        no_default = action.default in (None, SUPPRESS, ()) or action.default is False or "(default" in text
        return text if no_default else f"{text} (default: %(default)s)"

    def _format_action_invocation(self, action: Action) -> str:
        if action.dest in _LISTS:
            return f"--{action.dest} X [X ...]"
        return super()._format_action_invocation(action)


def parser(prog: str, description: str) -> ArgumentParser:
    """A parser of all fields of Config. Add a command's own options to it, then call `parse`."""
    arg_parser = ArgumentParser(
        prog=prog,
        description=description,
        exit_on_error=False,
        usage="%(prog)s [--config FILE] [--FIELD VALUE ...]",
        formatter_class=_HelpFormatter,
    )
    arg_parser.add_argument("--config", metavar="FILE", help="a YAML file of fields; other options override it")
    arg_parser.add_argument("--preset", metavar="NAME", help=f"a published recipe: {', '.join(PRESETS)}")
    arg_parser.add_argument("--print_config", action="store_true", help="print the resolved configuration and exit")
    arg_parser.add_class_arguments(Config, None)
    for action in arg_parser._actions:
        if action.dest in _SECTIONS:  # jsonargparse's options for a file per section, which --config makes redundant
            action.help = SUPPRESS
        if action.dest == "task":
            action.help = f"{action.help} {'; '.join(f'{name} ({facts.help})' for name, facts in TASKS.items())}"
    return arg_parser


def parse(
    arg_parser: ArgumentParser,
    argv: Sequence[str],
    defaults: Callable[[Config, Namespace], dict[str, Any]] = lambda config, options: {},
) -> tuple[Config, Namespace]:
    """Parse the command line and the YAML files that it names. Exits after printing for --help and --print_config.

    Args:
        arg_parser: what `parser` returned, with the command's own options.
        argv: the arguments, without the program's name.
        defaults: takes the parsed configuration and options, and returns defaults by dotted field name for what
            neither a file nor the command line sets.

    Returns:
        The configuration, and a namespace with the command's own options.

    Raises:
        UserError: one line that names the flag, and the file if it came from one.
    """
    known = [action.dest for action in arg_parser._actions if action.dest not in _SECTIONS]
    lists = _LISTS | {"world_sizes", "seeds", "predict"}
    tokens = _normalize(argv, known, lists)
    print_config = "--print_config" in tokens  # jsonargparse uses this name for an option of its own
    tokens = [token for token in tokens if token != "--print_config"]
    base: list[str] = []
    for name, value in _options(tokens):
        if name == "preset" and value:
            base += _preset_tokens(value)
        if name == "config" and value:
            base += _yaml_tokens(arg_parser, value, known)
    namespace = _parse(arg_parser, base + tokens)
    config = _build(arg_parser, namespace)
    if default_tokens := _tokens(defaults(config, namespace)):
        namespace = _parse(arg_parser, default_tokens + base + tokens)
        config = _build(arg_parser, namespace)
    if print_config:
        print(to_yaml(config), end="")
        raise SystemExit(0)
    return config, namespace


def names_a_job(argv: Sequence[str]) -> bool:
    """True if any argument says what to train: a config, a preset, or a field such as task or recipe.lr."""
    names = [token[2:].split("=")[0].replace("-", "_") for token in argv if token.startswith("--")]
    return any(name in ("config", "preset") or name.startswith(_JOB) for name in names)


def to_yaml(config: Config) -> str:
    """The configuration as the text of a YAML file, which parses to the same configuration."""
    return yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config))), sort_keys=False)


def leaves(content: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted name, value) of everything in a nested dict that is not itself a dict."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _parse(arg_parser: ArgumentParser, tokens: list[str]) -> Namespace:
    try:
        return arg_parser.parse_args(tokens)
    except ArgumentError as error:
        text = re.sub(r"Expected a typing.Literal\[([^]]*)\]", r"Expected one of \1", one_line(error, 400))
        raise UserError(re.sub(r'^Parser key "([^"]+)":', r"\1:", text).replace("argument --", "")) from None
    except Exception as error:  # values are YAML, of which jsonargparse reads not all that can be written
        raise UserError(f"the arguments cannot be read: {type(error).__name__}: {one_line(error)}") from None


def _build(arg_parser: ArgumentParser, namespace: Namespace) -> Config:
    values = arg_parser.instantiate(namespace)
    return Config(**{field.name: values[field.name] for field in dataclasses.fields(Config)})


def _normalize(argv: Sequence[str], known: Sequence[str], lists: set[str]) -> list[str]:
    """Options as --name=value with underscores; several values of a list field as one JSON list.

    Args:
        argv: the arguments as given.
        known: all option names.
        lists: the names of options that take several values.
    """
    tokens: list[str] = []
    index = 0
    while index < len(argv):
        token = argv[index]
        index += 1
        if token in ("-h", "--help"):
            tokens.append("--help")
            continue
        if not token.startswith("--"):
            raise UserError(f"{token!r}: not an option; options are written --name value")
        name, equals, value = token[2:].partition("=")
        name = name.replace("-", "_")
        _check_name(name, known)
        values = [value] if equals else []
        while index < len(argv) and not argv[index].startswith("--"):
            values.append(argv[index])
            index += 1
        tokens += _option_tokens(name, values, lists)
    return tokens


def _option_tokens(name: str, values: list[str], lists: set[str]) -> list[str]:
    if name in lists:
        only = values[0] if len(values) == 1 else None
        return [f"--{name}={only if only and only.startswith('[') else json.dumps(_split_numbers(values))}"]
    if len(values) > 1:
        raise UserError(f"{name}: takes one value, not {len(values)}: {' '.join(values)}")
    return [f"--{name}={values[0]}"] if values else [f"--{name}"]


def _split_numbers(values: list[str]) -> list[str]:
    """Split numbers that are separated by commas, as in --world-sizes 1,2,8."""
    return [part for value in values for part in (value.split(",") if re.fullmatch(r"[\d.,e-]+", value) else [value])]


def _check_name(name: str, known: Sequence[str], source: str = "") -> None:
    """Raise UserError, suggesting the nearest name, if there is no such field.

    Args:
        name: the dotted name as given.
        known: all names.
        source: the start of the error message, such as the file that the name is from.
    """
    if name in known:
        return
    leaf = name.rpartition(".")[2]
    leaf_of = {other: other.rpartition(".")[2] for other in known}
    near = difflib.get_close_matches(name, known, 1, 0.9)
    near = near or [other for other in known if leaf_of[other] == leaf]  # in another section of the configuration
    near = near or difflib.get_close_matches(name, known, 1, 0.6)
    near = near or [other for other in known if difflib.get_close_matches(leaf, [leaf_of[other]], 1, 0.65)]
    raise UserError(f"{source}{name}: no such field" + (f"; did you mean {near[0]}?" if near else "; see --help"))


def _options(tokens: list[str]) -> Iterable[tuple[str, str]]:
    return ((name[2:], value) for name, _, value in (token.partition("=") for token in tokens))


def _yaml_tokens(arg_parser: ArgumentParser, path: str, known: Sequence[str]) -> list[str]:
    """A YAML file as command-line tokens.

    Args:
        arg_parser: parses the file once by itself, so that errors name the file.
        path: the file.
        known: all option names.
    """
    tokens = []
    for name, value in _read_yaml(path):
        if value is None and name in _SECTIONS:  # a heading with nothing under it
            continue
        _check_name(name, [field for field in known if field in FIELDS], f"{path}: ")
        if value is None and type(None) not in get_args(FIELDS[name]):
            raise UserError(f"{path}: {name}: needs a value; remove the line to use its default")
        if isinstance(value, list) and name not in _LISTS:
            raise UserError(f"{path}: {name}: takes one value, not a list")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise UserError(f"{path}: {name}: takes a list of plain values")
        if name in _LISTS:
            value = json.dumps(value if isinstance(value, list) else [value])
        tokens.append(f"--{name}={'null' if value is None else value}")
    try:
        _build(arg_parser, _parse(arg_parser, tokens))
    except UserError as error:  # which cannot know the file
        raise UserError(f"{path}: {error}") from None
    return tokens


def _read_yaml(path: str) -> list[tuple[str, Any]]:
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


def _preset_tokens(name: str) -> list[str]:
    if name not in PRESETS:
        raise UserError(f"--preset: {name!r} is none of {', '.join(PRESETS)}")
    values = {"recipe": dataclasses.asdict(PRESETS[name].recipe), "batch": dataclasses.asdict(PRESETS[name].batch)}
    return _tokens(dict(leaves(values)))


def _tokens(values: dict[str, Any]) -> list[str]:
    return [f"--{field}={value if isinstance(value, str) else json.dumps(value)}" for field, value in values.items()]
