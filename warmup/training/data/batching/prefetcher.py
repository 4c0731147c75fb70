"""Each rank's part of each step, prepared in a thread while the step before it is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import torch

from warmup.errors import UserError
from warmup.plan import Plan
from warmup.training.data import order
from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import MicroBatch, pin_memory, zero_weight
from warmup.training.data.samples import SampleSource, StepSamples
from warmup.training.models.input_layout import InputLayout

# Tokens that a GPU computes in the time that the host needs to start a pass of a model of 12 layers. (Not measured.)
_SPARE_ON_GPU = 4096
Item = TypeVar("Item")


class Collate(Protocol):
    """What makes a micro-batch of samples. What is random about it is keyed by (seed, epoch, sample)."""

    def __call__(self, samples: SampleSource, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch: ...


def build_ahead(
    items: Iterable[Item], build: Callable[[Item], MicroBatch], device: torch.device
) -> Iterator[MicroBatch]:
    """Yield a micro-batch for each item, built in a thread while the one before it is computed.

    Args:
        items: what micro-batches are built of.
        build: called once for each.
        device: for a GPU, they are put into memory that it can read by itself.
    """

    def built(item: Item) -> MicroBatch:
        batch = build(item)
        return pin_memory(batch) if device.type == "cuda" else batch

    with ThreadPoolExecutor(1, "prefetcher") as thread:
        coming = None
        for item in items:
            ready, coming = coming, thread.submit(built, item)
            if ready:
                yield ready.result()
        if coming:
            yield coming.result()


@dataclass(frozen=True)
class RankBatch:
    """What one rank computes of a step."""

    step_samples: StepSamples
    """Those of all ranks."""
    own_positions: np.ndarray
    """Which of them are this rank's: positions within the step."""
    micro_batches: list[tuple[int, MicroBatch]]
    """This rank's, each with its index among those of all ranks."""
    max_token_ids: int
    """At least as many as any rank has: the same on all ranks."""
    error: str | None = None
    """Why the step's samples could not be read. Then there is nothing in it."""

    def token_ids(self) -> np.ndarray:
        """The token ids in them, each once. It takes a millisecond, and only CPU ranks need it."""
        return np.unique(np.concatenate([batch.input_ids.numpy().ravel() for _, batch in self.micro_batches]))

    def total(self, count: Callable[[MicroBatch], int]) -> int:
        """The sum of one of the micro-batches' counts."""
        return sum(count(batch) for _, batch in self.micro_batches)


@dataclass
class BatchPrefetcher:
    """A rank's batches, by the position in the data stream at which their step begins, and its number of samples.

    They are a pure function of these, so that the next one can be built before it is asked for.
    """

    samples: SampleSource
    collate: Collate
    layout: InputLayout
    seed: int
    plan: Plan
    rank: int = 0
    world_size: int = 1
    """Ranks that there are. (The plan may be one for more ranks, which these simulate.)"""
    by_length: bool = True
    """Deal samples that are padded by their lengths; else each micro-batch is like the step as a whole."""
    for_gpu: bool = False
    """Put batches into memory that a GPU can read by itself, and wait with the next step's for `begin_next`."""
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "prefetcher"))
    _next: tuple[tuple[int, int], Future[RankBatch]] | None = None
    _following: tuple[int, int] = (0, 0)
    """Position and number of samples of the step after the one that was asked for last."""

    def next(self, position: int, samples: int) -> RankBatch:
        """The batch of a step. On CPUs that of the step after it is begun; on GPUs `begin_next` does it.

        Args:
            position: in the data stream, at which the step begins.
            samples: samples of the steps applied so far, which say how many the step has.
        """
        count = self.plan.batch_at(samples)
        if self._next is None or self._next[0] != (position, count):  # the first one, or after a skipped step
            self._next = (position, count), self._thread.submit(self.build, position, count)
        rank_batch = self._next[1].result()
        self._following = position + count, self.plan.batch_at(samples + count)
        if not self.for_gpu:
            self.begin_next()
        return rank_batch

    def begin_next(self) -> None:
        """Begin the batch of the step after the one that was asked for last, unless it is begun already.

        On GPUs, call this when the device has work to do: until then the thread would compete with the one that
        launches kernels for Python's lock, and the device would wait.
        """
        if self._next is None or self._next[0] != self._following:
            self._next = self._following, self._thread.submit(self.build, *self._following)

    def build(self, position: int, count: int) -> RankBatch:
        """Take `count` samples, deal them into micro-batches, and collate those of this rank.

        The number of micro-batches is the same for any number of samples: what is random is keyed by their index.
        """
        try:
            step = self.samples.step_samples(position, count, self.seed)
        except UserError as error:  # it is raised where all ranks can hear it
            return self._failed(str(error))
        dealt = self._deal(step)
        own = order.rank_micro_batches(dealt, self.rank, self.world_size)
        micro_batches = [(index, self._micro_batch_of(step, members)) for index, members in own]
        tokens_by_micro_batch = [step.lengths[members].sum() for members in dealt]
        tokens_by_rank = np.bincount(np.arange(len(dealt)) % self.world_size, tokens_by_micro_batch)
        max_token_ids = int(tokens_by_rank.max() + step.lengths[0]) + 1  # samples of zero weight, and padding
        own_positions = np.concatenate([members for _, members in own])
        return RankBatch(step, own_positions, micro_batches, max_token_ids)

    def dummy_batch(self) -> MicroBatch:
        """A micro-batch of one sample."""
        return self._micro_batch(np.full(1, self.samples.first_id), np.zeros(1, np.int64))

    def _deal(self, step: StepSamples) -> list[np.ndarray]:
        """The positions in the step of each micro-batch's samples."""
        # A rank that cannot read a stream knows no lengths, and has to have as many micro-batches as the others.
        if not self.by_length or self.layout.rows or step.stream_state is not None:
            return order.deal(step.lengths, self._micro_batch_count)
        spare = _SPARE_ON_GPU if self.for_gpu else 0
        return order.deal_by_length(step.lengths, self._micro_batch_count, spare)

    @property
    def _micro_batch_count(self) -> int:
        """Of all ranks."""
        return self.plan.world_size * self.plan.accumulation

    def _failed(self, reason: str) -> RankBatch:
        """As many micro-batches as any rank has, of zero weight, so that no rank waits for this one's."""
        nothing = np.zeros(0, np.int64)
        own = order.rank_micro_batches([nothing] * self._micro_batch_count, self.rank, self.world_size)
        micro_batches = [(index, zero_weight(self.dummy_batch())) for index, _ in own]
        return RankBatch(StepSamples(nothing, nothing, nothing), nothing, micro_batches, 0, reason)

    def _micro_batch_of(self, step: StepSamples, members: np.ndarray) -> MicroBatch:
        if not len(members):
            return zero_weight(self._micro_batch(step.indices[:1], step.epochs[:1]))
        return self._micro_batch(step.indices[members], step.epochs[members])

    def _micro_batch(self, indices: np.ndarray, epochs: np.ndarray) -> MicroBatch:
        batch = lay_out(self.collate(self.samples, indices, epochs, self.seed), self.layout)
        return pin_memory(batch) if self.for_gpu else batch
