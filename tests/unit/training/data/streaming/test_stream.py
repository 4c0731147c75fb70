"""A corpus that is tokenized while it is streamed: each document once an epoch, from any state, in bounded memory."""

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
from made_rows import prepared

from warmup.config import Config
from warmup.config.data import Data
from warmup.config.run import Checkpoint
from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data import sources
from warmup.training.data.prepare import open_training_stream
from warmup.training.data.samples import StepSamples
from warmup.training.data.streaming import chunk_cache
from warmup.training.data.streaming.documents import StreamState
from warmup.training.data.streaming.stream import Stream
from warmup.training.tasks import create_task

LIMIT, CHUNK = 8, 7
SHARDS = (12, 9, 15)  # documents


def text(number: int) -> str:
    """A document of one to three windows; its words tell which one it is."""
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
    fields = {"shuffle_buffer": CHUNK, "max_length": LIMIT, "tokenizer": str(folder / "tokenizer")}
    fields |= {"validation_files": (str(folder / "held_out.txt"),), **data}
    return Config(seed=seed, data=Data(train_files=files, streaming=True, **fields))


def opened(config_: Config, stream_state: dict | None = None) -> Stream:
    return open_training_stream(config_, create_task(config_), prepared(config_), stream_state).train


def steps(source: Stream, count: int, start: int = 0, seed: int = 0) -> Iterator[StepSamples]:
    while True:
        yield source.step_samples(start, count, seed)
        start += count


def documents(source: Stream, step: StepSamples) -> list[int]:
    """The document that each sample comes from."""
    ids_BT, mask_BT, _ = source.gather(step.indices)
    assert mask_BT.sum(1).tolist() == step.lengths.tolist()
    return [int(row[1]) - 5 for row in ids_BT]  # after the special tokens comes w0


def epochs_of(source: Stream, epochs: int, count: int = 10, seed: int = 0) -> list[list[int]]:
    """The documents of full epochs, in the order of the stream."""
    result: list[list[int]] = [[] for _ in range(epochs + 1)]
    for step in steps(source, count, seed=seed):
        for epoch, document in zip(step.epochs, documents(source, step), strict=True):
            result[min(epoch, epochs)].append(document)
        if step.epochs.min() >= epochs:
            return result[:epochs]
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


def test_shards_are_read_in_another_order_each_epoch_and_chunks_are_shuffled(corpus: list[str]) -> None:
    shard_of = np.repeat([0, 1, 2], SHARDS)
    orders = set()
    for epoch in epochs_of(opened(config(*corpus, shuffle_buffer=1)), 8):
        assert epoch == sorted(epoch, key=lambda document: epoch.index(document))  # a document's windows lie together
        orders.add(tuple(dict.fromkeys(int(shard_of[document]) for document in epoch)))
        for shard in range(3):
            of_shard = [document for document in epoch if shard_of[document] == shard]
            assert of_shard == sorted(of_shard)
    assert len(orders) > 2
    (mixed,) = epochs_of(opened(config(*corpus, shuffle_buffer=1000)), 1)
    assert sum(shard_of[a] != shard_of[b] for a, b in pairwise(mixed)) > 15


def test_the_stream_is_the_same_in_steps_of_any_size_and_from_any_state(corpus: list[str]) -> None:
    config_ = config(*corpus)
    reference = opened(config_)
    samples, documents_, states = [], [], []
    for step, _ in zip(steps(reference, 1), range(170), strict=False):  # two epochs and a half
        samples.append((int(step.indices[0]), int(step.epochs[0]), int(step.lengths[0])))
        documents_.append(documents(reference, step)[0])
        states.append(json.loads(json.dumps(step.stream_state)))
    ids = [sample_id for sample_id, _, _ in samples[:140]]
    assert sorted(ids) == sorted(set(ids))
    assert [state["consumed_samples"] for state in states] == sorted(state["consumed_samples"] for state in states)
    assert {state["epoch"] for state in states} == {0, 1, 2}
    for count in (3, 40):
        source = opened(config_)
        for start, step in zip(range(0, 170 - count, count), steps(source, count), strict=False):
            part = slice(start, start + count)
            assert list(zip(*(column.tolist() for column in step[:3]), strict=True)) == samples[part]
            assert documents(source, step) == documents_[part]
            assert step.stream_state == states[start + count - 1]
    for start in (1, 5, 20, 33, 77, 100, 150):  # consumed samples: within a chunk, a shard, an epoch
        resumed = opened(config_, states[start - 1])
        step = resumed.step_samples(start, 15, 0)
        assert list(zip(*(column.tolist() for column in step[:3]), strict=True)) == samples[start : start + 15]
        assert documents(resumed, step) == documents_[start : start + 15]


