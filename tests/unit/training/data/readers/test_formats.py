"""Every kind of file and data set: the same content gives the same rows and samples, and damage is told, not hidden."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from made_rows import prepared, row_format

from warmup.config import Config
from warmup.config.data import Data
from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data.readers import read_rows
from warmup.training.data.readers.columns import BadRow
from warmup.training.data.sources import resolve

# What a format could spoil: delimiters, quotation marks, line ends, blanks, long and wide characters.
AWKWARD = ['a "quoted", text', "tab\there", "two\nlines", " blanks ", "caf\u00e9 \U0001f600", "\u2028", "it's; 1"]
ROWS = [
    {"text": f"some {word} words {number}", "label": ("neg", "pos")[number % 2]}
    for number, word in enumerate(AWKWARD * 3)
]


def table(path: Path, delimiter: str) -> None:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def dump(path: Path, content: object, **options: object) -> None:
    path.write_text(json.dumps(content, **options), encoding="utf-8")


def classed() -> datasets.Dataset:
    """As most data sets of the hub are: labels are numbers, whose names stand beside the data."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["pos", "neg"])})
    return datasets.Dataset.from_list(ROWS, features=features)


def shuffled_back(path: Path) -> None:
    """Saved from a view that is not in the order of its table."""
    order = np.random.default_rng(0).permutation(len(ROWS))
    mixed = datasets.Dataset.from_list([ROWS[row] for row in order])
    mixed.select(np.argsort(order)).save_to_disk(path)


def dictionary_coded(path: Path) -> None:
    columns = pyarrow.table({name: [row[name] for row in ROWS] for name in ROWS[0]})
    label = columns["label"].dictionary_encode()
    pyarrow.parquet.write_table(columns.set_column(1, "label", label), path, row_group_size=5)


WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.csv": lambda path: table(path, ","),
    "rows.tsv": lambda path: table(path, "\t"),
    "rows.jsonl": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "list.json": lambda path: dump(path, ROWS),
    "indented.json": lambda path: dump(path, ROWS, indent=2, ensure_ascii=False),
    "data.json": lambda path: dump(path, {"version": "1.0", "data": ROWS}),
    "lines.json": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "rows.parquet": lambda path: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path),
    "dictionary.parquet": dictionary_coded,
    "classes.parquet": lambda path: classed().to_parquet(path),
    "saved": lambda path: datasets.Dataset.from_list(ROWS).save_to_disk(path),
    "saved_in_parts": lambda path: datasets.Dataset.from_list(ROWS).save_to_disk(path, num_shards=3),
    "saved_classes": lambda path: classed().save_to_disk(path),
    "saved_view": shuffled_back,
    "saved_splits": lambda path: datasets.DatasetDict(
        train=classed(), validation=datasets.Dataset.from_list(ROWS[:3]), test=datasets.Dataset.from_list(ROWS[:1])
    ).save_to_disk(path),
}


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pyarrow.compress(content, codec="zstd", asbytes=True),
}
COMPRESSED = [f"rows{kind}{suffix}" for kind in (".csv", ".tsv", ".jsonl", ".json") for suffix in COMPRESSORS]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a data set that `load_dataset` reads from a folder here, as it reads those of the hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub_cache")
    for configuration, rows in (("words", ROWS), ("few", ROWS[:4])):
        (tmp_path / "hub" / configuration).mkdir(parents=True)
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / "hub" / configuration / "train.parquet")
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/*\n" for name in ("words", "few")
    )
    (tmp_path / "hub" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return f"hub:{tmp_path / 'hub'}"


def made(folder: Path, name: str) -> str:
    """A file or folder of this name that holds ROWS."""
    path = folder / name
    if path.suffix in COMPRESSORS:
        plain = folder / path.stem
        WRITERS["list.json" if plain.suffix == ".json" else plain.name](plain)
        path.write_bytes(COMPRESSORS[path.suffix](plain.read_bytes()))
        plain.unlink()
    else:
        WRITERS[name](path)
    return str(path)


def read(
    *entries: str, task: str = "mlm", max_bad_rows: int = 100, **columns: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows that a task reads, and the bad ones as they are shown, without the folder."""
    bad: list[BadRow] = []
    rows = list(read_rows(resolve(entries, (), TASKS[task])[0], row_format(task, **columns), bad, max_bad_rows))
    return rows, [str(row).removeprefix(os.path.dirname(entries[0]) + "/") for row in bad]


def refusal(*entries: str, task: str = "mlm", validation: Sequence[str] = (), **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        resolve(entries, validation, TASKS[task])
        read(*entries, task=task, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def samples(folder: Path, *entries: str, **data: object) -> tuple[str, list]:
    """The cache key; and tokens, labels and vocabulary of all samples, held out or not."""
    given = Data(train_files=entries, vocab_size=150, max_length=24, cache_dir=str(folder / "cache"), **data)
    made = prepared(Config(task="classification", data=given))
    parts = [part.gather(np.arange(len(part))) for part in (made.train, made.validation)]
    tokens = [(ids_BT.tolist(), columns["label"].tolist()) for ids_BT, _, columns in parts]
    return made.key, [tokens, made.labels, sorted(made.tokenizer.get_vocab().items())]


EXPECTED = [{"text": row["text"], "pair": None, "label": row["label"]} for row in ROWS]


# The same content


@pytest.mark.parametrize("name", [*WRITERS, *COMPRESSED])
def test_rows_are_the_same_from_every_format(name: str, tmp_path: Path) -> None:
    assert read(made(tmp_path, name), task="classification") == (EXPECTED, [])


@pytest.mark.parametrize("name", ["list.json", "rows.parquet", "saved"])
def test_labels_that_are_numbers(name: str, tmp_path: Path) -> None:
    """One of them infinite."""
    rows = [{"text": f"words {number}", "label": value} for number, value in enumerate([0.5, -2.0, float("inf")])]
    path = tmp_path / name
    if name == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(path)
    elif name == "list.json":
        dump(path, rows)  # as Infinity, which Python writes and reads
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    found, bad = read(str(path), task="regression")
    assert [row["label"] for row in found] == ["0.5", "-2.0"]
    (row,) = bad
    assert row == f"{name}:row 3: 'label' is not a finite number: 'inf'"


def test_rows_of_the_hub(hub: str) -> None:
    assert read(f"{hub}:words:train", task="classification") == (EXPECTED, [])
    assert read(f"{hub}:few:train", task="classification") == (EXPECTED[:4], [])
    rows, _ = read(f"{hub}:words:train[5:7]", f"{hub}:words:train[:2]", task="classification")
    assert rows == EXPECTED[5:7] + EXPECTED[:2]


def test_arguments_of_load_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    requested = []

    def load(name: str, configuration: str | None, split: str) -> datasets.Dataset:
        requested.append((name, configuration, split))
        return datasets.Dataset.from_list([{**row, "number": len(requested)} for row in ROWS])

    monkeypatch.setattr(datasets, "load_dataset", load)
    held_out = ["hub:nyu-mll/glue:sst2:train[:10%]", "hub:imdb:train[90%:]+test"]
    resolve(["hub:imdb:train"], held_out, TASKS["mlm"])
    assert requested == [
        ("imdb", None, "train"), ("nyu-mll/glue", "sst2", "train[:10%]"), ("imdb", None, "train[90%:]+test"),
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", ["", *COMPRESSORS])
def test_txt_compressed_or_not(suffix: str, tmp_path: Path) -> None:
    content = "\ufeffone\r\n\n two words \nthree\u2028still".encode()
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESSORS[suffix](content) if suffix else content)
    assert [row["text"] for row in read(str(path))[0]] == ["one", " two words ", "three\u2028still"]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_in_several_streams(suffix: str, tmp_path: Path) -> None:
    """As `cat a.gz b.gz` makes them."""
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESSORS[suffix](b"one\n") + COMPRESSORS[suffix](b"two\n"))
    assert [row["text"] for row in read(str(path))[0]] == ["one", "two"]


def test_samples_are_the_same_from_every_format(tmp_path: Path, hub: str) -> None:
    names = ["rows.csv", "rows.tsv", "rows.jsonl", "data.json", "rows.parquet", "saved", "saved_view", "rows.csv.gz"]
    found = [samples(tmp_path, made(tmp_path, name)) for name in names]
    found.append(samples(tmp_path, f"{hub}:words:train"))
    assert all(data == found[0][1] for _, data in found)
    assert found[0][1][1] == ("neg", "pos") and sum(len(ids) for ids, _ in found[0][1][0]) == len(ROWS)
    for name in ("classes.parquet", "saved_classes"):
        assert samples(tmp_path, made(tmp_path, name))[1][1] == ("pos", "neg")  # as the data set has them
    _, held_out = samples(tmp_path, made(tmp_path, "saved_splits"), validation_files=(str(tmp_path / "saved_splits"),))
    assert [len(ids) for ids, _ in held_out[0]] == [len(ROWS), 3]


# Cache keys


@pytest.mark.parametrize("name", ["rows.tsv", "list.json", "rows.csv.gz", "rows.parquet", "saved"])
def test_keys_follow_the_content_and_not_the_path(name: str, tmp_path: Path) -> None:
    path = made(tmp_path, name)
    key = samples(tmp_path, path)[0]
    elsewhere = tmp_path / "other.place" / ("moved" + name.removeprefix("rows").removeprefix("list"))
    elsewhere.parent.mkdir()
    shutil.move(path, elsewhere)
    assert samples(tmp_path, str(elsewhere))[0] == key
    os.utime(elsewhere, (0, 0))
    assert samples(tmp_path, str(elsewhere))[0] == key
    shutil.rmtree(elsewhere) if elsewhere.is_dir() else elsewhere.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ROWS[0], "text", "some other words")
        shutil.move(made(tmp_path, name), elsewhere)
    assert samples(tmp_path, str(elsewhere))[0] != key


def test_a_key_follows_the_data_and_the_class_names_of_a_saved_data_set(tmp_path: Path) -> None:
    def content(folder: str) -> str:
        return resolve([str(tmp_path / folder)], (), TASKS["classification"])[0][0].content()

    numbers = datasets.Dataset.from_dict({"text": ["one", "two"], "label": [0, 1]})
    for folder, names in (("a", ["x", "y"]), ("b", ["y", "x"]), ("c", ["x", "y"])):
        numbers.cast_column("label", datasets.ClassLabel(names=names)).save_to_disk(tmp_path / folder)
    assert content("a") == content("c") != content("b")
    arrow = next((tmp_path / "a").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes().replace(b"onetwo", b"oneten"))  # which its fingerprint does not notice
    assert content("a") != content("c")


def test_keys_of_hub_data_sets_are_theirs(tmp_path: Path, hub: str) -> None:
    words = samples(tmp_path, f"{hub}:words:train")[0]
    assert samples(tmp_path, f"{hub}:words:train")[0] == words
    assert samples(tmp_path, f"{hub}:words:train[:10]")[0] != words
    assert samples(tmp_path, f"{hub}:few:train", validation_fraction=0.5)[0] != words


# Rows that cannot be used


def test_bad_rows_of_a_json_list(tmp_path: Path) -> None:
    rows = [
        b'{"text": "fine", "label": 1}', b'{"text": " ", "label": 1}', b'["text"]', b'{"text": "caf\xe9", "label": 1}',
        b'{"text": "a\\ud800", "label": 0}', b'{"label": 1}', b'{"text": "caf\xc3\xa9", "label": 1.0, "x": "\xe9"}',
        b'{"text": "a", "label": 0.5}', b'{"text": "a\\u0000", "label": 1}', b'{"text": "a", "label": "\xff"}',
    ]  # fmt: skip
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf[" + b",\n".join(rows) + b"]")
    found, bad = read(str(path), task="classification")
    assert [(row["text"], row["label"]) for row in found] == [("fine", "1"), ("caf\u00e9", "1")]
    assert bad == [
        "a.json:row 2: 'text' is blank",
        "a.json:row 3: not a JSON object",
        "a.json:row 4: not UTF-8 (byte 0xe9 in 'text')",
        "a.json:row 5: 'text' holds a lone surrogate",
        "a.json:row 6: 'text' is missing",
        "a.json:row 8: 'label' is neither a string nor a whole number",
        "a.json:row 9: 'text' holds a NUL byte",
        "a.json:row 10: not UTF-8 (byte 0xff in 'label')",
    ]


def spoiled() -> pyarrow.Table:
    """Rows 2, 3, 5 and 6 have bytes that are no text, of which Arrow takes no notice; and so on."""
    texts = [b"fine", b"caf\xe9", b"a\xed\xa0\x80", b"caf\xc3\xa9", b"\xff", b"a\0", b" \n", None, b"good"]
    offsets = pyarrow.array(np.cumsum([0, *(len(text or b"") for text in texts)]), pyarrow.int32()).buffers()[1]
    valid = pyarrow.array([text is not None for text in texts]).buffers()[1]
    data = pyarrow.py_buffer(b"".join(text or b"" for text in texts))
    text = pyarrow.StringArray.from_buffers(len(texts), offsets, data, valid)
    return pyarrow.table({"other": texts, "text": text, "label": [1.0, 1, 1, 0, 1, 1, 1, 1, 0.5]})


@pytest.mark.parametrize("name", ["a.parquet", "saved"])
def test_bad_rows_of_arrow_tables(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "saved":
        datasets.Dataset(spoiled()).save_to_disk(path)
    else:
        pyarrow.parquet.write_table(spoiled(), path, row_group_size=4)
    found, bad = read(str(path), task="classification")
    assert [(row["text"], row["label"]) for row in found] == [("fine", "1"), ("caf\u00e9", "0")]
    assert bad == [
        f"{name}:row 2: not UTF-8 (byte 0xe9 at position 4 of 'text')",
        f"{name}:row 3: not UTF-8 (byte 0xed at position 2 of 'text')",
        f"{name}:row 5: not UTF-8 (byte 0xff at position 1 of 'text')",
        f"{name}:row 6: 'text' holds a NUL byte",
        f"{name}:row 7: 'text' is blank",
        f"{name}:row 8: 'text' is missing",
        f"{name}:row 9: 'label' is neither a string nor a whole number",
    ]
    message = refusal(str(path), task="classification", max_bad_rows=2)
    assert message.startswith("3 bad rows so far") and f"{path}:row 2: not UTF-8" in message


def test_rows_beyond_the_first_batch_are_counted_on(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(2500)]
    pyarrow.parquet.write_table(pyarrow.table({"text": [*texts[:2400], " ", *texts[2401:]]}), tmp_path / "a.parquet")
    rows, bad = read(str(tmp_path / "a.parquet"))
    assert [row["text"] for row in rows] == texts[:2400] + texts[2401:]
    assert bad == ["a.parquet:row 2401: 'text' is blank"]


def test_a_class_without_a_number_is_a_row_without_a_label(tmp_path: Path) -> None:
    """-1 and null: as published test sets have them, whose labels are kept back."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["n", "y"])})
    rows = {"text": ["a", "b", "c", "d"], "label": [1, -1, None, 0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    found, bad = read(str(tmp_path / "saved"), task="classification")
    assert [row["label"] for row in found] == ["y", "n"]
    assert bad == ["saved:row 2: 'label' is missing", "saved:row 3: 'label' is missing"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [([1, 2], "'text' is not a string"), ([["a"], ["b"]], "'text' is not a string"),
     ([b"a", b"b"], "'text' is not a string"), ([None, None], "'text' is missing")],
)  # fmt: skip
def test_a_parquet_column_that_is_no_text(values: list, reason: str, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), tmp_path / "a.parquet")
    assert f"a.parquet:row 1: {reason}" in refusal(str(tmp_path / "a.parquet"), max_bad_rows=0)


def test_tsv_bad_rows_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b'text\tlabel\none, two\ta\nfew\nmany\ta\tb\ncaf\xe9\ta\n"junk"after\ta\n"never\tclosed\n')
    rows, bad = read(str(path), task="classification", quoting="standard")
    assert [row["text"] for row in rows] == ["one, two"]
    assert [reason.split(":")[1] for reason in bad] == ["3", "4", "5", "6", "7"]
    assert "not valid tsv" in bad[3] and "never closed" in bad[4]


# Files that cannot be read


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".json", ".txt"])
def test_compressed_data_that_is_cut_off(kind: str, suffix: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    words = ["".join(map(chr, random.integers(97, 123, 30))) for _ in range(2000)]  # which do not compress well
    content = {
        ".csv": "text\n" + "\n".join(words), ".jsonl": "\n".join(json.dumps({"text": word}) for word in words),
        ".json": json.dumps([{"text": word} for word in words], indent=1), ".txt": "\n".join(words),
    }[kind]  # fmt: skip
    whole = COMPRESSORS[suffix](content.encode())
    path = tmp_path / f"a{kind}{suffix}"
    path.write_bytes(whole)
    assert len(read(str(path), max_bad_rows=0)[0]) == 2000
    for damaged in (whole[: len(whole) // 2], whole[:-3], whole[:6], b"no such data " * 9):
        path.write_bytes(damaged)
        message = refusal(str(path), max_bad_rows=0)
        assert f"{path}: damaged or cut off {suffix} data after line " in message


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_data_of_nothing(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.txt{suffix}"
    for content in (b"", COMPRESSORS[suffix](b"")):
        path.write_bytes(content)
        assert refusal(str(path)) == f"{path} is empty"


def test_parquet_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {"text": [f"text {number}" for number in range(500)]}
    plain = {"compression": "NONE", "use_dictionary": False}  # only the checksum can tell that a byte changed
    pyarrow.parquet.write_table(pyarrow.table(columns), path, write_page_checksum=True, **plain)
    whole = path.read_bytes()
    assert len(read(str(path))[0]) == 500
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    for damaged in (whole[: len(whole) // 2], whole[100:], b"PAR1" * 9, b"text\none\n", bytes(flipped)):
        path.write_bytes(damaged)
        assert refusal(str(path)).startswith(f"{path}: damaged, or no parquet file (")
    path.write_bytes(b"")
    assert refusal(str(path)) == f"{path} is empty"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), path)
    assert refusal(str(path)) == f"{path} holds no usable row"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n {"text": "a"},\n {"text": "b}\n]', "a.json:3: not valid JSON (Invalid control character at column 14); "),
        ('[{"text": "a"}', "a.json:1: not valid JSON ("),
        ('[{"text": "a"}]\n[', "a.json:2: not valid JSON (Extra data at column 1); "),
        ('{"version": 1,\n "rows": [{"text": "a"}]}', "a.json: no list of rows; a .json file is a list of objects, or"),
        ('{"data": {"text": "a"},\n"x": 1}', "a.json: no list of rows; "),
        ('"text"', "a.json: no list of rows; "),
        ("[" * 100_000, "a.json: JSON with a number too long or nested too deeply"),
        ("[]", "a.json holds no usable row"),
        ('{"data": []}', "a.json holds no usable row"),
        (" \n ", "a.json holds no usable row"),
        ("", "a.json is empty"),
    ],
)
def test_json_that_is_no_list_of_rows(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    assert refusal(str(tmp_path / "a.json")).startswith(str(tmp_path / message))


@pytest.mark.parametrize("name", ["rows.tsv", "list.json", "rows.csv.gz", "rows.parquet", "saved"])
def test_a_column_that_is_not_there(name: str, tmp_path: Path) -> None:
    path = made(tmp_path, name)
    message = refusal(path, text_column="nope")
    assert message == f"{path}: no column 'nope'; name one with --data.text_column (there are 'text', 'label')"


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\ttext\none\ttwo\n")
    parquet = pyarrow.Table.from_arrays([pyarrow.array(["one"]), pyarrow.array(["two"])], ["text", "text"])
    pyarrow.parquet.write_table(parquet, tmp_path / "a.parquet")
    for name in ("a.tsv", "a.parquet"):
        assert "two columns are named 'text'" in refusal(str(tmp_path / name))


@pytest.mark.parametrize("damage", ["state.json", "dataset_info.json", "*.arrow"])
@pytest.mark.parametrize("how", ["gone", "cut off"])
def test_a_saved_data_set_that_is_damaged(damage: str, how: str, tmp_path: Path) -> None:
    folder = made(tmp_path, "saved")
    (path,) = Path(folder).glob(damage)
    path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    no_data_set = (how, damage) == ("gone", "state.json")
    message = refusal(folder)
    assert message.startswith(folder)
    assert ("is a folder" if no_data_set else "cannot be loaded as a saved data set") in message


def test_a_saved_data_set_whose_texts_lie_outside_of_it(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["one", "two"]}).save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    offsets, wrong = (np.array(numbers, "<i4").tobytes() for numbers in ([0, 3, 6], [0, 1 << 30, 6]))
    assert offsets in arrow.read_bytes()
    arrow.write_bytes(arrow.read_bytes().replace(offsets, wrong))
    assert refusal(str(tmp_path / "saved")).startswith(f"{tmp_path / 'saved'}: damaged data (")


def test_a_folder_that_is_no_saved_data_set_or_lacks_the_split(tmp_path: Path) -> None:
    assert "is a folder; give the files in it, or a folder that Dataset.save_to_disk wrote" in refusal(str(tmp_path))
    datasets.DatasetDict(test=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "saved")
    message = refusal(str(tmp_path / "saved"))
    assert "saved has no split named train (there are test)" in message
    assert read(str(tmp_path / "saved" / "test"), task="classification")[0] == EXPECTED


@pytest.mark.parametrize("entry", ["hub:", "hub:imdb", "hub:a:b:c:d", "hub::train", "hub:imdb:"])
def test_a_hub_name_that_is_none(entry: str) -> None:
    assert refusal(entry) == f"data.train_files: {entry!r} is not hub:NAME:SPLIT or hub:NAME:CONFIGURATION:SPLIT"


def test_a_hub_that_cannot_be_reached_or_has_no_such_thing(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    message = refusal("hub:nobody/nothing:train")
    assert message.startswith(
        "data.train_files: hub:nobody/nothing:train would have to be downloaded, and huggingface.co"
    )
    for entry, named in ((f"{hub}:words:tset", "tset"), (f"{hub}:wrods:train", "wrods"), (f"{hub}:train", "words")):
        message = refusal(entry)
        assert message.startswith(f"data.train_files: {entry} cannot be loaded: ") and named in message


# Patterns, and what is given twice


def test_patterns_are_read_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.jsonl", "sub/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}) if name.endswith("jsonl") else name)

    def texts(*patterns: str) -> list[str]:
        return [row["text"] for row in read(*(str(tmp_path / pattern) for pattern in patterns))[0]]

    assert texts("*.txt") == ["a.txt", "b.txt"]
    assert texts("c.*", "[ab].txt") == ["c.jsonl", "a.txt", "b.txt"]
    assert texts("**/?.txt") == ["a.txt", "b.txt", "sub/d.txt"]
    assert refusal(str(tmp_path / "*.csv")) == f"data.train_files: no file matches {tmp_path / '*.csv'}"
    assert "sub is a folder; give the files in it" in refusal(str(tmp_path / "*"))
    (tmp_path / "[ab].txt").write_text("itself")
    assert texts("[ab].txt") == ["itself"]


