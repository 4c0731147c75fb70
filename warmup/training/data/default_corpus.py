"""The default training data: docstrings of installed packages, which are parsed and never imported."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from warmup.errors import UserError
from warmup.training.files import staged_file

STDLIB = "python"
PACKAGES = ("torch", "transformers", "numpy", "pandas", "datasets", "accelerate", STDLIB)
ALIASES = ("pytorch", "np", "pd", "hugging face", "huggingface")
SKIPPED_FOLDERS = {"test", "tests", "testing", "site-packages", "dist-packages"}
UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # an escape sequence in a docstring can give these; a row must not
FORMAT = 1  # to be raised when the same packages give other rows
MAX_FILES = 400
MIN_WORDS = 8  # of a text
LABELLED_WORDS = 64  # a labelled text is cut off after so many
MIN_TEXTS = 200  # of a package that counts as a label
MAX_TEXTS = 1500  # of each label


def docstring_files(
    cache_dir: Path, labelled: bool, packages: Sequence[str] = PACKAGES, max_files: int = MAX_FILES
) -> list[str]:
    """Write docstrings to a .jsonl file, unless it exists. Several processes may call this at once.

    Args:
        cache_dir: The folder of the file.
        labelled: Whether rows are {"text", "label"}, not {"text"}. The label is the name of the package, which is
            removed from the text. There are equally many rows of each label, and the labels alternate.
        packages: Names of packages; "python" is the standard library. Those that are not installed are passed over.
        max_files: The most source files to read of a package.

    Returns:
        The path of the file, in a list.

    Raises:
        UserError: Fewer than two packages have enough texts, or the folder cannot be written.
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
    """A hash of all that the rows depend on, so that they are built anew after an upgrade of a package."""
    parts = [FORMAT, platform.python_version(), max_files, [(name, _version(name)) for name in packages]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _write(path: Path, rows: list[dict]) -> None:
    with staged_file(path) as stage, open(stage, "w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _plain(packages: Sequence[str], max_files: int) -> list[dict]:
    seen: set[str] = set()
    texts = [_unseen(_docstrings(name, max_files), seen) for name in packages]
    _check_enough([package_texts for package_texts in texts if package_texts])
    return [{"text": text} for package_texts in texts for text in package_texts]


def _labelled(packages: Sequence[str], max_files: int) -> list[dict]:
    names = _names_pattern(packages)
    seen: set[str] = set()
    every = {name: _unseen((_masked(t, names) for t in _docstrings(name, max_files)), seen) for name in packages}
    texts = {name: package_texts for name, package_texts in every.items() if len(package_texts) >= MIN_TEXTS}
    _check_enough(list(texts.values()))
    count = min(MAX_TEXTS, *(len(package_texts) for package_texts in texts.values()))
    groups = zip(*(_evenly_spaced(package_texts, count) for package_texts in texts.values()), strict=True)
    return [{"text": text, "label": name} for group in groups for name, text in zip(texts, group, strict=True)]


def _check_enough(texts: list[list[str]]) -> None:
    if len(texts) < 2:
        raise UserError(
            f"too few docstrings to learn from: {len(texts)} of the installed packages have them and 2 are needed; "
            "give your own data with --data.train_files"
        )


def _names_pattern(packages: Sequence[str]) -> re.Pattern:
    names = "|".join(re.escape(name) for name in (*packages, *ALIASES))
    # \b would take "torch_dtype" for one word.
    return re.compile(rf"(?<![^\W_])(?:{names})(?![^\W_])", re.IGNORECASE)


def _masked(text: str, names: re.Pattern) -> str:
    return " ".join(names.sub("this", text).split()[:LABELLED_WORDS])


def _unseen(texts: Iterator[str], seen: set[str]) -> list[str]:
    """Return each text that is long enough and not in `seen`, once, and add these to `seen`."""
    unseen = dict.fromkeys(text for text in texts if text not in seen and len(text.split()) >= MIN_WORDS)
    seen.update(unseen)
    return list(unseen)


def _docstrings(package: str, max_files: int) -> Iterator[str]:
    for file in _evenly_spaced(_source_files(package), max_files):
        tree = _parse(file)
        for docstring in _docstrings_of(tree) if tree else ():
            text = " ".join(docstring.split())
            if not UNWRITABLE.search(text):
                yield text


def _source_files(package: str) -> list[Path]:
    """The source files of a package in sorted order, without its tests."""
    files = []
    for root in _package_folders(package):
        paths = (path.relative_to(root) for path in root.rglob("*.py"))
        files += [root / path for path in sorted(paths) if not SKIPPED_FOLDERS.intersection(path.parts)]
    return files


def _package_folders(package: str) -> list[Path]:
    if package == STDLIB:
        return [Path(sysconfig.get_path("stdlib"))]
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module of that name is loaded and has no spec
        return []
    return [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []


def _evenly_spaced(items: list, count: int) -> list:
    """Return at most `count` of the items, evenly spaced over the whole list."""
    if len(items) <= count:
        return items
    return [items[index * len(items) // count] for index in range(count)]


def _parse(file: Path) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about invalid escape sequences in other people's code
        try:
            return ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
            return None


def _docstrings_of(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Yield the docstring of a module, class or function, then those of the classes and functions in its body."""
    if docstring := ast.get_docstring(node, clean=False):
        yield docstring
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings_of(child)
