"""A corpus that is tokenised on the way: every document once in an epoch, from any place on, and nothing piles up."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import WORDS, make_tokenizer

from warmup.config import Config
from warmup.config.data import Data
from warmup.config.run import Checkpoint
from warmup.errors import UserError
from warmup.training.data import sources
from warmup.training.data.prepare import prepare_data
from warmup.training.data.samples import StepSamples
from warmup.training.data.streaming import chunk_cache, stream
from warmup.training.data.streaming.documents import StreamState
from warmup.training.data.streaming.stream import Stream

LIMIT, BLOCK = 8, 7
SHARDS = (12, 9, 15)  # documents


def text(number: int) -> str:
    """Of one to three windows; its words tell which document it is."""
    return " ".join([f"w{number}"] * (1 + 5 * number % 14))


TEXTS = [text(number) for number in range(sum(SHARDS))]
WINDOWS = Counter(
    {number: -(-len(text.split()) // (LIMIT - 2)) for number, text in enumerate(TEXTS)}  # of each document
)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three shards, each in another format."""
    monkeypatch.setenv("WARMUP_CACHE", str(tmp_path / "cache"))
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    first, second, third = np.split(TEXTS, np.cumsum(SHARDS)[:-1])
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in first))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("\n".join(second).encode()))
    pyarrow.parquet.write_table(pyarrow.table({"text": third}), tmp_path / "c.parquet")
    (tmp_path / "held_out.txt").write_text("w190 w191 w192\n")
    return [str(tmp_path / name) for name in ("a.jsonl", "b.txt.gz", "c.parquet")]


def config(*files: str, seed: int = 0, **data: object) -> Config:
    folder = Path(files[-1]).parent
    given = {"shuffle_buffer": BLOCK, "max_length": LIMIT, "tokenizer": str(folder / "tokenizer")}
    given |= {"validation_files": (str(folder / "held_out.txt"),), **data}
    return Config(seed=seed, data=Data(train_files=files, streaming=True, **given))


def opened(config_: Config, place: dict | None = None) -> Stream:
    return stream.open_stream(config_, prepare_data(config_), place).train


def steps(source: Stream, count: int, start: int = 0, seed: int = 0) -> Iterator[StepSamples]:
    while True:
        yield source.draw(start, count, seed)
        start += count


def documents(source: Stream, drawn: StepSamples) -> list[int]:
    """Which document each sample is of."""
    ids_BT, mask_BT, _ = source.take(drawn.indices)
    assert mask_BT.sum(1).tolist() == drawn.lengths.tolist()
    return [int(row[1]) - 5 for row in ids_BT]  # after the special tokens comes w0


def epochs_of(source: Stream, epochs: int, count: int = 10, seed: int = 0) -> list[list[int]]:
    """Documents of whole epochs, in the order of the stream."""
    found: list[list[int]] = [[] for _ in range(epochs + 1)]
    for drawn in steps(source, count, seed=seed):
        for epoch, document in zip(drawn.epochs, documents(source, drawn), strict=True):
            found[min(epoch, epochs)].append(document)
        if drawn.epochs.min() >= epochs:
            return found[:epochs]
    raise AssertionError


# The order


def test_each_epoch_has_every_window_once_in_an_order_of_its_own(corpus: list[str]) -> None:
    first, second, third = epochs_of(opened(config(*corpus)), 3)
    for epoch in (first, second, third):
        assert Counter(epoch) == WINDOWS
    assert len({tuple(epoch) for epoch in (first, second, third)}) == 3
    assert first != sorted(first)
    other = epochs_of(opened(config(*corpus, seed=1)), 1, seed=1)[0]
    assert other != first and Counter(other) == WINDOWS


def test_shards_come_in_another_order_and_blocks_of_documents_are_shuffled(corpus: list[str]) -> None:
    shard_of = np.repeat([0, 1, 2], SHARDS)
    orders = set()
    for epoch in epochs_of(opened(config(*corpus, shuffle_buffer=1)), 8):
        assert epoch == sorted(epoch, key=lambda document: epoch.index(document))  # a document's windows lie together
        orders.add(tuple(dict.fromkeys(int(shard_of[document]) for document in epoch)))
        for shard in range(3):
            inside = [document for document in epoch if shard_of[document] == shard]
            assert inside == sorted(inside)
    assert len(orders) > 2
    (mixed,) = epochs_of(opened(config(*corpus, shuffle_buffer=1000)), 1)
    assert sum(shard_of[a] != shard_of[b] for a, b in pairwise(mixed)) > 15


