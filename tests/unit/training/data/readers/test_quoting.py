"""Quotation marks in .csv and .tsv files: no row swallows another, and what a writer wrote is read back exactly."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_rows import config, prepared, row_format

from warmup.config.data import Data
from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data.readers import all_rows
from warmup.training.data.readers.columns import BadRow
from warmup.training.data.readers.quoting import find_quoting
from warmup.training.data.readers.records import TableFormat, read_records
from warmup.training.data.sources import resolve_part

AMBIGUOUS = "say which it is: --data.quoting standard, or none"


def write(folder: Path, name: str, content: str) -> str:
    path = folder / name
    path.write_bytes(content.encode())
    return str(path)


def read(file: str, task: str = "classification", **data: Any) -> tuple[list[dict], list[BadRow]]:
    """The usable rows of a file, and the bad ones."""
    bad: list[BadRow] = []
    sources = resolve_part([file], "data.train_files", "train", TASKS[task])
    rows = [row for row in all_rows(sources, row_format(task, **data), bad, 10**6) if not isinstance(row, BadRow)]
    return rows, bad


def texts(file: str, **data: Any) -> list[str]:
    rows, bad = read(file, **data)
    assert not bad
    return [row["text"] for row in rows]


FILMS = [
    ("0", "bad film"), ("1", '"The film is good'), ("0", "bad one"), ("1", "good one"), ("0", 'bad end"'),
    ("1", "good last"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
@pytest.mark.parametrize("label_first", [True, False])
def test_a_quotation_mark_swallows_no_row(name: str, label_first: bool, tmp_path: Path) -> None:
    rows = [("label", "text"), *FILMS]
    mark = "\t" if name == "a.tsv" else ","
    file = write(tmp_path, name, "".join(mark.join(row if label_first else row[::-1]) + "\n" for row in rows))
    assert texts(file) == [text for _, text in FILMS]
    predicted = list(
        all_rows(
            resolve_part([file], "--predict", "test", TASKS["classification"]),
            row_format("classification").without("label"),
            [],
            0,
        )
    )
    assert [row["text"] for row in predicted] == [text for _, text in FILMS]


def test_reading_goes_on_at_the_line_after_a_wrong_quotation_mark(tmp_path: Path) -> None:
    lines = [
        "text,label", '"a, quoted",x', '"never "closed,x', "fine,y", '"open,x', 'more "quotes" here,y', '"b ""c""",y',
        '"at the end,x',
    ]  # fmt: skip
    content = "\n".join(lines)
    rows, bad = read(write(tmp_path, "a.csv", content), quoting="standard")
    assert [row["text"] for row in rows] == ["a, quoted", "fine", 'more "quotes" here', 'b "c"']
    assert [(row.number, row.reason) for row in bad] == [
        (3, "not valid csv (',' expected after '\"')"),
        (5, "not valid csv (',' expected after '\"')"),
        (8, "a quotation mark opened in this row is never closed"),
    ]


def test_many_open_quotation_marks_cost_their_rows_alone(tmp_path: Path) -> None:
    lines = ['"fine, a",1'] * 2000 + [
        f'"open {number},1' if number % 2 else f"shut {number},1" for number in range(2000)
    ]
    rows, bad = read(write(tmp_path, "a.csv", "text,label\n" + "\n".join(lines)))
    assert len(rows) + len(bad) == 4000
    assert [row.number for row in bad] == list(range(2003, 4002, 2))


GLUE = {
    "rte.tsv": ('index\tsentence1\tsentence2\tlabel\n0\tHe said "no.\tHe said "no".\tentailment\n'
                '1\t"Yes," she said.\tShe spoke.\tnot_entailment\n2\tThe "end\tAn end"\tentailment\n',
                ['He said "no.', '"Yes," she said.', 'The "end']),
    "mrpc.tsv": ('label\tid\tsentence1\tsentence2\n1\t10\t" I am here , " he said .\tHe is here .\n'
                 '0\t11\tA man spoke .\t" A man spoke .\n0\t12\t" They left\tThey left "\n1\t13\tAll\t"\n',
                 ['" I am here , " he said .', "A man spoke .", '" They left', "All"]),
    "qnli.tsv": ('index\tquestion\tsentence\tlabel\n0\tWho wrote "Emma?\tAusten wrote "Emma".\tentailment\n'
                 '1\t"What" is it?\tIt is "x" and "y"\tnot_entailment\n',
                 ['Who wrote "Emma?', '"What" is it?']),
    "sst.tsv": ('sentence\tlabel\n"a fine film\t1\nan end"\t0\n"quoted"\t1\n', ['"a fine film', 'an end"', '"quoted"']),
}  # fmt: skip


@pytest.mark.parametrize("name", GLUE)
def test_files_like_those_of_glue(name: str, tmp_path: Path) -> None:
    content, expected = GLUE[name]
    assert texts(write(tmp_path, name, content)) == expected


