"""A document beyond data.max_document_bytes is refused where it stands, before it is in memory."""

from __future__ import annotations

import csv
import gzip
import json
import resource
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from harness import run_ranks
from made_rows import config, prepared, row_format

from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data.lines import lines
from warmup.training.data.readers import read_rows
from warmup.training.data.readers.quoting import find_quoting
from warmup.training.data.sources import resolve

LIMIT = 1000
LONG = "word " * 300


def read(file: str, task: str = "mlm", limit: int = LIMIT, **data: object) -> list[dict]:
    expected = row_format(task, max_document_bytes=limit, **data)
    return list(read_rows(resolve([file], (), TASKS[task])[0], expected, [], 0))


def files(folder: Path) -> dict[str, tuple[str, str]]:
    """By kind of file: its name, and where its long document is."""

    def write(name: str, content: str) -> str:
        (folder / name).write_text(content, encoding="utf-8")
        return str(folder / name)

    plain = "a b\n" * 3 + LONG + "\nc d\n"
    with gzip.open(folder / "a.txt.gz", "wt") as stream:
        stream.write(plain)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a b", LONG, "c"]}), folder / "a.parquet")
    datasets.Dataset.from_dict({"text": ["a b", LONG, "c"]}).save_to_disk(str(folder / "saved"))
    with open(folder / "quoted.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["text"], ["a, b"], [LONG + '"'], ["c"]])
    return {
        "txt": (write("a.txt", plain), "a.txt:4: a line"),
        "gz": (str(folder / "a.txt.gz"), "a.txt.gz:4: a line"),
        "jsonl": (write("a.jsonl", json.dumps({"text": "a"}) + "\n" + json.dumps({"text": LONG})), "a.jsonl:2: a line"),
        "json": (write("a.json", json.dumps([{"text": "a" * 9}] * 99, indent=0)), "a.json: a .json file, which is"),
        "csv": (write("a.csv", "text,n\n" + f"a,1\n{LONG},2\n"), "a.csv:3: a line"),
        "quoted csv": (str(folder / "quoted.csv"), "quoted.csv:3: a line"),
        "tsv": (write("a.tsv", "text\tn\n" + f"a\t1\n{LONG}\t2\n"), "a.tsv:3: a line"),
        "conll": (write("a.conll", "a O\n\n" + "b O\n" * 400), "a.conll:253: a sentence"),
        "parquet": (str(folder / "a.parquet"), "a.parquet: row 2: a cell"),
        "saved": (str(folder / "saved"), "saved: row 2: a cell"),
    }


KINDS = ("txt", "gz", "jsonl", "json", "csv", "quoted csv", "tsv", "conll", "parquet", "saved")


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_named(kind: str, tmp_path: Path) -> None:
    file, where = files(tmp_path)[kind]
    task = "token-classification" if kind == "conll" else "mlm"
    with pytest.raises(UserError) as refused:
        read(file, task)
    assert where in str(refused.value) and "more than 1000 bytes" in str(refused.value)
    assert "data.max_document_bytes" in str(refused.value)
    assert read(file, task, limit=10_000)


def test_a_line_at_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    for content, there in ((b"x" * 9 + b"\n", 1), (b"x" * 10 + b"\n", 1), (b"x" * 10, 1), (b"x" * 10 + b"\ny\n", 2)):
        file.write_bytes(content)
        assert len(list(lines(str(file), 10))) == there
    for content in (b"x" * 11, b"a\n" + b"x" * 11 + b"\n"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"a.txt:{content.count(b'a') + 1}: a line of more than 10 bytes"):
            list(lines(str(file), 10))


def test_the_limit_is_no_part_of_the_key(tmp_path: Path, own_cache: Path) -> None:
    file = files(tmp_path)["txt"][0]
    assert prepared(config(file)).key == prepared(config(file, max_document_bytes=5000)).key


def test_a_quoted_field_of_a_line_may_be_as_long_as_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a quotation mark draws in from later lines is bounded more tightly."""
    monkeypatch.setattr("warmup.training.data.readers.records.MAX_FIELD", 100)
    file = tmp_path / "a.csv"
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows([["text", "n"], ["a, b", 1], ["c, " * 200, 2], ["d", 3]])
    assert [row["text"] for row in read(str(file))] == ["a, b", "c, " * 200, "d"]


def test_many_long_fields_leave_the_decision_on_quotation_marks_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text("text\tlabel\n" + "".join(f'"{"x" * 2000} {row % 3}\tpos\n' for row in range(40)))
    assert find_quoting(str(file), "\t").quoting == "none"


def _peak(rank: int, file: str, task: str) -> int:
    """Bytes at most while a file is prepared, beyond what was there before."""
    prepared(
        config(file.replace(".large", ""), task=task, max_length=128, vocab_size=500)
    )  # whatever is loaded on the way
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    prepared(config(file, task=task, max_length=128, vocab_size=500))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


@pytest.mark.parametrize("task", ["mlm", "clm", "classification"])
def test_memory_is_a_small_multiple_of_the_document(task: str, tmp_path: Path, own_cache: Path) -> None:
    """It was 150 to 240 times its size, 5 MB here. What is tokenized at once, whatever the document, takes 75 MB."""
    words = " ".join(f"w{number * number % 997}" for number in range(1_050_000))
    for name, text in (("a.jsonl", words[:100_000]), ("a.large.jsonl", words)):
        rows = [{"text": text, "label": "a"}, *({"text": "x y", "label": label} for label in "abab")]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (rank,) = run_ranks(1, _peak, str(tmp_path / "a.large.jsonl"), task)
    assert rank.error is None
    size = (tmp_path / "a.large.jsonl").stat().st_size
    assert size > 5_000_000
    assert rank.value < 10 * size + 75_000_000
