"""A rank's share of a step: a pure function of the position, made one step ahead."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from warmup.training import tasks
from warmup.training.data import order
from warmup.training.data.batching.micro_batch import MicroBatch
from warmup.training.data.batching.prefetcher import BatchPrefetcher, RankBatch
from warmup.training.data.samples import IGNORE_INDEX, Samples
from warmup.training.models.input_layout import UNPACKED

LENGTHS = np.random.default_rng(0).integers(3, 40, 101)


def collate(samples: Samples, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
    """Ids tell sample and epoch."""
    ids = torch.from_numpy(indices * 10 + epochs)[:, None]
    return MicroBatch(
        {"input_ids": ids}, torch.ones(len(ids), dtype=torch.int64), len(ids), int(samples.lengths[indices].sum())
    )


def shares(rank: int = 0, world_size: int = 1, slots: int = 1, batch: int = 8, collate_=collate) -> BatchPrefetcher:
    task = tasks.Task(
        object, (), collate_, tasks.loss_sum, per_sample=False, results=torch.stack, metrics=lambda *parts: {}
    )
    return BatchPrefetcher(Samples(table=None, lengths=LENGTHS), task, UNPACKED, 3, batch, slots, rank, world_size)


def ids(share: RankBatch) -> list[int]:
    return [number for _, batch in share.slots for number in batch.inputs["input_ids"].flatten().tolist()]


@pytest.mark.parametrize(("world_size", "slots"), [(1, 1), (2, 2), (2, 4), (3, 3), (3, 6)])
def test_all_ranks_together_take_the_streams_next_samples(world_size: int, slots: int) -> None:
    ranks = [shares(rank, world_size, slots) for rank in range(world_size)]
    for drawn in range(0, 240, 8):  # over two ends of epochs
        indices, epochs = order.step_samples(drawn, 8, 101, 3)
        taken = [rank.take(drawn) for rank in ranks]
        assert sorted(number for share in taken for number in ids(share)) == sorted((indices * 10 + epochs).tolist())
        assert sorted(place for share in taken for place in share.own_positions) == list(range(8))
        for share in taken:
            assert share.drawn.indices.tolist() == indices.tolist()
            assert ids(share) == (indices * 10 + epochs)[share.own_positions].tolist()
        assert sum(share.total("target_count") for share in taken) == 8
        assert sum(share.total("token_count") for share in taken) == LENGTHS[indices].sum()


def test_a_rank_without_samples_computes_one_that_counts_nothing() -> None:
    share = shares(rank=1, world_size=2, slots=2, batch=1).take(0)
    assert len(share.own_positions) == 0 and [slot for slot, _ in share.slots] == [1]
    (batch,) = [batch for _, batch in share.slots]
    assert (batch.target_count, batch.token_count, batch.place_count) == (0, 0, 1)
    assert batch.targets.tolist() == [IGNORE_INDEX]


def test_the_next_step_is_made_while_this_one_is_computed() -> None:
    made = []
    two = threading.Semaphore(0)

    def noted(samples: Samples, indices: np.ndarray, *rest: object) -> MicroBatch:
        made.append((indices.tolist(), threading.current_thread() is threading.main_thread()))
        two.release()
        return collate(samples, indices, *rest)

    ahead = shares(collate_=noted)
    ahead.take(0)
    for _ in range(2):
        assert two.acquire(timeout=10)  # nobody asked for the second
    assert [sorted(indices) for indices, _ in made] == [
        sorted(order.step_samples(at, 8, 101, 3)[0].tolist()) for at in (0, 8)
    ]
    assert not any(in_main for _, in_main in made)
    ahead.take(8)
    assert two.acquire(timeout=10)
    assert len(made) == 3  # the second was not made again


def test_it_may_go_anywhere() -> None:
    ahead = shares()
    for drawn in (0, 80, 16, 16, 24):
        assert ids(ahead.take(drawn)) == ids(shares().take(drawn))


def test_what_goes_wrong_while_making_is_raised_where_it_is_asked_for() -> None:
    def broken(samples: Samples, indices: np.ndarray, *rest: object) -> MicroBatch:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        shares(collate_=broken).take(0)