def test_a_file_like_sts_b_with_numbers(tmp_path: Path) -> None:
    content = (
        'index\tgenre\tsentence1\tsentence2\tscore\n0\tnews\t"A plane takes off.\tA plane flies.\t5.000\n'
        '1\tnews\tA man plays.\tA man "plays".\t3.25\n2\tforum\t"Yes\tNo"\t0.0\n'
    )
    rows, bad = read(write(tmp_path, "sts.tsv", content), task="regression")
    assert not bad and [float(row["label"]) for row in rows] == [5.0, 3.25, 0.0]
    assert [row["text"] for row in rows] == ['"A plane takes off.', "A man plays.", '"Yes']


def test_a_file_like_cola_without_a_header(tmp_path: Path) -> None:
    file = write(
        tmp_path, "cola.tsv", 'gj04\t1\t\tOur friends "won\'t" buy it.\ngj04\t0\t*\t"Them not.\ngj04\t1\t\tWe do."\n'
    )
    names = ("source", "label", "mark", "sentence")
    assert texts(file, column_names=names) == ['Our friends "won\'t" buy it.', '"Them not.', 'We do."']


# What is written


TEXT = st.text(st.sampled_from('ab01 ,\t"\n;'), min_size=1, max_size=12).filter(str.strip)
ROWS = st.lists(st.tuples(st.sampled_from("01"), TEXT), min_size=1, max_size=8)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("style", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@settings(deadline=None, max_examples=60)
@given(rows=ROWS, end=st.sampled_from(["\n", "\r\n"]), label_first=st.booleans())
def test_what_a_writer_writes_is_read_back(
    rows: list[tuple[str, str]], end: str, label_first: bool, style: Any, name: str, tmp_path_factory: Any
) -> None:
    """Unless its lines are as many rows: then it is refused, or those are read."""
    out, mark = io.StringIO(newline=""), "\t" if name == "a.tsv" else ","
    writer = csv.writer(out, delimiter=mark, lineterminator=end, quoting=style)
    writer.writerows([row if label_first else row[::-1] for row in [("label", "text"), *rows]])
    file = write(tmp_path_factory.mktemp("written"), name, out.getvalue())
    assert texts(file, quoting="standard") == [text for _, text in rows]
    try:
        found = texts(file)
    except UserError as error:
        assert AMBIGUOUS in str(error)
        return
    lines = [line.rstrip("\r").split(mark) for line in out.getvalue().split("\n")[1:] if line.rstrip("\r")]
    if found == [text for _, text in rows]:
        return
    assert all(len(line) == 2 and line[not label_first] in ("0", "1") for line in lines)
    assert found == [line[label_first] for line in lines]


PERSONS = st.lists(
    st.tuples(st.sampled_from(["0", "1", '"0"']), st.text(st.sampled_from('ab01 "'), min_size=1).filter(str.strip)),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@settings(deadline=None, max_examples=120)
@given(rows=PERSONS, label_first=st.booleans(), quoting=st.sampled_from(["auto", "none"]))
def test_what_a_person_writes_is_one_row_for_each_line(
    rows: list[tuple[str, str]], label_first: bool, quoting: Any, name: str, tmp_path_factory: Any
) -> None:
    mark = "\t" if name == "a.tsv" else ","
    lines = [mark.join(row if label_first else row[::-1]) for row in [("label", "text"), *rows]]
    file = write(tmp_path_factory.mktemp("person"), name, "\n".join(lines))
    try:
        found, bad = read(file, quoting=quoting)
    except UserError as error:
        assert AMBIGUOUS in str(error) or "holds no usable row" in str(error)
        return
    assert len(found) + len(bad) == len(rows)
    named = {row.number for row in bad}
    expected = [text for number, (_, text) in enumerate(rows, 2) if number not in named]
    for row, text in zip(found, expected, strict=True):
        unquoted = text[1:-1].replace('""', '"') if text.startswith('"') else None
        assert row["text"] in (text, unquoted)
        assert quoting == "auto" or row["text"] == text


@pytest.mark.parametrize("mark", [",", "\t"])
@settings(deadline=None, max_examples=50)
@given(rows=st.lists(st.tuples(st.integers(0, 1), TEXT, st.floats(0, 1)), min_size=2, max_size=8), index=st.booleans())
def test_what_pandas_writes_is_read_back(
    rows: list[tuple[int, str, float]], index: bool, mark: str, tmp_path_factory: Any
) -> None:
    table = pandas.DataFrame(rows, columns=["label", "text", "weight"])
    path = tmp_path_factory.mktemp("pandas") / ("a.csv" if mark == "," else "a.tsv")
    table.to_csv(path, sep=mark, index=index)
    try:
        assert texts(str(path)) == [text for _, text, _ in rows]
    except UserError as error:
        assert AMBIGUOUS in str(error)


@settings(deadline=None, max_examples=150)
@given(
    st.text(st.sampled_from('a0,\t"\n\r'), max_size=40),
    st.sampled_from(["a.csv", "a.tsv"]),
    st.sampled_from(["auto", "standard", "none"]),
)
def test_each_line_of_any_file_is_in_one_row_or_named(content: str, name: str, quoting: Any) -> None:
    mark = "\t" if name == "a.tsv" else ","
    assume("\n" in content.strip("\r\n"))
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder), name, content)
        if quoting == "auto":
            try:
                quoting = find_quoting(file, mark, 2).quoting
            except UserError:
                return
        records = list(read_records(file, TableFormat(mark, quoting, 2)))
    covered = b"".join(b"".join(record.lines) for record in records)
    assert covered.translate(None, b"\r\n") == content.encode().translate(None, b"\r\n")
    for record in records:
        assert record.reason or len(record.fields) == 2
        assert not record.reason or len(record.lines) == 1


