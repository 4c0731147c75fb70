import json
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from made_rows import row_format

from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data import default_corpus
from warmup.training.data.default_corpus import ALIASES, docstring_files
from warmup.training.data.readers import read_rows
from warmup.training.data.sources import resolve

PACKAGES = ("apple", "pear")


def function(name, docstring):
    return f"def {name}():\n    {docstring!r}\n\n"


def package(folder, name, count, files=3, more=""):
    """Write a package that cannot be imported, with `count` functions in `files` files."""
    (folder / name / "tests").mkdir(parents=True)
    for part in range(files):
        lines = [
            function(
                f"f{i}", f"{name[::-1]} {i} of {name} calls {name.title()}.core,\n\n  {name}_x and np, in PyTorch."
            )
            for i in range(part, count, files)
        ]
        (folder / name / f"m{part}.py").write_text("raise RuntimeError('imported')\n" + "".join(lines), "utf-8")
    (folder / name / "__init__.py").write_text("raise RuntimeError('imported')\n" + more, "utf-8")
    (folder / name / "broken.py").write_text("def (:\n")
    (folder / name / "tests" / "test_a.py").write_text(function("t", "A docstring of a test " + "that is skipped " * 5))


@pytest.fixture
def fruit(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    package(folder, "apple", 210)
    package(folder, "pear", 240)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def rows(files):
    return [json.loads(line) for file in files for line in Path(file).read_text("utf-8").splitlines()]


def test_plain_rows_are_folded_texts_in_order(fruit, tmp_path):
    result = rows(docstring_files(tmp_path / "cache", False, PACKAGES))
    assert len(result) == 210 + 240
    assert result[0] == {"text": "elppa 0 of apple calls Apple.core, apple_x and np, in PyTorch."}
    assert result[1] == {"text": "elppa 3 of apple calls Apple.core, apple_x and np, in PyTorch."}
    assert result[210]["text"].startswith("raep 0 of pear")


def test_labelled_rows_are_balanced_and_do_not_give_the_label_away(fruit, tmp_path):
    result = rows(docstring_files(tmp_path / "cache", True, PACKAGES))
    assert Counter(row["label"] for row in result) == {"apple": 210, "pear": 210}
    assert [row["label"] for row in result[:4]] == ["apple", "pear", "apple", "pear"]
    assert result[0]["text"] == "elppa 0 of this calls this.core, this_x and this, in this."
    names = re.compile("|".join((*PACKAGES, *(rf"\b{alias}\b" for alias in ALIASES))), re.IGNORECASE)
    assert not [row for row in result if names.search(row["text"])]


def test_texts_that_differ_only_in_package_names_count_once(tmp_path, monkeypatch):
    for name in PACKAGES:
        same = "".join(function(f"g{i}", f"number {i} of the functions which {name} has") for i in range(50))
        package(tmp_path / "site", name, 200, more=same)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    result = rows(docstring_files(tmp_path / "cache", True, PACKAGES))
    assert Counter(row["label"] for row in result) == {"apple": 200, "pear": 200}  # 250 of each if they were kept twice
    assert len({row["text"] for row in result}) == len(result)


def test_a_package_with_few_texts_is_not_a_label(fruit, tmp_path):
    package(fruit, "plum", 199)
    result = rows(docstring_files(tmp_path / "cache", True, (*PACKAGES, "plum")))
    assert Counter(row["label"] for row in result) == {"apple": 210, "pear": 210}


def test_labelled_texts_are_truncated(tmp_path, monkeypatch):
    for name in PACKAGES:
        more = "".join(function(f"g{i}", f"{i} {name[::-1]} " + "word " * 100) for i in range(200))
        package(tmp_path / "site", name, 0, more=more)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert {len(row["text"].split()) for row in rows(docstring_files(tmp_path, True, PACKAGES))} == {64}
    assert {len(row["text"].split()) for row in rows(docstring_files(tmp_path, False, PACKAGES))} == {102}


def test_which_docstrings_are_used(tmp_path, monkeypatch):
    long = "words enough to be kept as one text"
    more = (
        function("short", "seven words are too few to keep")
        + function("twice", f"twice {long}")
        + function("again", f"twice {long}")
        + function("nul", f"nul \0 {long}")
        + function("surrogate", f"surrogate \ud800 {long}")
        + f'class A:\n    """class {long}"""\n    async def f(self):\n        """method {long}"""\n'
    )
    package(tmp_path / "site", "apple", 0, more=more)
    (tmp_path / "site/apple/module.py").write_text(f'"""module\n  {long}"""\n')
    package(tmp_path / "site", "pear", 1, more=function("twice", f"twice {long}"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    result = [row["text"] for row in rows(docstring_files(tmp_path / "cache", False, PACKAGES))]
    assert result[:-1] == [f"{kind} {long}" for kind in ("twice", "class", "method", "module")]
    assert result[-1].startswith("raep 0 of pear")


def test_nothing_is_imported(fruit, tmp_path):
    docstring_files(tmp_path / "cache", False, PACKAGES)
    assert not set(PACKAGES) & set(sys.modules)


@pytest.mark.parametrize("labelled", [False, True])
def test_built_twice_the_bytes_are_the_same(fruit, tmp_path, labelled):
    first, second = (docstring_files(tmp_path / name, labelled, PACKAGES)[0] for name in "ab")
    assert Path(first).name == Path(second).name and first != second
    assert Path(first).read_bytes() == Path(second).read_bytes()


def test_installed_packages_give_rows_that_can_be_read(tmp_path):
    packages = ("numpy", "pandas", "python")
    files = docstring_files(tmp_path, True, packages, max_files=60)
    bad = []
    sources, _ = resolve(files, (), TASKS["classification"])
    result = list(read_rows(sources, row_format("classification"), bad, 0))
    labels = Counter(row["label"] for row in result)
    assert len(labels) >= 2 and set(labels) <= set(packages) and len(set(labels.values())) == 1
    names = re.compile(rf"\b({'|'.join((*packages, *ALIASES))})\b", re.IGNORECASE)
    assert not [row for row in result if names.search(row["text"])]


def test_an_existing_file_is_not_built_again(fruit, tmp_path, monkeypatch):
    (first,) = docstring_files(tmp_path / "cache", False, PACKAGES)
    before = Path(first).stat().st_mtime_ns
    monkeypatch.setattr(default_corpus, "_plain", None)
    assert docstring_files(tmp_path / "cache", False, PACKAGES) == [first]
    assert Path(first).stat().st_mtime_ns == before


def test_an_upgrade_builds_anew(fruit, tmp_path, monkeypatch):
    first = docstring_files(tmp_path / "cache", False, PACKAGES)
    monkeypatch.setattr(default_corpus, "_version", lambda package: "2.0")
    assert docstring_files(tmp_path / "cache", False, PACKAGES) != first


def test_concurrent_calls_build_one_file(fruit, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        result = list(pool.map(lambda _: docstring_files(tmp_path / "cache", False, PACKAGES), range(4)))
    assert len({file for files in result for file in files}) == 1
    assert len(rows(result[0])) == 450
    assert not list((tmp_path / "cache").glob("*.stage"))


def test_the_number_of_files_is_limited_and_they_are_evenly_spaced(fruit, tmp_path):
    assert default_corpus._evenly_spaced(list(range(10)), 4) == [0, 2, 5, 7]
    assert default_corpus._evenly_spaced([1, 2], 4) == [1, 2]
    names = [path.name for path in default_corpus._source_files("apple")]
    assert names == ["__init__.py", "broken.py", "m0.py", "m1.py", "m2.py"]
    result = rows(docstring_files(tmp_path / "cache", False, PACKAGES, max_files=2))  # __init__.py and m0.py
    assert len(result) == 70 + 80


def test_too_few_packages(fruit, tmp_path):
    for labelled in (False, True):
        with pytest.raises(UserError, match="--data.train_files"):
            docstring_files(tmp_path / "cache", labelled, ("apple", "no_such_package"))


def test_a_folder_that_cannot_be_written(fruit, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be stored"):
        docstring_files(tmp_path / "file" / "cache", False, PACKAGES)
