"""A rank's batches: a pure function of the position in the data stream, built one step ahead."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from operator import attrgetter

import numpy as np
import pytest
import torch

from warmup.config.recipe import Recipe
from warmup.errors import UserError
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.training.data import order
from warmup.training.data.batching import prefetcher as prefetcher_module
from warmup.training.data.batching.micro_batch import MicroBatch, sequence_targets
from warmup.training.data.batching.prefetcher import BatchPrefetcher, Collate, RankBatch, build_ahead
from warmup.training.data.samples import IGNORE_INDEX, Samples, StepSamples
from warmup.training.models.input_layout import InputLayout

LENGTHS = np.random.default_rng(0).integers(3, 40, 101)


LAYOUT = InputLayout(head="sequence", logits="positions", positions_in="head", rows=True)
PADDED = InputLayout(head="sequence")


def collate(samples: Samples, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
    """One token per sample, whose id tells sample and epoch."""
    ids = torch.from_numpy(indices * 10 + epochs)[:, None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch = sequence_targets(inputs, np.ones(len(ids), np.int64))
    return replace(batch, token_count=int(samples.lengths[indices].sum()))


def prefetcher(
    rank: int = 0, world_size: int = 1, micro_batches: int = 1, size: int = 8, collate_: Collate = collate
) -> BatchPrefetcher:
    """A rank's prefetcher for steps of `size` samples in so many micro-batches of all ranks."""
    plan_ranks = min(world_size, size)
    topology = Topology(plan_ranks, size, micro_batches // plan_ranks, size)
    plan = make_plan(Recipe(scaling="none", duration="1 epoch", warmup="0 steps"), topology, len(LENGTHS))
    return BatchPrefetcher(Samples(table=None, lengths=LENGTHS), collate_, LAYOUT, 3, plan, rank, world_size)


def ids(rank_batch: RankBatch) -> list[int]:
    return [number for _, batch in rank_batch.micro_batches for number in batch.inputs["input_ids"].flatten().tolist()]


@pytest.mark.parametrize(("world_size", "micro_batches"), [(1, 1), (2, 2), (2, 4), (3, 3), (3, 6)])
def test_all_ranks_together_take_the_streams_next_samples(world_size: int, micro_batches: int) -> None:
    ranks = [prefetcher(rank, world_size, micro_batches) for rank in range(world_size)]
    for position in range(0, 240, 8):  # over two ends of epochs
        indices, epochs = order.step_samples(position, 8, 101, 3)
        rank_batches = [rank.next(position, position) for rank in ranks]
        assert sorted(number for one in rank_batches for number in ids(one)) == sorted((indices * 10 + epochs).tolist())
        assert sorted(member for one in rank_batches for member in one.own_positions) == list(range(8))
        numbers = [number for one in rank_batches for number, _ in one.micro_batches]
        assert sorted(numbers) == list(range(micro_batches))
        for one in rank_batches:
            assert one.step_samples.indices.tolist() == indices.tolist()
            assert ids(one) == (indices * 10 + epochs)[one.own_positions].tolist()
            assert one.token_ids().tolist() == sorted(set(ids(one))) and one.error is None
            assert one.max_token_ids == rank_batches[0].max_token_ids >= len(one.token_ids())
        assert sum(one.total(attrgetter("target_count")) for one in rank_batches) == 8
        assert sum(one.total(attrgetter("token_count")) for one in rank_batches) == LENGTHS[indices].sum()


@pytest.mark.parametrize(("world_size", "micro_batches"), [(1, 2), (2, 2), (2, 4)])
def test_samples_that_are_padded_are_dealt_by_length(world_size: int, micro_batches: int) -> None:
    """Into the same micro-batches on any number of ranks, of which each has equally many."""
    ranks = [replace(prefetcher(rank, world_size, micro_batches), layout=PADDED) for rank in range(world_size)]
    rank_batches = [rank.next(16, 16) for rank in ranks]
    assert len({len(one.micro_batches) for one in rank_batches}) == 1
    dealt = order.deal_by_length(rank_batches[0].step_samples.lengths, micro_batches)
    computed = sorted((number, batch) for one in rank_batches for number, batch in one.micro_batches)
    assert [batch.target_count for _, batch in computed] == [len(members) for members in dealt]


def test_a_rank_without_samples_computes_one_of_zero_weight() -> None:
    rank_batch = prefetcher(rank=1, world_size=2, micro_batches=2, size=1).next(0, 0)
    assert len(rank_batch.own_positions) == 0 and [index for index, _ in rank_batch.micro_batches] == [1]
    (batch,) = [batch for _, batch in rank_batch.micro_batches]
    assert (batch.target_count, batch.token_count, batch.padded_tokens) == (0, 0, 1)
    assert batch.targets.tolist() == [IGNORE_INDEX]


def test_the_next_step_is_built_while_this_one_is_computed() -> None:
    built = []
    two = threading.Semaphore(0)

    def recording(samples: Samples, indices: np.ndarray, *rest: object) -> MicroBatch:
        built.append((indices.tolist(), threading.current_thread() is threading.main_thread()))
        two.release()
        return collate(samples, indices, *rest)

    ahead = prefetcher(collate_=recording)
    ahead.next(0, 0)
    for _ in range(2):
        assert two.acquire(timeout=10)  # nobody requested the second
    assert [sorted(indices) for indices, _ in built] == [
        sorted(order.step_samples(position, 8, 101, 3)[0].tolist()) for position in (0, 8)
    ]
    assert not any(in_main for _, in_main in built)
    ahead.next(8, 8)
    assert two.acquire(timeout=10)
    assert len(built) == 3  # the second was not built again


def test_for_a_gpu_the_next_step_is_built_when_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and the same batch."""
    monkeypatch.setattr(prefetcher_module, "pin_memory", lambda batch: batch)
    built = []

    def recording(samples: Samples, indices: np.ndarray, *rest: object) -> MicroBatch:
        built.append(indices.tolist())
        return collate(samples, indices, *rest)

    ahead = replace(prefetcher(collate_=recording), for_gpu=True)
    ahead.next(0, 0)
    time.sleep(0.1)
    assert len(built) == 1
    ahead.begin_next()
    ahead.begin_next()
    assert ids(ahead.next(8, 8)) == ids(prefetcher().build(8, 8)) and len(built) == 2
    ahead.begin_next()
    assert ids(ahead.next(80, 80)) == ids(prefetcher().build(80, 8))  # another than was begun


def test_batches_of_items_are_built_one_ahead_in_a_thread() -> None:
    """Each once and in order; what fails is raised where its batch is taken."""
    built = []
    second = threading.Event()

    def build(item: int) -> MicroBatch:
        built.append((item, threading.current_thread() is threading.main_thread()))
        if item == 1:
            second.set()
        if item == 3:
            raise OSError("the disk is gone")
        ids = torch.full((1, 1), item)
        return sequence_targets({"input_ids": ids, "attention_mask": ids}, np.ones(1, np.int64))

    batches = build_ahead(range(4), build, torch.device("cpu"))
    assert next(batches).input_ids.item() == 0 and second.wait(10)  # nobody has taken it
    assert [next(batches).input_ids.item() for _ in range(2)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert built == [(item, False) for item in range(4)]
    assert list(build_ahead([], build, torch.device("cpu"))) == []


def test_it_may_go_to_any_position() -> None:
    ahead = prefetcher()
    for position in (0, 80, 16, 16, 24):
        assert (
            ids(ahead.next(position, position))
            == ids(prefetcher().next(position, position))
            == ids(prefetcher().build(position, 8))
        )


def test_a_step_of_another_size_is_built_anew() -> None:
    """The batch grows from 2 to 8 over 24 samples of applied steps; a skipped step's size comes again."""
    topology = Topology(2, 4, 2, 8, "24 samples", 2)
    recipe = Recipe(scaling="none", duration="1 epoch", warmup="0 steps")
    ahead = replace(prefetcher(), plan=make_plan(recipe, topology, len(LENGTHS)))
    for position, samples, size in ((0, 0, 2), (2, 2, 2), (4, 4, 3), (7, 4, 3), (10, 7, 3), (13, 10, 4), (99, 96, 8)):
        rank_batch = ahead.next(position, samples)
        assert rank_batch.step_samples.indices.tolist() == order.step_samples(position, size, 101, 3)[0].tolist()
        assert [index for index, _ in rank_batch.micro_batches] == [0, 1, 2, 3]  # some of them empty


def test_an_error_while_building_is_raised_where_the_batch_is_requested() -> None:
    def broken(samples: Samples, indices: np.ndarray, *rest: object) -> MicroBatch:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        prefetcher(collate_=broken).next(0, 0)


def test_samples_that_cannot_be_read_give_batches_of_zero_weight() -> None:
    """As many as without the error, so that no rank waits for another; the reason goes along."""

    class Unreadable(Samples):
        def step_samples(self, *arguments: object) -> StepSamples:
            raise UserError("data.train_files: gone")

    ahead = prefetcher(rank=1, world_size=2, micro_batches=4)
    ahead.samples = Unreadable(table=None, lengths=LENGTHS)
    rank_batch = ahead.next(0, 0)
    assert rank_batch.error == "data.train_files: gone" and len(rank_batch.own_positions) == 0
    assert [index for index, _ in rank_batch.micro_batches] == [1, 3]
    for count in ("target_count", "token_count"):
        assert rank_batch.total(attrgetter(count)) == 0
    assert all(batch.targets.tolist() == [IGNORE_INDEX] for _, batch in rank_batch.micro_batches)