# Which files are ambiguous


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        # In one column, lines cannot be told from rows.
        ("a.csv", 'text\n"one\ntwo"\nthree\n', 2),
        # Somebody quotes here, and a text that is quoted is made of rows.
        ("a.csv", 'label,text\n0,"a, b"\n1,c\n0,d\n1,"good\n0,bad"\n', 5),
        ("a.tsv", 'label\ttext\n0\t"a ""b"""\n1\tc\n0\td\n1\t"good\n0\tbad"\n', 5),
        ("a.tsv", 'text\tlabel\n"one\ttab\nand a line"\t0\ntwo\t1\n', 2),
    ],
)
def test_files_with_two_meanings_are_refused(name: str, content: str, line: int, tmp_path: Path) -> None:
    file = write(tmp_path, name, content)
    with pytest.raises(UserError) as caught:
        read(file, task="mlm")
    assert str(caught.value).startswith(f"{file}:{line}: one row of several lines") and AMBIGUOUS in str(caught.value)
    for quoting in ("standard", "none"):
        assert read(file, task="mlm", quoting=quoting)[0]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", 'text\n"a, b"\n"one\ntwo"\n', ["a, b", "one\ntwo"]),  # somebody quotes
        ("a.csv", '"text"\n"one\ntwo"\n', ["one\ntwo"]),  # even the header
        ("a.csv", 'text\r\n"one\ntwo"\r\n', ["one\ntwo"]),  # a line that ends as no row does
        ("a.csv", 'text,label\n"good",1\n5" disk,0\n', ["good", '5" disk']),
        ("a.csv", 'label,text\n0,a\n1,"Dear John\nsorry, all"\n', ["a", "Dear John\nsorry, all"]),  # no label
        ("a.tsv", 'text\tlabel\n"good"\t1\n5" disk\t0\n', ['"good"', '5" disk']),
        ("a.tsv", 'text\tlabel\n"one"\t1\n"two"\t0\n', ["one", "two"]),  # a whole column
        ("a.tsv", 'text\tlabel\n"one\ttab"\t1\ntwo\t0\n', ["one\ttab", "two"]),
        ("a.tsv", 'text\tlabel\n"one\nline"\t1\ntwo\t0\n', ["one\nline", "two"]),
        ("a.tsv", 'text\tlabel\n"a ""b"""\t1\ntwo\t0\n', ['a "b"', "two"]),
    ],
)
def test_what_quotation_marks_are(name: str, content: str, expected: list[str], tmp_path: Path) -> None:
    assert texts(write(tmp_path, name, content), task="mlm") == expected


# The cache


def test_only_files_that_are_read_otherwise_have_another_key(tmp_path: Path, own_cache: Path) -> None:
    rows = [f"text {number}\t{number % 2}" for number in range(30)]

    def key(name: str, extra: list[str], **data: Any) -> str:
        file = write(tmp_path, name, "\n".join(["text\tlabel", *rows, *extra]) + "\n")
        return prepared(config(file, task="classification", **data)).key

    plain = key("a.tsv", [])
    assert key("b.tsv", [], quoting="auto") == plain != key("c.tsv", [], quoting="none")
    quoted = ['"a ""b"""\t1']
    assert key("d.tsv", quoted) == key("e.tsv", quoted, quoting="auto") != plain
    stray = ['"a\t1', 'b"\t0']
    assert len({key("f.tsv", stray), key("g.tsv", stray, quoting="none"), key("h.tsv", stray, quoting="standard")}) == 3


@pytest.mark.parametrize(("value", "message"), [("||", "is not one character"), ('"', "is not one character")])
def test_delimiters_that_are_none(value: str, message: str) -> None:
    with pytest.raises(UserError, match=f"data.delimiter: .*{message}"):
        Data(delimiter=value)