def test_the_stream_is_the_same_however_it_is_drawn_and_from_any_place(corpus: list[str]) -> None:
    asked = config(*corpus)
    whole = opened(asked)
    ids, taken, places = [], [], []
    for drawn, _ in zip(steps(whole, 1), range(170), strict=False):  # two epochs and a half
        ids.append((int(drawn.indices[0]), int(drawn.epochs[0]), int(drawn.lengths[0])))
        taken.append(documents(whole, drawn)[0])
        places.append(json.loads(json.dumps(drawn.place)))
    assert sorted(number for number, _, _ in ids[:140]) == sorted({number for number, _, _ in ids[:140]})
    assert [place["drawn"] for place in places] == sorted(place["drawn"] for place in places)
    assert {place["epoch"] for place in places} == {0, 1, 2}
    for count in (3, 40):
        at_once = opened(asked)
        for start, drawn in zip(range(0, 170 - count, count), steps(at_once, count), strict=False):
            part = slice(start, start + count)
            assert list(zip(*(row.tolist() for row in drawn[:3]), strict=True)) == ids[part]
            assert documents(at_once, drawn) == taken[part]
            assert drawn.place == places[start + count - 1]
    for start in (1, 5, 20, 33, 77, 100, 150):  # samples that are done: in a block, in a shard, in an epoch
        resumed = opened(asked, places[start - 1])
        drawn = resumed.draw(start, 15, 0)
        assert list(zip(*(row.tolist() for row in drawn[:3]), strict=True)) == ids[start : start + 15]
        assert documents(resumed, drawn) == taken[start : start + 15]


def test_it_holds_a_few_blocks_and_their_files(corpus: list[str], tmp_path: Path) -> None:
    source = opened(config(*corpus))
    folder = prepare_data(config(*corpus)).folder / "blocks"
    most = 0
    for drawn, _ in zip(steps(source, 6), range(60), strict=False):
        assert drawn.place["block"] == source._held[-1].place.block
        source._ahead.result()
        most = max(most, len(source._held) + len(list(folder.glob("*.arrow"))))
        assert source.first <= drawn.place["drawn"] + 6
    assert most <= 7  # a step of 6 lies in 3 blocks at most, one is ahead
    source.close()
    assert [path.name for path in folder.iterdir()] == ["lock"]
    with pytest.raises(ValueError, match="does not go back"):
        source.draw(0, 6, 0)


def test_files_of_a_run_that_was_killed_are_removed(corpus: list[str]) -> None:
    folder = prepare_data(config(*corpus)).folder / "blocks"
    folder.mkdir()
    for name in ("old.arrow", "old.stage", "new.arrow"):
        (folder / name).write_text("half")
        if name != "new.arrow":
            os.utime(folder / name, (0, 0))
    opened(config(*corpus)).close()
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "new.arrow"]