def test_a_state_is_saved_as_json_and_older_names_are_read(corpus: list[str]) -> None:
    state = opened(config(*corpus)).step_samples(0, 40, 0).stream_state
    assert state is not None and state["chunk"] and state["consumed_samples"]
    assert list(state) == ["epoch", "shard", "row", "bad_rows", "chunk", "consumed_samples"]
    assert StreamState.from_dict(state).to_dict() == state
    older = {{"chunk": "block", "consumed_samples": "drawn"}.get(name, name): state[name] for name in state}
    assert older != state and StreamState.from_dict(older) == StreamState.from_dict(state)
    assert StreamState.from_dict({"epoch": 2}) == StreamState(epoch=2)
    first, second = (opened(config(*corpus), each).step_samples(40, 10, 0) for each in (state, older))
    assert first.indices.tolist() == second.indices.tolist() and first.stream_state == second.stream_state


def test_it_holds_a_few_chunks_and_their_files(corpus: list[str], tmp_path: Path) -> None:
    source = opened(config(*corpus))
    folder = prepared(config(*corpus)).folder / "chunks"
    most = 0
    for step, _ in zip(steps(source, 6), range(60), strict=False):
        assert step.stream_state["chunk"] == source._held[-1].state.chunk
        source._next_chunk.result()
        most = max(most, len(source._held) + len(list(folder.glob("*.arrow"))))
        assert source.first_id <= step.stream_state["consumed_samples"] + 6
    assert most <= 7  # a step of 6 lies in at most 3 chunks, and one is prepared ahead
    source.close()
    assert [path.name for path in folder.iterdir()] == ["lock"]
    with pytest.raises(ValueError, match="does not go back"):
        source.step_samples(0, 6, 0)


def test_files_of_a_run_that_was_killed_are_removed(corpus: list[str]) -> None:
    folder = prepared(config(*corpus)).folder / "chunks"
    folder.mkdir()
    for name in ("old.arrow", "old.stage", "new.arrow"):
        (folder / name).write_text("half")
        if name != "new.arrow":
            os.utime(folder / name, (0, 0))
    opened(config(*corpus)).close()
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "new.arrow"]


