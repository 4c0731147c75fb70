import csv
import io
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_rows import row_format

from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data.readers import read_rows
from warmup.training.data.readers.columns import BadRow
from warmup.training.data.sources import resolve, resolve_part


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return str(path)


def read(*files, task="mlm", predict=False, max_bad_rows=100, **columns):
    """Return the rows that a task reads, to train on or to predict, and (line, reason) of the bad ones."""
    bad: list[BadRow] = []
    expected = row_format(task, **columns)
    if predict:
        sources, expected = resolve_part(files, "--predict", "test", TASKS[task]), expected.without("label")
    else:
        sources, _ = resolve(files, (), TASKS[task])
    rows = list(read_rows(sources, expected, bad, max_bad_rows))
    return rows, [(row.number, row.reason) for row in bad]


def texts(*files, **options):
    return [row["text"] for row in read(*files, **options)[0]]


def refusal(*files, **options):
    with pytest.raises(UserError) as caught:
        read(*files, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Plain text


def test_txt_is_one_document_per_line_and_blank_lines_are_no_rows(tmp_path):
    file = write(tmp_path, "a.txt", "one\r\n\n  \ntwo words\nthree\u2028still three")
    documents = ("one", "two words", "three\u2028still three")
    assert read(file) == ([{"text": text} for text in documents], [])
    # Where rows may have a second text and need no label, a line has only the first.
    assert read(file, task="classification", predict=True) == ([{"text": text, "pair": None} for text in documents], [])


def test_txt_names_the_lines_that_are_no_text(tmp_path):
    file = write(tmp_path, "a.TXT", b"\xef\xbb\xbffirst\n\ncaf\xe9\nnu\0l\nlast\n")
    rows, bad = read(file)
    assert [row["text"] for row in rows] == ["first", "last"]
    assert bad == [(3, "not UTF-8 (byte 0xe9 at position 4 of the line)"), (4, "holds a NUL byte")]


def test_txt_holds_no_labels(tmp_path):
    for task in ("classification", "regression"):
        file = write(tmp_path, "a.txt", "one\n")
        assert refusal(file, task=task) == (
            f"{file}: a .txt file holds texts without labels, for the tasks mlm and clm; "
            f"task: {task} reads .csv, .tsv, .jsonl, .json, .parquet"
        )


# csv


def test_csv_rows_with_labels(tmp_path):
    file = write(tmp_path, "a.csv", b"\xef\xbb\xbf Text ,extra,LABEL\nfine,x, 1 \n\nbad,y,0\n")
    assert read(file, task="classification")[0] == [
        {"text": "fine", "pair": None, "label": "1"},
        {"text": "bad", "pair": None, "label": "0"},
    ]


def test_labels_are_read_only_where_the_task_needs_them(tmp_path):
    file = write(tmp_path, "a.csv", "text,label\nfine,1\n")
    assert read(file)[0] == [{"text": "fine"}]
    assert read(file, task="classification", predict=True)[0] == [{"text": "fine", "pair": None}]
    assert read(file, task="classification")[0] == [{"text": "fine", "pair": None, "label": "1"}]
    without_labels = write(tmp_path, "b.csv", "text\nfine\n")
    assert texts(without_labels) == texts(without_labels, task="classification", predict=True) == ["fine"]


def test_csv_bad_rows_are_named_by_the_line_they_start_on(tmp_path):
    content = (
        b"text,label\n"
        b'"two\nlines",a\n'  # 2-3
        b"few\n"  # 4
        b"many,a,b\n"  # 5
        b'" \n ",a\n'  # 6-7
        b"no label,\n"  # 8
        b'"bad\nbyte \xff",a\n'  # 9-10, the byte on 10
        b"nul\0,a\n"  # 11
        b'"junk"after,a\n'  # 12
        b"good,b\n"  # 13
        b'"never closed,a\nswallowed,b\n'  # 14, 15
    )
    rows, bad = read(write(tmp_path, "a.csv", content), task="classification")
    assert [(row["text"], row["label"]) for row in rows] == [("two\nlines", "a"), ("good", "b"), ("swallowed", "b")]
    assert bad == [
        (4, "too few fields: 1, and the header has 2"),
        (5, "too many fields: 3, and the header has 2"),
        (6, "'text' is blank"),
        (8, "'label' is blank"),
        (10, "not UTF-8 (byte 0xff at position 6 of the line)"),
        (11, "holds a NUL byte"),
        (12, "not valid csv (',' expected after '\"')"),
        (14, "a quotation mark opened in this row is never closed"),
    ]


def test_csv_takes_long_fields(tmp_path):
    assert texts(write(tmp_path, "a.csv", "text\n" + "x" * 300_000 + "\n")) == ["x" * 300_000]


def test_csv_header_that_is_no_text(tmp_path):
    message = refusal(write(tmp_path, "a.csv", b"text,l\xffbel\nx,1\n"))
    assert "a.csv:1: " in message and "header" in message


SOUND = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@settings(deadline=None)
@given(st.lists(st.tuples(SOUND.filter(str.strip), SOUND), min_size=1), st.sampled_from(["\r\n", "\n"]))
def test_csv_is_read_back_as_written(tmp_path_factory, rows, end):
    # Whatever is quoted, so that no carriage return stands bare where lines end in "\n".
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "other"), *rows])
    file = write(tmp_path_factory.mktemp("csv"), "a.csv", out.getvalue())
    assert texts(file, max_bad_rows=0) == [text for text, _ in rows]