def test_one_process_tokenises_for_all(corpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    write = chunk_cache.ChunkCache._write

    def counted(self: chunk_cache.ChunkCache, texts: list[str], file: Path) -> None:
        made.append(len(texts))
        write(self, texts, file)

    monkeypatch.setattr(chunk_cache.ChunkCache, "_write", counted)
    asked = config(*corpus)
    ranks = [opened(asked) for _ in range(3)]
    for first, second, third in zip(*(steps(rank, 5) for rank in ranks), strict=True):
        assert first.indices.tolist() == second.indices.tolist() == third.indices.tolist()
        assert documents(ranks[0], first) == documents(ranks[2], third)
        for rank in ranks:  # before the quickest one drops a block, the others have it
            rank._ahead.result()
        if first.place["epoch"]:
            break
    assert sum(made) <= sum(SHARDS) + 2 * BLOCK + BLOCK
    # A file that is lost or damaged is made again.
    (path,) = {block.file for block in ranks[0]._held[:1]}
    path.write_bytes(path.read_bytes()[:100])
    for rank in ranks:
        rank.close()
    assert documents(fresh := opened(asked), drawn := fresh.draw(0, 5, 0)) and len(drawn.indices) == 5


def test_masks_of_an_epoch_are_its_own(corpus: list[str]) -> None:
    """Ids go on counting over the epochs."""
    source = opened(config(*corpus))
    size = WINDOWS.total()
    ids = np.concatenate([drawn.indices for drawn, _ in zip(steps(source, size), range(3), strict=False)])
    assert sorted(ids.tolist()) == list(range(3 * size))


# What is left out, and what ends it


def test_bad_rows_are_named_once_and_limited(corpus: list[str], tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "w1"}\n{"text": 7}\n{"text": "w2"}\n{"text": " "}\n{"text": "w3"}\n')
    asked = config(corpus[0], str(tmp_path / "d.jsonl"), max_bad_rows=2, shuffle_buffer=1)
    source, found, places = opened(asked), [], []
    for drawn in steps(source, 1):
        found += drawn.left_out
        places.append(drawn.place)
        if drawn.place["epoch"] == 2:
            break
    name = tmp_path / "d.jsonl"
    assert found == [f"{name}:2: 'text' is not a string", f"{name}:4: 'text' is blank"]
    strict = config(corpus[0], str(tmp_path / "d.jsonl"), max_bad_rows=1, shuffle_buffer=1)
    between = next(place for place in places if place["bad_rows"] == 1)  # of the two bad rows
    for place in (None, between, next(place for place in places if place["epoch"] == 1)):
        with pytest.raises(UserError, match="2 bad rows so far, and --data.max_bad_rows allows 1.*d.jsonl:4"):
            for _ in zip(steps(source := opened(strict, place), 4, place["drawn"] if place else 0), range(40)):
                source._ahead.result()


def test_bad_rows_at_the_end_of_an_epoch_are_named(corpus: list[str], tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes(b"w1 w2\nw3\n\xff\n")
    source = opened(config(str(tmp_path / "d.txt"), shuffle_buffer=2))
    found = [drawn.left_out for drawn, _ in zip(steps(source, 1), range(7), strict=False)]
    assert [len(rows) for rows in found] == [0, 0, 1, 0, 0, 0, 0] and "d.txt:3: not UTF-8" in found[2][0]


def test_a_shard_that_vanishes_or_is_cut_off_is_named(corpus: list[str]) -> None:
    for name, damage in ((corpus[0], os.remove), (corpus[1], lambda file: os.truncate(file, 60))):
        source = opened(config(*corpus, shuffle_buffer=1))
        content = Path(name).read_bytes()
        damage(name)
        with pytest.raises(UserError, match=f"{name}") as caught:
            for _ in steps(source, 3):
                pass
        with pytest.raises(UserError) as again:
            source.draw(source._held[-1].end, 3, 0)
        assert str(again.value) == str(caught.value)
        assert len(source.take(np.array([source.first]))[0]) == 1  # what is held can still be read
        Path(name).write_bytes(content)


@pytest.mark.timeout(60)
def test_a_corpus_without_a_token_ends(corpus: list[str], tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("\u200b\n" * 20)
    with pytest.raises(UserError, match="data: no token in the train texts"):
        opened(config(str(nothing)))
    good = config(*corpus)
    prepared = dataclasses.replace(prepare_data(good), sources=sources.resolve([str(nothing)], [], False, True)[0])
    with pytest.raises(UserError, match="data: no token in the training texts"):  # though its beginning had some
        stream.open_stream(good, prepared, None)
    blank = tmp_path / "blank.txt"
    blank.write_text("\n \n")
    with pytest.raises(UserError, match=r"blank\.txt holds no usable row"):
        opened(config(*corpus, str(blank), shuffle_buffer=1000))


def test_a_full_disk(corpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: chunk_cache.ChunkCache, texts: list[str], file: Path) -> None:
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(chunk_cache.ChunkCache, "_write", full)
    with pytest.raises(UserError, match=r"^data\.cache_dir: .*arrow: No space left on device$"):
        opened(config(*corpus))


# What it is prepared with


def test_a_tokenizer_and_the_mean_length_are_of_the_first_documents(corpus: list[str], tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n".join(" ".join(WORDS[:12]) for _ in range(5)) + "\n" + WORDS[-1] * 3)
    asked = config(str(tmp_path / "words.txt"), shuffle_buffer=5, tokenizer=None, vocab_size=150, max_length=16)
    prepared = prepare_data(asked)
    assert prepared.train.mean_length == 14
    vocabulary = prepared.tokenizer.get_vocab()
    assert WORDS[0] in vocabulary and WORDS[-1] not in vocabulary
    assert prepare_data(dataclasses.replace(asked, seed=3)).key == prepared.key


def test_what_the_key_looks_at(corpus: list[str], tmp_path: Path) -> None:
    """Size and ends of a training file; all of one that is held out."""
    train, held_out = tmp_path / "big.txt", tmp_path / "held_out.txt"
    lines = [f"w{number % 9} w1\n" for number in range(400_000)]

    def key(**data: object) -> str:
        train.write_text("".join(lines))
        return prepare_data(config(str(train), **data)).key

    wanted = key()
    lines[200_000] = "w8 w3\n"
    assert key() == wanted
    changed = {key(shuffle_buffer=8), key(max_length=9)}
    for number, line in ((0, "w7 w2\n"), (-1, "w7 w2\n"), (-1, "w7 w21\n")):
        lines[number] = line
        changed.add(key())
    held_out.write_text("w190 w191\n")
    changed.add(key())
    assert len(changed | {wanted}) == 7


def test_a_hub_data_set_is_streamed_by_shards(corpus: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub_cache")
    (tmp_path / "hub").mkdir()
    for number, part in enumerate(np.split(TEXTS, np.cumsum(SHARDS)[:-1])):
        (tmp_path / "hub" / f"train-{number}.jsonl").write_text(
            "".join(json.dumps({"n": 1, "text": text}) + "\n" for text in part)
        )
    (tmp_path / "hub" / "validation-0.jsonl").write_text('{"n": 1, "text": "w190"}\n')
    hub = f"hub:{tmp_path / 'hub'}"
    asked = dataclasses.replace(config(f"{hub}:train"), model=str(tmp_path / "tokenizer"))
    held_out = (f"{hub}:validation",)
    data = dataclasses.replace(asked.data, tokenizer=str(tmp_path / "tokenizer"), validation_files=held_out)
    asked = dataclasses.replace(asked, data=data)
    assert len(prepare_data(asked).validation) == 1
    source = opened(asked)
    assert [shard.shard for shard in source.corpus.shards] == [0, 1, 2]
    epochs = epochs_of(source, 2)
    assert [Counter(epoch) for epoch in epochs] == [WINDOWS] * 2 and epochs[0] != epochs[1]
    assert not list((tmp_path / "hub_cache").rglob("*.arrow"))  # nothing was copied
    place = opened(asked).draw(0, 30, 0).place
    assert StreamState(**place).row
    resumed, through = opened(asked, place), opened(asked)
    through.draw(0, 30, 0)
    assert documents(resumed, resumed.draw(30, 20, 0)) == documents(through, through.draw(30, 20, 0))
    (tmp_path / "hub" / "train-2.jsonl").write_text('{"n": 1, "text": "w1"}\n{"n')
    with pytest.raises(UserError, match=r"hub:train \(shard 3 of 3\) cannot be read: "):
        epochs_of(opened(asked), 1)


# What cannot be asked of a stream


def test_what_the_configuration_refuses() -> None:
    data = Data(train_files=("a.txt",), validation_files=("b.txt",), streaming=True)
    Config(data=data)
    for wanted, given in (
        ("data.validation_files: none given, and no rows can be held out of a stream", {"validation_files": ()}),
        ("data.shuffle_buffer: 0 is not 1 or above", {"shuffle_buffer": 0}),
    ):
        with pytest.raises(ValueError, match=wanted):
            dataclasses.replace(data, **given)
    for task in ("classification", "regression"):
        with pytest.raises(ValueError, match=f"data.streaming: is for language modelling, and task: {task} needs"):
            Config(task=task, data=data)
    with pytest.raises(ValueError, match="checkpoint.every: '1 epochs', but the length of a stream's epoch is not"):
        Config(data=data, checkpoint=Checkpoint(every="1 epochs"))
    for every in ("5 steps", "1M tokens", "10%", "15 minutes", None):
        Config(data=data, checkpoint=Checkpoint(every=every))
