"""Each rank's share of each step, prepared in a thread while the step before it is computed."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from warmup.errors import UserError
from warmup.training import tasks
from warmup.training.data import order
from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import MicroBatch, pin_memory, zero_weight
from warmup.training.data.samples import Samples, StepSamples
from warmup.training.data.streaming.stream import Stream
from warmup.training.models.input_layout import InputLayout


@dataclass(frozen=True)
class RankBatch:
    """What a rank computes of a step. drawn: samples of all ranks. own_positions: places in the step of its own.
    slots: its micro-batches, each with the number of its slot. token_ids: those in them, each once. most_token_ids: at
    least as many as any rank has. broken: why there is nothing of the step in it, where its samples cannot be read.
    """

    drawn: StepSamples
    own_positions: np.ndarray
    slots: list[tuple[int, MicroBatch]]
    token_ids: np.ndarray
    most_token_ids: int
    broken: str | None = None

    def total(self, what: str) -> int:
        """The sum of one of the micro-batches' counts."""
        return sum(getattr(batch, what) for _, batch in self.slots)


@dataclass
class BatchPrefetcher:
    """A rank's shares, by the position of the data stream that a step begins at: a pure function of it, so that the one
    after can be made before it is asked for. pinned: in memory that a GPU can read while something else goes on.
    """

    samples: Samples | Stream
    task: tasks.Task
    reading: InputLayout
    seed: int
    global_batch_size: int
    slots: int
    rank: int
    world_size: int
    pinned: bool = False
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "shares"))
    _next: tuple[int, Future[RankBatch]] | None = None

    def take(self, drawn: int) -> RankBatch:
        """The share of the step that begins at this position; that of the step after it is begun."""
        if self._next is None or self._next[0] != drawn:
            self._next = drawn, self._thread.submit(self.make, drawn)
        share = self._next[1].result()
        following = drawn + self.global_batch_size
        self._next = following, self._thread.submit(self.make, following)
        return share

    def make(self, drawn: int) -> RankBatch:
        """Draw the step's samples, deal them to all slots, and read and mask those of this rank's."""
        try:
            step = self.samples.draw(drawn, self.global_batch_size, self.seed)
        except UserError as error:  # it is said where all ranks can hear it
            return self._broken(str(error))
        dealt = order.deal(step.lengths, self.slots)
        own = order.rank_micro_batches(dealt, self.rank, self.world_size)
        slots = [(slot, self._of_slot(step, members)) for slot, members in own]
        token_ids = np.unique(np.concatenate([batch.inputs["input_ids"].numpy().ravel() for _, batch in slots]))
        tokens_of_slots = [step.lengths[members].sum() for members in dealt]
        tokens_of_ranks = np.bincount(np.arange(len(dealt)) % self.world_size, tokens_of_slots)
        most = int(tokens_of_ranks.max() + step.lengths[0]) + 1  # what has no weight, and padding
        return RankBatch(step, np.concatenate([members for _, members in own]), slots, token_ids, most)

    def any(self) -> MicroBatch:
        """Some micro-batch, of one sample."""
        return self._micro_batch(np.full(1, self.samples.first), np.zeros(1, np.int64))

    def _broken(self, reason: str) -> RankBatch:
        """As many micro-batches as any rank has, without weight, so that no rank waits for this one's."""
        nothing = np.zeros(0, np.int64)
        own = order.rank_micro_batches([nothing] * self.slots, self.rank, self.world_size)
        slots = [(slot, zero_weight(self.any())) for slot, _ in own]
        return RankBatch(StepSamples(nothing, nothing, nothing), nothing, slots, nothing, 0, reason)

    def _of_slot(self, step: StepSamples, members: np.ndarray) -> MicroBatch:
        if not len(members):
            return zero_weight(self._micro_batch(step.indices[:1], step.epochs[:1]))
        return self._micro_batch(step.indices[members], step.epochs[members])

    def _micro_batch(self, indices: np.ndarray, epochs: np.ndarray) -> MicroBatch:
        batch = lay_out(self.task.collate(self.samples, indices, epochs, self.seed), self.reading)
        return pin_memory(batch) if self.pinned else batch