@settings(deadline=None)
@given(st.lists(SOUND.filter(str.strip), min_size=1))
def test_csv_is_read_back_as_written_by_default(tmp_path_factory, rows):
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["text"], *([text] for text in rows)])
    file = write(tmp_path_factory.mktemp("csv"), "a.csv", out.getvalue())
    assert texts(file, max_bad_rows=0, quoting="standard") == rows


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_give_rows_or_bad_rows_or_a_user_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("bytes")
    for name, start in (("a.csv", b"text\n"), ("a.jsonl", b'{"text": "x"}\n'), ("a.txt", b"")):
        try:
            rows, _ = read(write(folder, name, start + content))
        except UserError:
            continue
        for row in rows:
            assert row["text"].strip() and row["text"].encode("utf-8")


# JSON


@pytest.mark.parametrize("suffix", ["jsonl", "json", "JSONL"])
def test_json_rows(tmp_path, suffix):
    file = write(tmp_path, f"a.{suffix}", '{"label": "x", "text": " a\\nb "}\n\n{"text": "\u00e9", "label": "y"}')
    assert read(file, task="classification")[0] == [
        {"text": " a\nb ", "pair": None, "label": "x"},
        {"text": "\u00e9", "pair": None, "label": "y"},
    ]


@pytest.mark.parametrize(
    ("value", "label"),
    [("a", "a"), (" a ", "a"), (0, "0"), (-3, "-3"), (1.0, "1"), (True, "True"), (False, "False"), ("1.0", "1.0")],
)
def test_json_labels_become_text(tmp_path, value, label):
    file = write(tmp_path, "a.jsonl", json.dumps({"text": "x", "label": value}))
    assert read(file, task="classification")[0][0]["label"] == label


def test_json_bad_rows_are_named(tmp_path):
    cases = [
        (b'{"text": "fine", "label": 1}', None),
        (b'{"text": "cut', "not valid JSON (Unterminated string starting at column 10); one object per line"),
        (b'["text"]', "not a JSON object; one object per line"),
        (b'{"label": 1}', "'text' is missing"),
        (b'{"text": null, "label": 1}', "'text' is missing"),
        (b'{"text": 5, "label": 1}', "'text' is not a string"),
        (b'{"text": " \\n", "label": 1}', "'text' is blank"),
        (b'{"text": "a\\ud800", "label": 1}', "'text' holds a lone surrogate"),
        (b'{"text": "a\\u0000", "label": 1}', "'text' holds a NUL byte"),
        (b'{"text": "a\xff", "label": 1}', "not UTF-8 (byte 0xff at position 12 of the line)"),
        (b'{"text": "a\0", "label": 1}', "holds a NUL byte"),
        (b'{"text": "a"}', "'label' is missing"),
        (b'{"text": "a", "label": null}', "'label' is missing"),
        (b'{"text": "a", "label": 0.5}', "'label' is neither a string nor a whole number"),
        (b'{"text": "a", "label": NaN}', "'label' is neither a string nor a whole number"),
        (b'{"text": "a", "label": [1]}', "'label' is neither a string nor a whole number"),
        (b'{"text": "a", "label": "\\udfff"}', "'label' holds a lone surrogate"),
        (b"[" * 100_000, "JSON with a number too long or nested too deeply"),
        (b'{"text": "a", "label": ' + b"1" * 5000 + b"}", "JSON with a number too long or nested too deeply"),
    ]
    file = write(tmp_path, "a.jsonl", b"\n".join(line for line, _ in cases))
    rows, bad = read(file, task="classification")
    assert rows == [{"text": "fine", "pair": None, "label": "1"}]
    assert bad == [(line, reason) for line, (_, reason) in enumerate(cases, 1) if reason]


