"""Ranks that prepare the same data at once: one does the work, the others wait and read what it wrote."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from harness import run_ranks, train

from warmup.config import Config
from warmup.config.data import Data
from warmup.training.data.prepare import CACHE_FORMAT, prepare_data
from warmup.training.tasks import create_task

RANKS = 3


@pytest.fixture
def config(documents: Path, tmp_path: Path) -> Config:
    files = (str(documents),)
    return Config(data=Data(train_files=files, max_length=24, vocab_size=200, cache_dir=str(tmp_path / "cache")))


def _note(path: Path, word: object) -> None:
    with open(path, "a") as file:
        file.write(f"{word}\n")


def _prepare(rank: int, config: Config, calls: Path, dies: int | None = None) -> tuple:
    """Prepare, noting which rank does the work. The rank `dies` is the first to start, and is killed on the way."""
    from warmup.training.data import prepare

    tokenize = prepare.tokenize_rows

    def slow(rows, task, tokenizer, labels, name):
        _note(calls, f"{rank} {name}")
        time.sleep(0.5)
        if rank == dies:
            time.sleep(1)  # the others wait by now
            os.kill(os.getpid(), signal.SIGKILL)
        return tokenize(rows, task, tokenizer, labels, name)

    prepare.tokenize_rows = slow
    while dies is not None and rank != dies and not calls.exists():
        time.sleep(0.01)
    data = prepare_data(config, create_task(config))
    ids_BT, _, _ = data.train.gather(np.arange(len(data.train)))
    return data.key, data.train.lengths.tolist(), ids_BT.tolist(), sorted(data.tokenizer.get_vocab().items())


def cached(key: str) -> list[str]:
    """What is left in a cache: a folder and its lock."""
    return [f"{key}-{CACHE_FORMAT}", f"{key}-{CACHE_FORMAT}.lock"]


def test_one_rank_tokenises_and_all_have_the_same(config: Config, tmp_path: Path) -> None:
    ranks = run_ranks(RANKS, _prepare, config, tmp_path / "calls")
    assert [rank.error for rank in ranks] == [None] * RANKS
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[1] for call in calls] == ["train", "validation"]
    assert len({call.split()[0] for call in calls}) == 1
    assert ranks[0].value == ranks[1].value == ranks[2].value
    key, lengths, ids, _ = ranks[0].value
    assert len(lengths) == len(ids) > 380 and max(lengths) == 24
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == cached(key)


def test_a_rank_that_dies_at_it_is_replaced(config: Config, tmp_path: Path) -> None:
    ranks = run_ranks(RANKS, _prepare, config, tmp_path / "calls", 0)
    assert ranks[0].exit_code == -signal.SIGKILL
    assert [rank.error for rank in ranks[1:]] == [None] * 2
    assert ranks[1].value == ranks[2].value and len(ranks[1].value[1]) > 380
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "0 train" and len(calls) == 3
    assert calls[1].split()[0] == calls[2].split()[0] != "0"
    key = ranks[1].value[0]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == cached(key)


def test_caches_of_several_machines_hold_the_same(config: Config, tmp_path: Path) -> None:
    """Ranks without a disk in common each train the tokenizer, and must train the same."""
    ranks = run_ranks(2, _prepare_on_a_disk_of_its_own, config, tmp_path)
    assert [rank.error for rank in ranks] == [None, None]
    assert [len((tmp_path / f"calls{rank}").read_text().splitlines()) for rank in range(2)] == [2, 2]
    assert ranks[0].value == ranks[1].value


def _prepare_on_a_disk_of_its_own(rank: int, config: Config, folder: Path) -> tuple:
    own = dataclasses.replace(config.data, cache_dir=str(folder / f"disk{rank}"))
    return _prepare(rank, dataclasses.replace(config, data=own), folder / f"calls{rank}")


def _on_own_disks(classification: tuple[str, ...], tmp_path: Path) -> list[list[str]]:
    """Arguments of two ranks that each have a copy of the files and a cache under a path of their own."""
    flags = dict(zip(classification[::2], classification[1::2], strict=True))
    arguments = []
    for rank in range(2):
        disk = tmp_path / f"disk{rank}"
        arguments.append(["--data.cache_dir", str(disk / "cache")])
        for flag in ("--data.train_files", "--data.validation_files"):
            path = disk / f"{flag[7:]}.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(Path(flags[flag]).read_bytes())
            arguments[-1] += [flag, str(path)]
    return arguments


def test_machines_may_keep_files_and_cache_under_paths_of_their_own(classification, tmp_path: Path) -> None:
    per_rank = _on_own_disks(classification, tmp_path)
    ended = train(2, tmp_path / "run", *classification, per_rank=per_rank)
    assert ended.codes == [0, 0], ended.status
    keys = [{path.name for path in (tmp_path / f"disk{rank}" / "cache").iterdir()} for rank in range(2)]
    assert keys[0] == keys[1] and len(keys[0]) == 2  # a folder and its lock: each prepared its own
    alike = train(2, tmp_path / "alike", *classification)
    assert ended.column("loss") == alike.column("loss") and len(alike.column("loss")) == 15


@pytest.mark.parametrize("flag", ["--data.train_files", "--data.validation_files"])
def test_files_that_are_not_alike_end_the_run(flag: str, classification, tmp_path: Path) -> None:
    per_rank = _on_own_disks(classification, tmp_path)
    path = Path(per_rank[1][per_rank[1].index(flag) + 1])
    path.write_text(path.read_text().replace("ran", "run", 1))  # as many rows and tokens
    ended = train(2, tmp_path / "run", *classification, per_rank=per_rank)
    assert ended.codes == [2, 2]
    assert ended.status["message"].startswith("ranks disagree on data: rank 0 has '"), ended.status
    assert not ended.folder.exists()


def test_bad_data_is_the_same_error_on_every_rank(config: Config, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("text,label\na,1\nb,1\n")
    data = dataclasses.replace(config.data, train_files=(str(tmp_path / "bad.csv"),))
    bad = dataclasses.replace(config, task="classification", data=data)
    for rank in run_ranks(RANKS, _prepare, bad, tmp_path / "calls"):
        assert rank.error.startswith("UserError: data.train_files: all rows have the label '1'")
    assert all(path.suffix == ".lock" for path in (tmp_path / "cache").iterdir())