def test_one_process_tokenizes_for_all(corpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = chunk_cache.ChunkCache._write

    def counted(self: chunk_cache.ChunkCache, texts: list[str], file: Path) -> None:
        written.append(len(texts))
        write(self, texts, file)

    monkeypatch.setattr(chunk_cache.ChunkCache, "_write", counted)
    config_ = config(*corpus)
    ranks = [opened(config_) for _ in range(3)]
    for first, second, third in zip(*(steps(rank, 5) for rank in ranks), strict=True):
        assert first.indices.tolist() == second.indices.tolist() == third.indices.tolist()
        assert documents(ranks[0], first) == documents(ranks[2], third)
        for rank in ranks:  # the others have a chunk before the fastest one drops it
            rank._next_chunk.result()
        if first.stream_state["epoch"]:
            break
    assert sum(written) <= sum(SHARDS) + 2 * CHUNK + CHUNK
    # A file that is lost or damaged is written again.
    path = ranks[0]._held[0].file
    path.write_bytes(path.read_bytes()[:100])
    for rank in ranks:
        rank.close()
    assert documents(fresh := opened(config_), step := fresh.step_samples(0, 5, 0)) and len(step.indices) == 5


def test_ids_are_counted_over_all_epochs(corpus: list[str]) -> None:
    """So each epoch has masks of its own."""
    source = opened(config(*corpus))
    size = WINDOWS.total()
    ids = np.concatenate([step.indices for step, _ in zip(steps(source, size), range(3), strict=False)])
    assert sorted(ids.tolist()) == list(range(3 * size))


# Rows that are skipped, and errors


def test_bad_rows_are_named_once_and_limited(corpus: list[str], tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "w1"}\n{"text": 7}\n{"text": "w2"}\n{"text": " "}\n{"text": "w3"}\n')
    source = opened(config(corpus[0], str(tmp_path / "d.jsonl"), max_bad_rows=2, shuffle_buffer=1))
    skipped, states = [], []
    for step in steps(source, 1):
        skipped += step.skipped_rows
        states.append(step.stream_state)
        if step.stream_state["epoch"] == 2:
            break
    name = tmp_path / "d.jsonl"
    assert skipped == [f"{name}:2: 'text' is not a string", f"{name}:4: 'text' is blank"]
    strict = config(corpus[0], str(tmp_path / "d.jsonl"), max_bad_rows=1, shuffle_buffer=1)
    between_them = next(state for state in states if state["bad_rows"] == 1)
    for state in (None, between_them, next(state for state in states if state["epoch"] == 1)):
        with pytest.raises(UserError, match="2 bad rows so far, and --data.max_bad_rows allows 1.*d.jsonl:4"):
            for _ in zip(
                steps(source := opened(strict, state), 4, state["consumed_samples"] if state else 0), range(40)
            ):
                source._next_chunk.result()


def test_bad_rows_at_the_end_of_an_epoch_are_named(corpus: list[str], tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes(b"w1 w2\nw3\n\xff\n")
    source = opened(config(str(tmp_path / "d.txt"), shuffle_buffer=2))
    skipped = [step.skipped_rows for step, _ in zip(steps(source, 1), range(7), strict=False)]
    assert [len(rows) for rows in skipped] == [0, 0, 1, 0, 0, 0, 0] and "d.txt:3: not UTF-8" in skipped[2][0]


def test_a_shard_that_vanishes_or_is_truncated_is_named(corpus: list[str]) -> None:
    for name, damage in ((corpus[0], os.remove), (corpus[1], lambda file: os.truncate(file, 60))):
        source = opened(config(*corpus, shuffle_buffer=1))
        content = Path(name).read_bytes()
        damage(name)
        with pytest.raises(UserError, match=f"{name}") as caught:
            for _ in steps(source, 3):
                pass
        with pytest.raises(UserError) as again:
            source.step_samples(source._held[-1].end, 3, 0)
        assert str(again.value) == str(caught.value)
        assert len(source.gather(np.array([source.first_id]))[0]) == 1  # what is held can still be read
        Path(name).write_bytes(content)


@pytest.mark.timeout(60)
def test_a_corpus_without_a_token_ends(corpus: list[str], tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("\u200b\n" * 20)
    with pytest.raises(UserError, match="data: no token in the train texts"):
        opened(config(str(nothing)))
    good = config(*corpus)
    without_tokens = dataclasses.replace(
        prepared(good), sources=sources.resolve([str(nothing)], [], TASKS["mlm"], True)[0]
    )
    with pytest.raises(UserError, match="data: no token in the training texts"):  # though its beginning had tokens
        open_training_stream(good, create_task(good), without_tokens, None)
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


# Preparation


def test_a_tokenizer_and_the_mean_length_are_of_the_first_documents(corpus: list[str], tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n".join(" ".join(WORDS[:12]) for _ in range(5)) + "\n" + WORDS[-1] * 3)
    config_ = config(str(tmp_path / "words.txt"), shuffle_buffer=5, tokenizer=None, vocab_size=150, max_length=16)
    data = prepared(config_)
    assert data.train.mean_length == 14
    vocabulary = data.tokenizer.get_vocab()
    assert WORDS[0] in vocabulary and WORDS[-1] not in vocabulary
    assert prepared(dataclasses.replace(config_, seed=3)).key == data.key


def test_what_the_key_depends_on(corpus: list[str], tmp_path: Path) -> None:
    """The size and both ends of a training file; the full content of a validation file."""
    train, held_out = tmp_path / "big.txt", tmp_path / "held_out.txt"
    lines = [f"w{number % 9} w1\n" for number in range(400_000)]

    def key(**data: object) -> str:
        train.write_text("".join(lines))
        return prepared(config(str(train), **data)).key

    original = key()
    lines[200_000] = "w8 w3\n"
    assert key() == original
    changed = {key(shuffle_buffer=8), key(max_length=9)}
    for number, line in ((0, "w7 w2\n"), (-1, "w7 w2\n"), (-1, "w7 w21\n")):
        lines[number] = line
        changed.add(key())
    held_out.write_text("w190 w191\n")
    changed.add(key())
    assert len(changed | {original}) == 7


def test_a_hub_data_set_is_streamed_by_shards(corpus: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub_cache")
    (tmp_path / "hub").mkdir()
    for number, part in enumerate(np.split(TEXTS, np.cumsum(SHARDS)[:-1])):
        (tmp_path / "hub" / f"train-{number}.jsonl").write_text(
            "".join(json.dumps({"n": 1, "text": text}) + "\n" for text in part)
        )
    (tmp_path / "hub" / "validation-0.jsonl").write_text('{"n": 1, "text": "w190"}\n')
    hub = f"hub:{tmp_path / 'hub'}"
    config_ = dataclasses.replace(config(f"{hub}:train"), model=str(tmp_path / "tokenizer"))
    held_out = (f"{hub}:validation",)
    data = dataclasses.replace(config_.data, tokenizer=str(tmp_path / "tokenizer"), validation_files=held_out)
    config_ = dataclasses.replace(config_, data=data)
    assert len(prepared(config_).validation) == 1
    source = opened(config_)
    assert [shard.shard for shard in source.corpus.shards] == [0, 1, 2]
    epochs = epochs_of(source, 2)
    assert [Counter(epoch) for epoch in epochs] == [WINDOWS] * 2 and epochs[0] != epochs[1]
    assert not list((tmp_path / "hub_cache").rglob("*.arrow"))  # nothing was copied
    state = opened(config_).step_samples(0, 30, 0).stream_state
    assert StreamState(**state).row
    resumed, uninterrupted = opened(config_, state), opened(config_)
    uninterrupted.step_samples(0, 30, 0)
    expected = documents(uninterrupted, uninterrupted.step_samples(30, 20, 0))
    assert documents(resumed, resumed.step_samples(30, 20, 0)) == expected
    (tmp_path / "hub" / "train-2.jsonl").write_text('{"n": 1, "text": "w1"}\n{"n')
    with pytest.raises(UserError, match=r"hub:train \(shard 3 of 3\) cannot be read: "):
        epochs_of(opened(config_), 1)


# Configurations


def test_configurations_that_are_refused() -> None:
    data = Data(train_files=("a.txt",), validation_files=("b.txt",), streaming=True)
    Config(data=data)
    for message, fields in (
        (
            "data.validation_files: needed with streaming, because no rows can be held out of a stream",
            {"validation_files": ()},
        ),
        ("data.shuffle_buffer: 0 is not 1 or above", {"shuffle_buffer": 0}),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(data, **fields)
    for task in ("classification", "regression"):
        message = f"data.streaming: is for the tasks mlm and clm, not for {task}; leave it out"
        with pytest.raises(ValueError, match=message):
            Config(task=task, data=data)
    with pytest.raises(ValueError, match="checkpoint.every: '1 epochs', but the length of a stream's epoch is not"):
        Config(data=data, checkpoint=Checkpoint(every="1 epochs"))
    for every in ("5 steps", "1M tokens", "10%", "15 minutes", None):
        Config(data=data, checkpoint=Checkpoint(every=every))