def test_a_surrogate_pair_is_one_sound_character(tmp_path):
    assert texts(write(tmp_path, "a.jsonl", '{"text": "\\ud83d\\ude00"}')) == ["\U0001f600"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_labels_that_are_to_be_numbers(tmp_path, kind):
    fine = [("0", 0.0), ("-3.25", -3.25), ("1e-3", 0.001), ("-100", -100.0), (" 4 ", 4.0)]
    odd = ["good", "nan", "-inf", "1e39", "1_000", "0x10", "9" * 400, "3,5"]
    labels = [label for label, _ in fine] + odd
    if kind == "csv":
        file = write(tmp_path, "a.csv", "text,label\n" + "".join(f'a,"{label}"\n' for label in labels))
    else:  # as strings and, where JSON has a word for it, as numbers
        lines = [json.dumps({"text": "a", "label": label}) for label in labels]
        plain = ("3", "2.5", "true", "[1]", "NaN", "Infinity", "1" + "0" * 400)
        lines += [f'{{"text": "a", "label": {label}}}' for label in plain]
        file = write(tmp_path, "a.jsonl", "\n".join(lines))
    rows, bad = read(file, task="regression")
    expected = [number for _, number in fine] + ([3.0, 2.5] if kind == "jsonl" else [])
    assert [float(row["label"]) for row in rows] == expected
    first = len(fine) + (2 if kind == "csv" else 1)
    lines = [
        *range(first, first + len(odd)),
        *(range(first + len(odd) + 2, first + len(odd) + 7) if kind == "jsonl" else ()),
    ]
    assert [line for line, _ in bad] == lines
    assert bad[0] == (first, "'label' is not a finite number: 'good'")
    assert all(reason.startswith("'label' is not a finite number: ") and len(reason) < 80 for _, reason in bad)


# Columns


@pytest.mark.parametrize(
    ("header", "text", "pair", "label"),
    [
        ("id,body,content,stars", "content", None, "stars"),
        ("Sentence2, SENTENCE1 ,label", " SENTENCE1 ", "Sentence2", "label"),
        ("premise,hypothesis,label", "premise", "hypothesis", "label"),
        ("question1,question2,target", "question1", "question2", "target"),
        ("sentence,question,label", "question", "sentence", "label"),
        ("question,answer,score", "question", "answer", "score"),
        ("text,text_pair,class", "text", "text_pair", "class"),
        ("text,hypothesis,sentence2,labels", "text", None, "labels"),
        ("sentence,answer,label,labels", "sentence", None, "label"),
    ],
)
def test_columns_are_inferred(tmp_path, header, text, pair, label):
    names = header.split(",")
    expected = {"text": text, "pair": pair, "label": label.strip()}
    in_csv = write(tmp_path, "a.csv", f"{header}\n{header}\n")
    in_json = write(tmp_path, "a.jsonl", json.dumps({name: name for name in names}))
    for file in (in_csv, in_json):
        rows, bad = read(file, task="classification")
        assert (rows, bad) == ([expected], [])


def test_named_columns_are_taken(tmp_path):
    file = write(tmp_path, "a.csv", "text,A,b,label,kind\n1,2,3,4,5\n")
    assert read(file, task="classification", text_column="a", pair_column="B", label_column=" kind")[0] == [
        {"text": "2", "pair": "3", "label": "5"}
    ]


def test_an_exact_name_goes_before_one_that_differs_in_case(tmp_path):
    file = write(tmp_path, "a.csv", "Text,text\n1,2\n")
    assert texts(file, text_column="text") == ["2"]
    assert texts(file, text_column="Text") == ["1"]


@pytest.mark.parametrize(
    ("columns", "flag", "wrong"),
    [
        ({}, "--data.text_column", "no column known to hold the text"),
        ({"text_column": "nope"}, "--data.text_column", "no column 'nope'"),
        ({"text_column": "id"}, "--data.label_column", "no column known to hold the label"),
        ({"text_column": "id", "label_column": "nope"}, "--data.label_column", "no column 'nope'"),
        ({"text_column": "id", "pair_column": "nope", "label_column": "val"}, "--data.pair_column", "no column 'nope'"),
    ],
)
@pytest.mark.parametrize(("name", "content"), [("a.csv", "id,val\n1,2\n"), ("a.jsonl", '{"id": "1", "val": "2"}\n')])
def test_columns_that_are_not_there(tmp_path, columns, flag, wrong, name, content):
    message = refusal(write(tmp_path, name, content), task="classification", **columns)
    assert name in message and wrong in message and flag in message and "'id', 'val'" in message


def test_a_pair_that_is_missing_makes_a_bad_row(tmp_path):
    file = write(tmp_path, "a.jsonl", '{"text": "a", "text_pair": "b"}\n{"text": "a", "text_pair": null}')
    rows, bad = read(file, task="classification", predict=True)
    assert [row["pair"] for row in rows] == ["b"]
    assert bad == [(2, "'text_pair' is missing")]
    assert read(file) == ([{"text": "a"}] * 2, [])  # a task that reads one text does not look at it


# The limit of bad rows


def test_bad_rows_up_to_the_limit_are_skipped_and_one_more_is_refused(tmp_path):
    first = write(tmp_path, "a.txt", b"one\n\xff\n")
    second = write(tmp_path, "b.txt", b"two\n\xff\n")
    assert texts(first, second, max_bad_rows=2) == ["one", "two"]
    message = refusal(first, second, max_bad_rows=1)
    assert message.startswith("2 bad rows so far, and --data.max_bad_rows allows 1")
    assert f"{first}:2: not UTF-8" in message and f"{second}:2: not UTF-8" in message


def test_only_the_first_few_bad_rows_are_shown(tmp_path):
    message = refusal(write(tmp_path, "a.txt", b"\xff\n" * 20), max_bad_rows=9)
    assert "10 bad rows" in message and "a.txt:5: " in message and "a.txt:6: " not in message


# Files


def test_files_are_read_in_turn(tmp_path):
    contents = {"b.csv": "text\n1\n", "a.jsonl": '{"review": "2"}', "c.txt": "3"}
    files = [write(tmp_path, name, content) for name, content in contents.items()]
    assert texts(*files) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "text\n"), ("a.csv", "\n\n"), ("a.jsonl", "\n"), ("a.txt", b"\xef\xbb\xbf")]
)
def test_a_file_without_rows(tmp_path, name, content):
    assert refusal(write(tmp_path, name, content)).endswith(f"{name} holds no usable row")


