"""The data that is there without asking: the docstrings of installed packages, read and never imported."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from warmup.errors import UserError

STDLIB = "python"
PACKAGES = ("torch", "transformers", "numpy", "pandas", "datasets", "accelerate", STDLIB)
ALIASES = ("pytorch", "np", "pd", "hugging face", "huggingface")
LEFT_OUT = {"test", "tests", "testing", "site-packages", "dist-packages"}
UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # what an escape in a docstring can hold, and no row may
FORMAT = 1  # raise it when the same packages would give other rows
MAX_FILES = 400
MIN_WORDS = 8
LABELLED_WORDS = 64
MIN_TEXTS = 200
MAX_TEXTS = 1500


def docstring_files(
    cache_dir: Path, labelled: bool, packages: Sequence[str] = PACKAGES, max_files: int = MAX_FILES
) -> list[str]:
    """Return the path of a .jsonl of docstrings (a list of one), building it where it is not there yet.

    Rows are {"text"}, or with `labelled` {"text", "label"}: the package's name, which the text does not give away,
    as many rows of each, label after label in turn. `packages` are looked for by name; "python" is the standard
    library. Several processes may call this at once. Raises UserError where fewer than two packages have texts
    enough, and where `cache_dir` cannot be written.
    """
    kind = "labelled" if labelled else "plain"
    path = Path(cache_dir) / f"docstrings-{kind}-{_key(packages, max_files)}.jsonl"
    if path.exists():
        return [str(path)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                _write(path, _labelled(packages, max_files) if labelled else _plain(packages, max_files))
    except OSError as error:
        raise UserError(f"{cache_dir}: the docstrings cannot be stored there: {error.strerror}") from error
    return [str(path)]


def _key(packages: Sequence[str], max_files: int) -> str:
    """Name what the rows depend on, so that an upgrade builds them anew."""
    parts = [FORMAT, platform.python_version(), max_files, [(name, _version(name)) for name in packages]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _write(path: Path, rows: list[dict]) -> None:
    """Write under another name first: whoever finds the file finds all of it."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with open(part, "w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    os.replace(part, path)


def _plain(packages: Sequence[str], max_files: int) -> list[dict]:
    seen: set[str] = set()
    texts = [_new(_docstrings(name, max_files), seen) for name in packages]
    _check_enough([found for found in texts if found])
    return [{"text": text} for found in texts for text in found]


def _labelled(packages: Sequence[str], max_files: int) -> list[dict]:
    names = _names_pattern(packages)
    seen: set[str] = set()
    texts = {name: _new((_masked(t, names) for t in _docstrings(name, max_files)), seen) for name in packages}
    texts = {name: found for name, found in texts.items() if len(found) >= MIN_TEXTS}
    _check_enough(list(texts.values()))
    count = min(MAX_TEXTS, *(len(found) for found in texts.values()))
    turns = zip(*(_spread(found, count) for found in texts.values()), strict=True)
    return [{"text": text, "label": name} for turn in turns for name, text in zip(texts, turn, strict=True)]


def _check_enough(found: list[list[str]]) -> None:
    if len(found) < 2:
        raise UserError(
            f"too few docstrings to learn from: {len(found)} of the installed packages have them and 2 are needed; "
            "give your own data with --data.train_files"
        )


def _names_pattern(packages: Sequence[str]) -> re.Pattern:
    names = "|".join(re.escape(name) for name in (*packages, *ALIASES))
    # Not \b, to which "torch_dtype" is one word.
    return re.compile(rf"(?<![^\W_])(?:{names})(?![^\W_])", re.IGNORECASE)


def _masked(text: str, names: re.Pattern) -> str:
    return " ".join(names.sub("this", text).split()[:LABELLED_WORDS])


def _new(texts: Iterator[str], seen: set[str]) -> list[str]:
    """Return the texts long enough and not seen before, noting them as seen."""
    kept = dict.fromkeys(text for text in texts if text not in seen and len(text.split()) >= MIN_WORDS)
    seen.update(kept)
    return list(kept)


def _docstrings(package: str, max_files: int) -> Iterator[str]:
    for file in _spread(_sources(package), max_files):
        tree = _parsed(file)
        for docstring in _within(tree) if tree else ():
            text = " ".join(docstring.split())
            if not UNWRITABLE.search(text):
                yield text


def _sources(package: str) -> list[Path]:
    """List a package's files in order, without its tests."""
    files = []
    for root in _roots(package):
        inside = (path.relative_to(root) for path in root.rglob("*.py"))
        files += [root / path for path in sorted(inside) if not LEFT_OUT.intersection(path.parts)]
    return files


def _roots(package: str) -> list[Path]:
    if package == STDLIB:
        return [Path(sysconfig.get_path("stdlib"))]
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # what is loaded under that name has no spec
        spec = None
    return [Path(root) for root in (spec and spec.submodule_search_locations) or ()]


def _spread(items: list, count: int) -> list:
    """Return at most `count` of the items, evenly spread over all of them."""
    if len(items) <= count:
        return items
    return [items[index * len(items) // count] for index in range(count)]


def _parsed(file: Path) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's escape sequences
        try:
            return ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
            return None


def _within(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Yield the docstring of a module, class or function, then those of what it defines."""
    if docstring := ast.get_docstring(node, clean=False):
        yield docstring
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _within(child)
