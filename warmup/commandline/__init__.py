"""The command line and YAML files -> Config. Shared by train.py and `python -m warmup plan`; does not import torch."""

from __future__ import annotations

import dataclasses
import json
import re
from argparse import Action
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, get_args

import yaml
from jsonargparse import SUPPRESS, ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from warmup.commandline.fields import FIELDS, LISTS, SECTIONS, describe_kind, leaves
from warmup.commandline.words import read_options, tokens_of
from warmup.commandline.wrong_names import check_file_names, check_names
from warmup.commandline.yaml_files import read_yaml
from warmup.config import Config
from warmup.config.tasks import TASKS
from warmup.errors import UserError, one_line
from warmup.presets import PRESETS

__all__ = ["FIELDS", "LISTS", "ArgumentParser", "leaves", "parse", "parser", "to_yaml"]

set_parsing_settings(docstring_parse_attribute_docstrings=True)  # field docstrings become the --help texts


class _HelpFormatter(DefaultHelpFormatter):
    """Prints a field's help text and default, without its Python type."""

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        no_default = action.default in (None, SUPPRESS, ()) or action.default is False or "(default" in text
        return text if no_default else f"{text} (default: %(default)s)"

    def _format_action_invocation(self, action: Action) -> str:
        if action.dest in LISTS:
            return f"--{action.dest} X [X ...]"
        if any(option.endswith("+") for option in action.option_strings):  # jsonargparse's way to append to a list
            return f"--{action.dest} {action.metavar or 'N [N ...]'}"
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
        if action.dest in SECTIONS:  # jsonargparse's options for a file per section, which --config makes redundant
            action.help = SUPPRESS
        if action.dest == "task":
            action.help = f"{action.help} {'; '.join(f'{name} ({facts.help})' for name, facts in TASKS.items())}"
    return arg_parser


def parse(
    arg_parser: ArgumentParser,
    argv: Sequence[str],
    base: Callable[[Mapping[str, tuple[str, ...]]], Sequence[str]] = lambda given: (),
    defaults: Callable[[Config, Namespace], dict[str, Any]] = lambda config, options: {},
) -> tuple[Config, Namespace]:
    """Parse the command line and the YAML files that it names. Exits after printing for --help and --print_config.

    Args:
        arg_parser: what `parser` returned, with the command's own options.
        argv: the arguments, without the program's name.
        base: takes the values of the options that were given, by name, and returns arguments to put in front of them.
        defaults: takes the parsed configuration and options, and returns defaults by dotted field name for what
            neither a file nor the command line sets.

    Returns:
        The configuration, and a namespace with the command's own options; its `given` is a list of all options as they
        were typed, and its `base` a list of those that were put in front of them.

    Raises:
        UserError: it names the flag, and the file if it came from one.
    """
    known = [action.dest for action in arg_parser._actions if action.dest not in SECTIONS]
    lists = LISTS | {"world_sizes", "seeds", "predict", "rates", "warmups"}
    given = read_options(argv, lists)
    check_names(given, known, arg_parser.prog)
    of_base = read_options(base({option.name: option.values for option in given}), lists)
    tokens = [token for option in [*of_base, *given] for token in tokens_of(option, lists)]
    print_config = "--print_config" in tokens  # jsonargparse uses this name for an option of its own
    tokens = [token for token in tokens if token != "--print_config"]
    from_files = [token for option in [*of_base, *given] for token in _file_tokens(arg_parser, *option, known)]
    namespace = _parse(arg_parser, from_files + tokens)
    config = _build(arg_parser, namespace)
    if default_tokens := _tokens(defaults(config, namespace)):
        namespace = _parse(arg_parser, default_tokens + from_files + tokens)
        config = _build(arg_parser, namespace)
    if print_config:
        print(to_yaml(config), end="")
        raise SystemExit(0)
    namespace.given, namespace.base = given, of_base
    return config, namespace


def to_yaml(config: Config) -> str:
    """The configuration as the text of a YAML file, which parses to the same configuration."""
    return yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config))), sort_keys=False)


def _parse(arg_parser: ArgumentParser, tokens: list[str]) -> Namespace:
    try:
        return arg_parser.parse_args(tokens)
    except ArgumentError as error:
        raise UserError(_error_text(arg_parser, one_line(error, 400))) from None
    except Exception as error:  # values are YAML, of which jsonargparse reads not all that can be written
        raise UserError(f"the arguments cannot be read: {type(error).__name__}: {one_line(error)}") from None


def _error_text(arg_parser: ArgumentParser, text: str) -> str:
    """An error of jsonargparse without Python's types."""
    text = re.sub(r'^Parser key "([^"]+)":', r"\1:", text).replace("argument --", "")
    text = text.replace("expected one argument", "needs a value")
    name, _, rest = text.partition(": ")
    kinds = {action.dest: getattr(action, "_typehint", None) or action.type for action in arg_parser._actions}
    value = re.search(r"(?:Got|Given) value: ?(.*)$", rest)
    if not value or not kinds.get(name):
        return text
    shown = value.group(1) if value.group(1).startswith("[") else repr(value.group(1))
    return f"{name}: {shown} is not {describe_kind(kinds[name])}"


def _build(arg_parser: ArgumentParser, namespace: Namespace) -> Config:
    values = arg_parser.instantiate(namespace)
    return Config(**{field.name: values[field.name] for field in dataclasses.fields(Config)})


def _file_tokens(arg_parser: ArgumentParser, name: str, values: tuple[str, ...], known: Collection[str]) -> list[str]:
    """What a --config or a --preset holds, as command-line tokens; nothing for other options."""
    if name == "preset" and values:
        return _preset_tokens(values[0])
    return _yaml_tokens(arg_parser, values[0], known) if name == "config" and values else []


def _yaml_tokens(arg_parser: ArgumentParser, path: str, known: Collection[str]) -> list[str]:
    """A YAML file as command-line tokens.

    Args:
        arg_parser: parses the file once by itself, so that errors name the file.
        path: the file.
        known: all option names.
    """
    # A heading with nothing under it is left out.
    content = [(name, value) for name, value in read_yaml(path) if value is not None or name not in SECTIONS]
    check_file_names(path, content, [field for field in known if field in FIELDS])
    tokens = []
    for name, value in content:
        if value is None and type(None) not in get_args(FIELDS[name]):
            raise UserError(f"{path}: {name}: needs a value; remove the line to use its default")
        if isinstance(value, list) and name not in LISTS:
            raise UserError(f"{path}: {name}: takes one value, not a list")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise UserError(f"{path}: {name}: takes a list of plain values")
        if name in LISTS:
            value = json.dumps(value if isinstance(value, list) else [value])
        tokens.append(f"--{name}={'null' if value is None else value}")
    try:
        _build(arg_parser, _parse(arg_parser, tokens))
    except UserError as error:  # which cannot know the file
        raise UserError(f"{path}: {error}") from None
    return tokens


def _preset_tokens(name: str) -> list[str]:
    if name not in PRESETS:
        raise UserError(f"--preset: {name!r} is none of {', '.join(PRESETS)}")
    values = {"recipe": dataclasses.asdict(PRESETS[name].recipe), "batch": dataclasses.asdict(PRESETS[name].batch)}
    return _tokens(dict(leaves(values)))


def _tokens(values: dict[str, Any]) -> list[str]:
    return [f"--{field}={value if isinstance(value, str) else json.dumps(value)}" for field, value in values.items()]