def test_a_file_of_nothing_but_bad_rows(tmp_path):
    assert refusal(write(tmp_path, "a.txt", b"\xff\n")).endswith("a.txt holds no usable row")


def test_an_empty_file(tmp_path):
    assert refusal(write(tmp_path, "a.csv", "")).endswith("a.csv is empty")


def test_a_missing_file_and_the_nearest_name(tmp_path):
    write(tmp_path, "train.csv", "text\nx\n")
    assert refusal(str(tmp_path / "trian.csv")).endswith(f"does not exist; did you mean {tmp_path / 'train.csv'}?")
    assert refusal(str(tmp_path / "quite_another")).endswith("quite_another does not exist")
    assert refusal(str(tmp_path / "no" / "a.csv")).endswith(f"(nor does the folder {tmp_path / 'no'})")


def test_a_later_file_is_missed_before_the_first_is_read(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        resolve([write(tmp_path, "a.txt", "x"), str(tmp_path / "b.txt")], (), TASKS["mlm"])
    with pytest.raises(UserError, match="does not exist"):
        resolve([str(tmp_path / "a.txt")], [str(tmp_path / "c.txt")], TASKS["mlm"])


def test_a_folder(tmp_path):
    assert "is a folder" in refusal(str(tmp_path))


@pytest.mark.parametrize("name", ["a.doc", "a", "a.gz", "a.parquet.gz", "a.csv.zip", "a.gz.gz"])
def test_an_unknown_suffix(tmp_path, name):
    assert refusal(write(tmp_path, name, "x")).endswith(
        "known are .csv, .tsv, .jsonl, .json, .txt, .conll, .bio, .iob2 (also with .gz, .bz2, .xz, .zst after it) "
        "and .parquet"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    file = write(tmp_path, "a.txt", "x")
    os.chmod(file, 0)
    assert refusal(file).endswith("cannot be read: Permission denied")


def test_a_file_inside_a_file(tmp_path):
    assert refusal(write(tmp_path, "a.txt", "x") + "/b.txt").endswith("cannot be read: Not a directory")