def test_no_row_is_read_twice(tmp_path: Path, hub: str) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("one\n")
    a, pattern = str(tmp_path / "a.txt"), str(tmp_path / "*.txt")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    linked = str(tmp_path / "link" / "a.txt")
    for entries in ((a, a), (a, pattern), (pattern, a), (a, linked), (a, f"{tmp_path}/./a.txt")):
        message = refusal(*entries)
        assert message.startswith("data.train_files: ") and f"(by {entries[1]!r}) is read already" in message
        assert f"for data.train_files (by {entries[0]!r})" in message
    message = refusal(pattern, validation=(a,))
    assert message == (
        f"data.validation_files: {a} (by {a!r}) is read already, for data.train_files (by {pattern!r}); give it once"
    )
    splits = made(tmp_path, "saved_splits")
    train, validation = resolve([splits], [splits], TASKS["classification"])
    assert [Path(part[0].name).name for part in (train, validation)] == ["train", "validation"]
    assert "is read already" in refusal(splits, validation=(f"{splits}/train",))
    assert "is read already" in refusal(f"{hub}:words:train", f"{hub}:words:train")
    (tmp_path / "c.txt").write_text("one\n")  # another file of the same content is the user's own affair
    assert len(read(a, str(tmp_path / "c.txt"))[0]) == 2
