import json
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from warmup.errors import UserError
from warmup.training.data import default_corpus
from warmup.training.data.default_corpus import ALIASES, docstring_files
from warmup.training.data.readers import read_rows
from warmup.training.data.readers.columns import Columns
from warmup.training.data.sources import resolve

PACKAGES = ("apple", "pear")


def function(name, docstring):
    return f"def {name}():\n    {docstring!r}\n\n"


def package(folder, name, count, files=3, more=""):
    """Write a package that cannot be imported, of `count` functions in `files` files."""
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
    (folder / name / "tests" / "test_a.py").write_text(
        function("t", "A docstring of a test " + "that is left out " * 5)
    )


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
    found = rows(docstring_files(tmp_path / "cache", False, PACKAGES))
    assert len(found) == 210 + 240
    assert found[0] == {"text": "elppa 0 of apple calls Apple.core, apple_x and np, in PyTorch."}
    assert found[1] == {"text": "elppa 3 of apple calls Apple.core, apple_x and np, in PyTorch."}
    assert found[210]["text"].startswith("raep 0 of pear")


def test_labelled_rows_are_balanced_and_do_not_give_the_label_away(fruit, tmp_path):
    found = rows(docstring_files(tmp_path / "cache", True, PACKAGES))
    assert Counter(row["label"] for row in found) == {"apple": 210, "pear": 210}
    assert [row["label"] for row in found[:4]] == ["apple", "pear", "apple", "pear"]
    assert found[0]["text"] == "elppa 0 of this calls this.core, this_x and this, in this."
    names = re.compile("|".join((*PACKAGES, *(rf"\b{alias}\b" for alias in ALIASES))), re.IGNORECASE)
    assert not [row for row in found if names.search(row["text"])]


def test_texts_that_differ_in_the_names_alone_count_once(tmp_path, monkeypatch):
    for name in PACKAGES:
        same = "".join(function(f"g{i}", f"number {i} of the functions which {name} has") for i in range(50))
        package(tmp_path / "site", name, 200, more=same)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    found = rows(docstring_files(tmp_path / "cache", True, PACKAGES))
    assert Counter(row["label"] for row in found) == {"apple": 200, "pear": 200}  # 250 each, were they kept twice
    assert len({row["text"] for row in found}) == len(found)


def test_a_package_of_few_texts_is_no_class(fruit, tmp_path):
    package(fruit, "plum", 199)
    found = rows(docstring_files(tmp_path / "cache", True, (*PACKAGES, "plum")))
    assert Counter(row["label"] for row in found) == {"apple": 210, "pear": 210}


def test_labelled_texts_are_cut(tmp_path, monkeypatch):
    for name in PACKAGES:
        more = "".join(function(f"g{i}", f"{i} {name[::-1]} " + "word " * 100) for i in range(200))
        package(tmp_path / "site", name, 0, more=more)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert {len(row["text"].split()) for row in rows(docstring_files(tmp_path, True, PACKAGES))} == {64}
    assert {len(row["text"].split()) for row in rows(docstring_files(tmp_path, False, PACKAGES))} == {102}


def test_what_is_taken_and_what_is_left(tmp_path, monkeypatch):
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
    found = [row["text"] for row in rows(docstring_files(tmp_path / "cache", False, PACKAGES))]
    assert found[:-1] == [f"{kind} {long}" for kind in ("twice", "class", "method", "module")]
    assert found[-1].startswith("raep 0 of pear")


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
    found = list(read_rows(resolve(files, (), True)[0], Columns(), True, bad, 0))
    labels = Counter(row["label"] for row in found)
    assert len(labels) >= 2 and set(labels) <= set(packages) and len(set(labels.values())) == 1
    names = re.compile(rf"\b({'|'.join((*packages, *ALIASES))})\b", re.IGNORECASE)
    assert not [row for row in found if names.search(row["text"])]


def test_what_is_there_is_not_built_again(fruit, tmp_path, monkeypatch):
    (first,) = docstring_files(tmp_path / "cache", False, PACKAGES)
    before = Path(first).stat().st_mtime_ns
    monkeypatch.setattr(default_corpus, "_plain", None)
    assert docstring_files(tmp_path / "cache", False, PACKAGES) == [first]
    assert Path(first).stat().st_mtime_ns == before


def test_an_upgrade_builds_anew(fruit, tmp_path, monkeypatch):
    first = docstring_files(tmp_path / "cache", False, PACKAGES)
    monkeypatch.setattr(default_corpus, "_version", lambda package: "2.0")
    assert docstring_files(tmp_path / "cache", False, PACKAGES) != first


def test_several_at_once_build_one_file(fruit, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: docstring_files(tmp_path / "cache", False, PACKAGES), range(4)))
    assert len({file for files in found for file in files}) == 1
    assert len(rows(found[0])) == 450
    assert not list((tmp_path / "cache").glob("*.part"))


def test_files_are_capped_and_spread(fruit, tmp_path):
    assert default_corpus._spread(list(range(10)), 4) == [0, 2, 5, 7]
    assert default_corpus._spread([1, 2], 4) == [1, 2]
    names = [path.name for path in default_corpus._sources("apple")]
    assert names == ["__init__.py", "broken.py", "m0.py", "m1.py", "m2.py"]
    found = rows(docstring_files(tmp_path / "cache", False, PACKAGES, max_files=2))  # __init__.py and m0.py
    assert len(found) == 70 + 80


def test_too_few_packages(fruit, tmp_path):
    for labelled in (False, True):
        with pytest.raises(UserError, match="--data.train_files"):
            docstring_files(tmp_path / "cache", labelled, ("apple", "no_such_package"))


def test_a_folder_that_cannot_be_written(fruit, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be stored"):
        docstring_files(tmp_path / "file" / "cache", False, PACKAGES)
