"""The answer to names that are no fields: the names that are meant, and the whole command with them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence

from warmup.commandline.other_names import OTHER_NAMES
from warmup.commandline.translation import Rewrite
from warmup.commandline.whole_command import quote, rewrite_command, values_of
from warmup.commandline.words import Option
from warmup.errors import UserError

_JOINED = {name.replace("_", ""): name for name in OTHER_NAMES}  # --batchsize is --batch_size too


def check_names(options: Sequence[Option], known: Collection[str], program: str) -> None:
    """Check all names of a command line at once.

    Args:
        options: the command line.
        known: all names that there are.
        program: what the options are given to, such as "train.py".

    Raises:
        UserError: some are not known; says which ones are meant, and repeats the command with them.
    """
    wrong = [option for option in options if option.name not in known]
    if not wrong:
        return
    values = values_of(options)
    rewrites = {option: rewrite for option in wrong if (rewrite := _translate(option, values, known))}
    if not rewrites:
        raise UserError("; ".join(_guess_text(option.name, known) for option in wrong))
    rows, command = [], []
    for option in options:
        near = nearest(option.name, known) if option in wrong and option not in rewrites else option.name
        if near:
            command.append(option._replace(name=near))
        if option in rewrites:
            rows.append((_spell(option), _row(rewrites[option])))
        elif option in wrong:
            rows.append((_spell(option), _guess_text("", known, option.name)))
    raise UserError(f"{_table(rows)}\nthe whole command:\n  {rewrite_command(command, rewrites, program)}")


def check_file_names(path: str, content: Sequence[tuple[str, object]], known: Collection[str]) -> None:
    """Check all names of a YAML file at once.

    Args:
        path: the file.
        content: (dotted name, value) of everything in it.
        known: all names that there are.

    Raises:
        UserError: some are not known; says which ones are meant.
    """
    options = [Option(name.replace("-", "_"), _file_values(value)) for name, value in content]
    answers = []
    for option, (name, _) in zip(options, content, strict=True):
        if name in known:
            continue
        rewrite = _translate(option, values_of(options), known)
        answers.append(f"{name}: no such field; {_file_row(rewrite)}" if rewrite else _guess_text(name, known))
    if answers:
        raise UserError("\n  ".join([f"{path}: {answers[0]}", *answers[1:]]))


def _file_values(value: object) -> tuple[str, ...]:
    return tuple(map(str, value if isinstance(value, list) else [value]))


def _translate(option: Option, values: Mapping[str, str], known: Collection[str]) -> Rewrite | None:
    """What is written here instead; None if the name is not known from elsewhere either."""
    _, section, leaf = option.name.rpartition(".")
    if section and difflib.get_close_matches(option.name, known, 1, 0.9):
        return None  # it is meant to be a name of ours
    name = _JOINED.get(leaf.replace("_", ""))
    return OTHER_NAMES[name].rule(" ".join(option.values), values) if name else None


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that is most like this one, if any is."""
    leaf = name.rpartition(".")[2]
    leaf_of = {other: other.rpartition(".")[2] for other in known}
    near = difflib.get_close_matches(name, known, 1, 0.9)
    near = near or [other for other in known if leaf_of[other] == leaf]  # in another section of the configuration
    near = near or difflib.get_close_matches(name, known, 1, 0.6)
    near = near or [other for other in known if difflib.get_close_matches(leaf, [leaf_of[other]], 1, 0.7)]
    return near[0] if near else None


def _guess_text(shown: str, known: Collection[str], name: str = "") -> str:
    near = nearest(name or shown, known)
    text = "no such field; " + (f"did you mean {near}?" if near else "see --help")
    return f"{shown}: {text}" if shown else text


def _row(rewrite: Rewrite) -> str:
    here = quote(rewrite.options)
    if rewrite.launcher:
        here = f"accelerate launch {quote(rewrite.launcher)}, before train.py"
    return f"{here or 'leave it out'}{f' ({rewrite.note})' if rewrite.note else ''}"


def _file_row(rewrite: Rewrite) -> str:
    """A translation as fields of a YAML file."""
    fields: dict[str, list[str]] = {}
    for word in rewrite.options:
        if word.startswith("--"):
            fields[word[2:]] = []
        else:
            fields[list(fields)[-1]].append(word)
    lines = [f"{name}: {word if not more else str([word, *more])}" for name, (word, *more) in fields.items()]
    return f"write {'; '.join(lines)}{f' ({rewrite.note})' if rewrite.note else ''}" if lines else _row(rewrite)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    if len(rows) == 1:
        return f"{rows[0][0]} is not an option here; instead: {rows[0][1]}"
    width = min(max(len(there) for there, _ in rows), 40)
    lines = [f"  {there:<{width}}  ->  {here}" for there, here in rows]
    return "\n".join([f"{len(rows)} options have other names here:", *lines])


def _spell(option: Option) -> str:
    return quote((f"--{option.name}", *option.values))
