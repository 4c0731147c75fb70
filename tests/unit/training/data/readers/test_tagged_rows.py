"""Words and their tags: the same rows from every kind of file; bad ones are named, with the reason."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from conftest import write_csv
from made_rows import row_format

from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data.readers import read_rows
from warmup.training.data.readers.arrow import _values
from warmup.training.data.readers.columns import BadRow
from warmup.training.data.sources import resolve, resolve_part

SENTENCES = [
    (["EU", "rejects", "German", "call", "."], ["B-ORG", "O", "B-MISC", "O", "O"]),
    (["Peter", "Blackburn"], ["B-PER", "I-PER"]),
    (["日本", '"', "#", "[", "café", "a,b"], ["B-LOC", "O", "O", "O", "O", "O"]),
    (["["], ["O"]),
]
EXPECTED = [{"text": words, "label": tags} for words, tags in SENTENCES]
NAMES = ("O", "B-ORG", "B-MISC", "B-PER", "I-PER", "B-LOC")


FACTS = TASKS["token-classification"]


def read(*entries: object, predict: bool = False, **columns: str) -> tuple[list[dict], list[str]]:
    """The rows, to train on or to predict, and the bad ones as they are shown, without the folder."""
    bad: list[BadRow] = []
    files, expected = list(map(str, entries)), row_format(FACTS.name, **columns)
    if predict:
        sources, expected = resolve_part(files, "--predict", "test", FACTS), expected.without("label")
    else:
        sources, _ = resolve(files, (), FACTS)
    rows = list(read_rows(sources, expected, bad, 100))
    return rows, [str(row).rpartition("/")[2] for row in bad]


def refusal(*entries: object, **columns: str) -> str:
    with pytest.raises(UserError) as caught:
        read(*entries, **columns)
    return str(caught.value)


def records(words: str = "tokens", tags: str = "ner_tags") -> list[dict]:
    return [{words: row, tags: labels} for row, labels in SENTENCES]


def conll(columns: str, parted: str, end: str = "\n") -> bytes:
    lines = [f"-DOCSTART-{parted}-X-{parted}O", ""]
    for words, tags in SENTENCES:
        lines += [columns.format(*pair).replace(" ", parted) for pair in zip(words, tags, strict=True)] + [""]
    return end.join(lines).encode()


def saved(path: Path, feature: object) -> None:
    rows = {"words": [words for words, _ in SENTENCES], "tags": [tags for _, tags in SENTENCES]}
    if isinstance(feature, datasets.ClassLabel):
        rows["tags"] = [[NAMES.index(tag) for tag in tags] for tags in rows["tags"]]
    features = datasets.Features({"words": datasets.List(datasets.Value("string")), "tags": datasets.List(feature)})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(path)


MADE = {
    "a.jsonl": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in records())),
    "a.json": lambda path: path.write_text(json.dumps({"data": records("words", "labels")})),
    "a.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(records()).encode())),
    "json.csv": lambda path: write_csv(path, [{k: json.dumps(v) for k, v in row.items()} for row in records()]),
    "blanks.csv": lambda path: write_csv(path, [{k: "  ".join(v) for k, v in row.items()} for row in records()]),
    "a.parquet": lambda path: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records()), path),
    "saved": lambda path: saved(path, datasets.Value("string")),
    "classes": lambda path: saved(path, datasets.ClassLabel(names=list(NAMES))),
    "a.conll": lambda path: path.write_bytes(conll("{} NNP I-NP {}", " ")),
    "tabs.bio": lambda path: path.write_bytes(b"\xef\xbb\xbf" + conll("{} {}", "\t", "\r\n")),
    "a.iob2.gz": lambda path: path.write_bytes(gzip.compress(conll("{} {}", "   ") + b"\n  \n\n")),
}


@pytest.mark.parametrize("name", MADE)
def test_rows_are_the_same_from_every_format(name: str, tmp_path: Path) -> None:
    MADE[name](tmp_path / name)
    assert read(tmp_path / name) == (EXPECTED, [])


WORDS_ALONE = {
    "words.jsonl": lambda path: path.write_text("".join(json.dumps({"words": row}) + "\n" for row, _ in SENTENCES)),
    "odd.jsonl": lambda path: path.write_text(
        "".join(json.dumps({"tokens": row, "tags": [None, 3]}) + "\n" for row, _ in SENTENCES)
    ),
    "words.csv": lambda path: write_csv(path, [{"Tokens": json.dumps(row)} for row, _ in SENTENCES]),
    "words.conll": lambda path: path.write_bytes(conll("{}", " ")),
    "odd.bio": lambda path: path.write_bytes(conll("{} ", "\t")),
    "a.txt": lambda path: path.write_text("".join("  ".join(row) + " \n\n" for row, _ in SENTENCES)),
}


@pytest.mark.parametrize("name", [*MADE, *WORDS_ALONE])
def test_words_without_tags(name: str, tmp_path: Path) -> None:
    """Those that are there are not read, whatever they are."""
    (MADE | WORDS_ALONE)[name](tmp_path / name)
    expected = [{"text": words} for words, _ in SENTENCES]
    assert read(tmp_path / name, predict=True) == (expected, [])


def test_bad_rows_of_words_without_tags(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_bytes(b"a\nb\n\nc\n\tO\n\ncaf\xe9\n\nd O")
    (tmp_path / "b.txt").write_bytes(b"a b\ncaf\xe9 b\n\x00\n")
    (tmp_path / "c.jsonl").write_text('{"tokens": ["a", " "]}\n{"tokens": []}\n{"tokens": "a b"}\n{"tags": ["O"]}\n')
    found, bad = read(tmp_path / "a.conll", tmp_path / "b.txt", tmp_path / "c.jsonl", predict=True)
    assert [row["text"] for row in found] == [["a", "b"], ["d"], ["a", "b"], ["a", "b"]]
    assert bad == [
        "a.conll:5: no word in the first column; columns are parted by tabs or blanks",
        "a.conll:7: not UTF-8 (byte 0xe9 at position 4 of the line)",
        "b.txt:2: not UTF-8 (byte 0xe9 at position 4 of the line)",
        "b.txt:3: holds a NUL byte",
        "c.jsonl:1: word 2 of 'tokens' is blank",
        "c.jsonl:2: 'tokens' is empty",
        "c.jsonl:4: 'tokens' is missing",
    ]


def test_a_parquet_file_with_class_names_and_other_columns(tmp_path: Path) -> None:
    """Of named entities and parts of speech the first are taken, unless the other ones are named."""
    saved(tmp_path / "saved", datasets.ClassLabel(names=list(NAMES)))
    table = datasets.load_from_disk(str(tmp_path / "saved")).rename_columns({"words": "Tokens", "tags": "NER_tags"})
    table = table.add_column("pos_tags", [[7] * len(words) for words, _ in SENTENCES])
    table.to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == (EXPECTED, [])
    numbers = [row | {"label": ["7"] * len(row["text"])} for row in EXPECTED]  # no names: the numbers are names
    assert read(tmp_path / "a.parquet", label_column="pos_tags") == (numbers, [])


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": ["a"], "tokens": ["b"], "mood": ["O"]}) + "\n")
    assert "no column known to hold the label; name one with --data.label_column" in refusal(path)
    assert read(path, label_column="mood") == ([{"text": ["b"], "label": ["O"]}], [])
    assert read(path, text_column="text", label_column="mood")[0][0]["text"] == ["a"]
    assert "no column 'nope'" in refusal(path, text_column="nope")


NO_LIST = "looks like a JSON list and is not valid JSON, nor a list as Python or numpy prints it"
BAD = [  # tokens, tags, reason
    (["a", "b"], ["O"], "'tokens' holds 2 words and 'tags' 1 tags"),
    ([], [], "'tokens' is empty"),
    (["a"], [], "'tags' is empty"),
    (["a", " "], ["O", "O"], "word 2 of 'tokens' is blank"),
    (["a", 3], ["O", "O"], "word 2 of 'tokens' is not a string"),
    (["a", ["b"]], ["O", "O"], "word 2 of 'tokens' is not a string"),
    ([None], ["O"], "word 1 of 'tokens' is missing"),
    (["a"], [None], "tag 1 of 'tags' is missing"),
    (["a"], [1.5], "tag 1 of 'tags' is neither a string nor a whole number"),
    (["a"], [" "], "tag 1 of 'tags' is blank"),
    (None, ["O"], "'tokens' is missing"),
    ({"a": 1}, ["O"], "'tokens' is not a list"),
    (" ", "O", "'tokens' is empty"),
    ("['a', b]", "O O", f"'tokens' {NO_LIST}"),
    ("['a' 'b', 'c']", "O O O", f"'tokens' {NO_LIST}"),
    (["a\0"], ["O"], "word 1 of 'tokens' holds a NUL byte"),
    (["\ud800"], ["O"], "word 1 of 'tokens' holds a lone surrogate"),
]


def test_bad_rows_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"tokens": ["fine"], "tags": [0]}, *({"tokens": words, "tags": tags} for words, tags, _ in BAD)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, bad = read(path)
    assert found == [{"text": ["fine"], "label": ["0"]}]
    assert bad == [f"a.jsonl:{line}: {reason}" for line, (_, _, reason) in enumerate(BAD, 2)]


def test_bytes_that_are_no_text_in_a_json_list(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "caf?"], "tags": ["O", "O"]}, {"tokens": ["b"], "tags": ["O"]}]
    (tmp_path / "a.json").write_bytes(json.dumps(rows).encode().replace(b"caf?", b"caf\xe9"))
    found, bad = read(tmp_path / "a.json")
    assert (len(found), bad) == (1, ["a.json:row 1: not UTF-8 (byte 0xe9 in 'tokens')"])


def test_bad_rows_of_arrow_tables(tmp_path: Path) -> None:
    words = pyarrow.array(
        [[b"a"], [b"caf\xe9"], None, [], [b"b", None], [b"c"], [b"d"]], pyarrow.list_(pyarrow.binary())
    )
    words = pyarrow.ListArray.from_arrays(words.offsets, words.values.view(pyarrow.string()), mask=words.is_null())
    tags = pyarrow.array([[0], [0], [0], [0], [0, 0], None, [1]], pyarrow.list_(pyarrow.int64()))
    pyarrow.parquet.write_table(
        pyarrow.table({"tokens": words, "tags": tags}), tmp_path / "a.parquet", row_group_size=2
    )
    found, bad = read(tmp_path / "a.parquet")
    assert [(row["text"], row["label"]) for row in found] == [(["a"], ["0"]), (["d"], ["1"])]
    assert bad == [
        "a.parquet:row 2: not UTF-8 (byte 0xe9 at position 4 of 'tokens')",
        "a.parquet:row 3: 'tokens' is missing",
        "a.parquet:row 4: 'tokens' is empty",
        "a.parquet:row 5: word 2 of 'tokens' is missing",
        "a.parquet:row 6: 'tags' is missing",
    ]


def test_a_word_without_a_class_is_a_bad_row(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "X"])),
        }
    )
    rows = {"tokens": [["a", "b"], ["c"]], "tags": [[1, -1], [0]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    found, bad = read(tmp_path / "saved")
    assert (found, bad) == (
        [{"text": ["c"], "label": ["O"]}],
        ["saved:row 1: tag 2 of 'tags' is missing"],
    )


def test_bad_lines_of_a_conll_file_cost_their_sentence(tmp_path: Path) -> None:
    lines = [
        b"a O",
        b"b",
        b"c",
        b"",
        b"d O",
        b"caf\xe9 O",
        b"",
        b"e\t",
        b"",
        b"\tO",
        b"",
        b"New York\tB-LOC",
        b"f NN O",
    ]
    (tmp_path / "a.conll").write_bytes(b"\n".join(lines))  # the last line has no end
    found, bad = read(tmp_path / "a.conll")
    assert found == [{"text": ["New York", "f"], "label": ["B-LOC", "O"]}]
    not_two = "not a word and its tag; a line has at least two columns, parted by tabs or blanks"
    assert bad == [
        f"a.conll:2: {not_two}",
        "a.conll:6: not UTF-8 (byte 0xe9 at position 4 of the line)",
        f"a.conll:8: {not_two}",
        f"a.conll:10: {not_two}",
    ]


def test_what_cannot_be_read_as_sentences(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("-DOCSTART- O\n\n")
    assert refusal(tmp_path / "a.conll").endswith("a.conll holds no usable row")
    (tmp_path / "a.txt").write_text("words\n")
    assert refusal(tmp_path / "a.txt") == (
        f"{tmp_path / 'a.txt'}: a .txt file holds texts without labels, for the tasks mlm and clm; "
        "task: token-classification reads .csv, .tsv, .jsonl, .json, .parquet, .conll, .bio, .iob2"
    )
    (tmp_path / "b.bio").write_text("a O\n")
    tables = ".csv, .tsv, .jsonl, .json, .parquet"
    for task, kinds in (("classification", tables), ("regression", tables), ("mlm", f"{tables}, .txt")):
        reason = "a .bio file holds words and their tags, for the task token-classification"
        for split, kinds_ in (("train", kinds), ("test", f"{tables}, .txt")):  # predictions are made for lines too
            with pytest.raises(UserError) as caught:
                resolve_part([str(tmp_path / "b.bio")], "data.train_files", split, TASKS[task])
            assert str(caught.value) == f"{tmp_path / 'b.bio'}: {reason}; task: {task} reads {kinds_}"


def test_lists_that_lie_outside_of_their_values() -> None:
    offsets = pyarrow.array([0, 9, 1], pyarrow.int32()).buffers()[1]
    outside = pyarrow.Array.from_buffers(
        pyarrow.list_(pyarrow.string()), 2, [None, offsets], children=[pyarrow.array(["a"])]
    )
    with pytest.raises(pyarrow.ArrowInvalid):
        _values(outside, None)
