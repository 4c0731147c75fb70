"""Files without a header, in another encoding, with other delimiters or by columns: refused by name, with the cure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest
from made_rows import LIMIT, config, copy, labelled, prepared, row_format

from warmup.config.data import Data
from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data.readers import read_rows
from warmup.training.data.sources import resolve

FILMS = "1\ta great film\n0\ta bad one\n1\tgood at last\n"


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(file: str, task: str = "classification", **data: Any) -> list[dict]:
    return list(read_rows(resolve([file], (), TASKS[task])[0], row_format(task, **data), [], 0))


def refusal(file: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(file, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


HINT = "if it has no header, name its 2 columns in order: --data.column_names"


@pytest.mark.parametrize("columns", [
    {}, {"text_column": "a great film"}, {"text_column": "a great film", "label_column": "1"},
])  # fmt: skip
def test_no_row_is_taken_for_a_header(columns: dict[str, str], tmp_path: Path) -> None:
    file = write(tmp_path, "a.tsv", FILMS)
    message = refusal(file, **columns)
    assert message == (
        f"{file}: its first line looks like a row and not like a header "
        f"('1' is also in later rows of its column); {HINT}"
    )
    rows = read(file, column_names=["label", "text"])
    assert [(row["label"], row["text"]) for row in rows] == [
        ("1", "a great film"),
        ("0", "a bad one"),
        ("1", "good at last"),
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("we do not go there,x\nfine,y\n", "'we do not go there' is a text"),
        ("9,12\n7,3\n", "'9' is a number"),
    ],
)
def test_headers_that_look_like_data(content: str, why: str, tmp_path: Path) -> None:
    assert why in refusal(write(tmp_path, "a.csv", content))


@pytest.mark.parametrize(
    ("content", "text", "label"),
    [
        ("0,1\nfine,0\nbad,1\n", "0", "1"),  # as pandas numbers columns without names
        ("What did you like about it?,rating\nall,5\nnothing,1\n", "What did you like about it?", "rating"),
        ("comment text,spam\nall,1\nnothing,0\n", "comment text", "spam"),
        ("a,b\na,b\nfine,1\nbad,0\n", "a", "b"),  # the header twice is none of its rows' doing
    ],
)
def test_odd_headers_are_headers(content: str, text: str, label: str, tmp_path: Path) -> None:
    assert len(read(write(tmp_path, "a.csv", content), text_column=text, label_column=label)) == content.count("\n") - 1


def test_columns_that_are_named(tmp_path: Path) -> None:
    file = write(tmp_path, "a.tsv", "label\ttext\n" + FILMS)
    assert refusal(file, column_names=["label", "text"]).endswith("are those of its header; leave them out")
    message = refusal(write(tmp_path, "b.tsv", FILMS), column_names=["id", "label", "text"])
    assert "too few fields: 2, and data.column_names has 3" in message
    with pytest.raises(UserError, match="data.column_names"):
        Data(column_names=["a", "a"])
    # Predictions and other tasks read the same columns.
    assert read(write(tmp_path, "c.tsv", FILMS), task="mlm", column_names=["x", "text"])[0] == {"text": "a great film"}


@pytest.mark.parametrize("mark", [";", "|", "\t"])
def test_other_delimiters(mark: str, tmp_path: Path) -> None:
    file = write(
        tmp_path, "a.csv", f'text{mark}label\n"fine{mark} ""this""",and{mark}1\nbad{mark}0\n'.replace(",and", "")
    )
    shown = mark.replace("\t", "\\t")
    assert refusal(file).endswith(f"say so: --data.delimiter '{shown}'")
    assert [row["text"] for row in read(file, delimiter=shown)] == [f'fine{mark} "this"', "bad"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt", "a.conll"])
def test_other_encodings_are_named(name: str, encoding: str, tmp_path: Path) -> None:
    content = {"a.jsonl": '{"text": "fine", "label": 1}', "a.json": "[]", "a.conll": "word O"}.get(name, "text,label")
    task = {"a.txt": "mlm", "a.conll": "token-classification"}.get(name, "classification")
    file = write(tmp_path, name, (content + "\n").encode(encoding))
    width = encoding[4:6]
    assert refusal(file, task=task) == (
        f"{file}: UTF-{width}, and files must be UTF-8; convert it: iconv -f UTF-{width} -t UTF-8 OLD > NEW"
    )


@pytest.mark.parametrize("orient", ["columns", "index", "split"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_tables_by_columns(name: str, indent: int | None, orient: Any, tmp_path: Path) -> None:
    path = tmp_path / name
    table = pandas.DataFrame({"text": ["fine", "bad"], "label": [1, 0]})
    if name == "a.jsonl" and indent:
        return
    table.to_json(path, orient=orient, indent=indent)
    assert refusal(str(path)) == (
        f"{path}: a table by columns, as pandas writes it by default; write rows instead: "
        'to_json(FILE, orient="records", lines=True), as .jsonl'
    )
    table.to_json(tmp_path / "b.jsonl", orient="records", lines=True)
    assert [row["text"] for row in read(str(tmp_path / "b.jsonl"))] == ["fine", "bad"]


def test_objects_in_rows_are_no_tables(tmp_path: Path) -> None:
    file = write(tmp_path, "a.jsonl", json.dumps({"text": "fine", "label": 1, "more": {"0": 1}}) + "\n")
    assert read(file)[0]["text"] == "fine"


def test_labels_that_are_seen_once_are_said(tmp_path: Path, own_cache: Path) -> None:
    file = labelled(tmp_path / "a.jsonl", [0, 1] * 15 + ["label", 0, 1])
    data = prepared(config(file, task="classification"))
    assert data.notes["labels seen once"] == "'label'; is it meant as one?"
    assert prepared(config(file, task="classification")).notes == data.notes  # from the cache
    file = labelled(tmp_path / "b.jsonl", [0, 1] * 15)
    assert "labels seen once" not in prepared(config(file, task="classification", validation_files=(copy(file),))).notes
    assert data.labels == ("0", "1", "label") and LIMIT == 12


def test_what_quotation_marks_are_taken_for_is_said(tmp_path: Path, own_cache: Path) -> None:
    lines = [f"text {number}\t{number % 2}" for number in range(20)]
    file = write(tmp_path, "a.tsv", "text\tlabel\n" + "\n".join([*lines, '"open\t1', 'shut"\t0']))
    notes = prepared(config(file, task="classification")).notes
    assert notes["quotation marks"] == f"characters of the texts in {file} (data.quoting)"
