"""The watchdog: which rank is late, and that the job ends when one is and not before."""

from __future__ import annotations

import ctypes
import inspect
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from harness import gloo, run_ranks
from torch.distributed import HashStore
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SubprocessContext

from warmup.training.distributed import exit_status, watchdog
from warmup.training.distributed.preemption import PreemptionHandler
from warmup.training.distributed.watchdog import RankReport, Watchdog, find_late_rank

COUNT, SUM = "the count of targets", "the sum of gradients"


def reports(*ranks: tuple[RankReport, int, int]) -> tuple[list[RankReport], list[RankReport]]:
    """Reports of all ranks at two times, from each rank's first report and the increase of its beats and progress."""
    before = [report for report, _, _ in ranks]
    now = [
        replace(report, beats=report.beats + beats, progress=report.progress + progress)
        for report, beats, progress in ranks
    ]
    return before, now


def waiting(consumed_samples: int = 64, progress: int = 20, phase: str = COUNT) -> RankReport:
    return RankReport(100, progress, consumed_samples, True, phase)


def working(consumed_samples: int = 64, progress: int = 19, phase: str = "the forward pass") -> RankReport:
    return RankReport(100, progress, consumed_samples, False, phase)


# Which rank


def test_a_silent_rank_is_stopped_or_gone() -> None:
    message = find_late_rank(*reports((waiting(), 3, 0), (working(), 0, 0), (waiting(), 3, 0)), 20)
    assert message == "rank 1 does not answer: stopped, or its machine is gone; last seen at the forward pass"


def test_several_silent_ranks() -> None:
    message = find_late_rank(*reports((working(), 0, 0), (waiting(), 3, 0), (waiting(phase=SUM), 0, 0)), 20)
    assert message == "rank 0, 2 does not answer: stopped, or its machine is gone; last seen at the forward pass"


def test_a_silent_rank_is_named_before_a_late_one() -> None:
    message = find_late_rank(*reports((waiting(96), 0, 0), (working(32), 3, 0)), 20)
    assert message.startswith("rank 0 does not answer")


def test_a_rank_that_never_spoke_is_silent() -> None:
    message = find_late_rank(*reports((waiting(), 3, 0), (RankReport(), 0, 0)), 20)
    assert message == "rank 1 does not answer: stopped, or its machine is gone; last seen at the start"


def test_the_rank_that_does_not_wait_is_late() -> None:
    ranks = [(waiting(progress=5), 3, 0), (working(progress=900), 3, 0), (waiting(progress=5), 3, 0)]
    expected = "rank 1 has made no progress for 20 s, at the forward pass; the others wait for it"
    assert find_late_rank(*reports(*ranks), 20.4) == expected


def test_the_rank_that_is_least_far_is_late() -> None:
    """Whatever the others are doing: they have consumed more samples."""
    message = find_late_rank(
        *reports((waiting(96), 3, 0), (working(96), 3, 0), (working(64, phase="the data"), 3, 0)), 7
    )
    assert message == "rank 2 has made no progress for 7 s, at the data; the others wait for it"


def test_a_rank_that_is_a_step_behind_is_late_also_where_it_waited_last() -> None:
    """What it waited for is over, as the others are further; it has not reached its next heartbeat."""
    message = find_late_rank(*reports((waiting(96, 20), 3, 0), (waiting(64, 18, SUM), 3, 0)), 7)
    assert message == "rank 1 has made no progress for 7 s, at the sum of gradients; the others wait for it"


def test_at_the_same_position_the_rank_with_fewer_heartbeats_is_late() -> None:
    message = find_late_rank(*reports((working(progress=19), 3, 0), (working(progress=17, phase="the data"), 3, 0)), 7)
    assert message == "rank 1 has made no progress for 7 s, at the data; the others wait for it"


def test_where_all_wait_it_is_nobodys_fault() -> None:
    message = find_late_rank(*reports((waiting(progress=21), 3, 0), (waiting(progress=20, phase=SUM), 3, 0)), 20)
    assert message == "all ranks wait for each other, rank 1 at the sum of gradients; is the network down?"


def test_a_rank_that_still_moves_is_only_slow() -> None:
    assert find_late_rank(*reports((waiting(), 3, 0), (working(), 3, 1)), 20) is None
    # Progress of another rank does not count.
    assert find_late_rank(*reports((waiting(), 3, 1), (working(), 3, 0)), 20) is not None


@pytest.mark.parametrize("progress", [19, 20, 900])
def test_a_rank_that_has_just_arrived_is_not_late(progress: int) -> None:
    """A slow rank that all waited for now waits itself: they go on in a moment, however many heartbeats it has made."""
    before = [waiting(), working(progress=progress - 1)]
    now = [replace(before[0], beats=103), replace(before[1], beats=103, progress=progress, waits=True, phase=COUNT)]
    assert find_late_rank(before, now, 20) is None


def test_where_none_answers_the_store_is_at_fault_and_not_a_rank() -> None:
    message = find_late_rank(*reports((waiting(), 0, 0), (working(), 0, 0)), 20)
    assert message is None or "does not answer" not in message


# The watchdog


class Other:
    """Another rank, whose report in the store is what a test sets."""

    def __init__(self, store: HashStore, rank: int):
        self.store, self.rank, self.report = store, rank, RankReport()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def is_at(self, report: RankReport) -> Other:
        self.report = report
        self.tell()
        return self

    def tell(self) -> None:
        self.report = replace(self.report, beats=self.report.beats + 1)
        report = self.report
        said = [report.beats, report.progress, report.consumed_samples, report.waits, report.phase]
        self.store.set(f"watchdog/{self.rank}", json.dumps(said))

    def beating(self) -> Other:
        self._thread.start()
        return self

    def _beat(self) -> None:
        while not self._ended.wait(0.02):
            self.tell()

    def end(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(watchdog, "_COMPARE_SECONDS", 0.3)


@pytest.fixture
def store(fast: None, monkeypatch: pytest.MonkeyPatch) -> HashStore:
    """This process is rank 0 of two."""
    made = HashStore()
    group = SimpleNamespace(_get_default_store=lambda: SimpleNamespace(clone=lambda: made))
    world = dict(is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: 0, get_world_size=lambda: 2)
    monkeypatch.setattr(watchdog, "dist", SimpleNamespace(distributed_c10d=group, **world))
    return made


@pytest.fixture
def other(store: HashStore) -> Iterator[Other]:
    made = Other(store, 1)
    yield made
    made.end()


def make_watchdog(limit: float = 0.4) -> tuple[Watchdog, list[str], threading.Event]:
    messages, ended = [], threading.Event()

    def end(message: str) -> None:
        messages.append(message)
        ended.set()

    return Watchdog(limit, end), messages, ended


def send_heartbeats(watching: Watchdog, seconds: float, every: float = 0.05) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        watching.heartbeat("the forward pass", 64)
        time.sleep(every)


def test_a_late_rank_ends_the_job(other: Other) -> None:
    other.is_at(working()).beating()
    watching, messages, ended = make_watchdog()
    watching.heartbeat(COUNT, 64, waits=True)
    began = time.monotonic()
    watching.start()
    assert ended.wait(10)
    assert 0.2 < time.monotonic() - began < 5
    watching.stop()
    assert messages[0] == "rank 1 has made no progress for 0 s, at the forward pass; the others wait for it"


def test_this_rank_too_can_be_the_late_one(other: Other) -> None:
    other.is_at(waiting()).beating()
    watching, messages, ended = make_watchdog()
    watching.heartbeat("the reading of its samples", 64)
    watching.start()
    assert ended.wait(10)
    watching.stop()
    assert messages[0].startswith("rank 0 has made no progress for 0 s, at the reading of its samples;")


def test_a_rank_whose_thread_is_silent_is_gone(other: Other) -> None:
    other.is_at(waiting())
    watching, messages, ended = make_watchdog()
    watching.heartbeat(COUNT, 64, waits=True)
    watching.start()
    assert ended.wait(10)
    watching.stop()
    assert messages[0].startswith("rank 1 does not answer: stopped, or its machine is gone; last seen at the count")


def test_a_rank_that_moves_ends_nothing(other: Other) -> None:
    """Neither this one nor, where this one waits long, the one it waits for."""
    other.is_at(working()).beating()
    watching, messages, _ = make_watchdog(limit=0.8)
    watching.start()
    send_heartbeats(watching, 0.7)
    assert messages == []
    watching.heartbeat(COUNT, 64, waits=True)
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        other.report = replace(other.report, progress=other.report.progress + 1)
        time.sleep(0.02)
    assert messages == []
    watching.stop()


def test_what_it_writes_for_the_others(store: HashStore, other: Other) -> None:
    watching, _, _ = make_watchdog(limit=100)
    watching.heartbeat(COUNT, 96, waits=True)
    watching.heartbeat("the forward pass")  # at the same position in the data
    watching.start()
    seen = set()
    until = time.monotonic() + 5
    while len(seen) < 3 and time.monotonic() < until:
        if store.check(["watchdog/0"]):
            seen.add(tuple(json.loads(store.get("watchdog/0"))))
    watching.stop()
    assert {report[1:] for report in seen} == {(2, 96, False, "the forward pass")}
    assert len({report[0] for report in seen}) >= 3  # beats


def test_a_store_that_does_not_answer(store: HashStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """While this rank still moves it may be only slow."""

    def broken(*_: object) -> None:
        raise RuntimeError("Connection reset by peer")

    monkeypatch.setattr(Watchdog, "_write_report", broken)
    watching, messages, ended = make_watchdog(limit=0.8)
    watching.start()
    send_heartbeats(watching, 0.7)
    assert messages == []
    assert ended.wait(10)
    watching.stop()
    assert messages[0] == "the launcher's store does not answer: rank 0 or its machine is stopped or gone"


def test_a_store_that_neither_answers_nor_fails(store: HashStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a cable is cut: the call does not return. Nothing waits for it, not even `stop`."""
    monkeypatch.setattr(watchdog, "_ANSWER_SECONDS", 0.5)
    cut, let_go = threading.Event(), threading.Event()

    def stuck(*_: object) -> None:
        cut.set()
        let_go.wait(30)

    monkeypatch.setattr(Watchdog, "_write_report", stuck)
    watching, messages, ended = make_watchdog(limit=0.4)
    watching.start()
    assert cut.wait(10)
    send_heartbeats(watching, 1.0)
    assert messages == []  # this rank moves
    assert ended.wait(10)
    began = time.monotonic()
    watching.stop()
    assert time.monotonic() - began < 5
    let_go.set()
    assert messages[0] == "the launcher's store does not answer: rank 0 or its machine is stopped or gone"


def test_after_stop_nothing_is_compared(other: Other) -> None:
    other.is_at(working()).beating()
    watching, messages, _ = make_watchdog(limit=0.2)
    watching.heartbeat(COUNT, 64, waits=True)
    watching.start()
    watching.stop()
    time.sleep(0.5)
    assert messages == []
    watching.stop()  # again


def test_a_comparison_that_has_begun_ends_nothing_after_stop(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_COMPARE_SECONDS", 5.0)
    other.is_at(working()).beating()
    watching, messages, _ = make_watchdog(limit=0.2)
    watching.heartbeat(COUNT, 64, waits=True)
    began_to_read, read_reports = threading.Event(), Watchdog._read_reports

    def read(store: HashStore) -> list[RankReport]:
        began_to_read.set()
        return read_reports(store)

    monkeypatch.setattr(Watchdog, "_read_reports", staticmethod(read))
    watching.start()
    assert began_to_read.wait(10)
    began = time.monotonic()
    watching.stop()
    assert messages == [] and time.monotonic() - began < 2  # nor is the comparison waited for


def test_not_before_start(other: Other) -> None:
    other.is_at(working())
    watching, messages, _ = make_watchdog(limit=0.1)
    watching.heartbeat(COUNT, 64, waits=True)
    time.sleep(0.3)
    assert messages == [] and watching._thread is None
    watching.stop()


def test_a_single_process_watches_nothing(fast: None) -> None:
    watching, messages, _ = make_watchdog(limit=0.1)
    watching.start()
    time.sleep(0.3)
    assert messages == [] and watching._thread is None


@pytest.mark.parametrize(("limit", "still", "expected"), [
    (20, 15.9, False), (20, 16.1, True), (300, 295.9, False), (300, 296.1, True), (4, 1.9, False), (4, 2.1, True),
])  # fmt: skip
def test_the_comparison_begins_so_early_that_the_limit_holds(
    monkeypatch: pytest.MonkeyPatch, limit: float, still: float, expected: bool
) -> None:
    """A comparison takes 3 s and a beat 1 s; half of a short limit is left to them."""
    now = 1000.0
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now)
    watching, _, _ = make_watchdog(limit)
    watching.heartbeat(COUNT, 64)
    now += still
    assert watching._is_stalled() == expected


def test_a_heartbeat_is_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now)
    watching, _, _ = make_watchdog(20)
    now += 19
    assert watching._is_stalled()
    watching.heartbeat(COUNT)
    assert not watching._is_stalled()


def wait_in_a_call(rank: int) -> None:
    """Rank 1 dies; rank 0 waits for it in a C function that no signal ends, as within NCCL, and SIGTERM comes."""
    gloo(rank)
    PreemptionHandler().start(None, is_main=rank == 0)
    watching = Watchdog(limit=4, end=exit_status.fail)
    watching.heartbeat("the sum of gradients", 64, waits=True)
    watching.start()
    if rank == 1:
        time.sleep(2.5)
        os._exit(3)
    threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    mutex = ctypes.create_string_buffer(64)
    libc = ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # for ever; like torch, ctypes lets other threads run meanwhile
    raise AssertionError("it returned")


def test_a_rank_in_a_call_that_does_not_return_is_ended() -> None:
    """Python handles no signal there; the watchdog is a thread."""
    began = time.monotonic()
    first, second = run_ranks(2, wait_in_a_call, timeout_s=40)
    assert (first.exit_code, second.exit_code) == (1, 3) and time.monotonic() - began < 30


def test_a_launcher_kills_a_rank_that_no_signal_ends() -> None:
    """As many seconds after its SIGTERM as launch/README.md says."""
    for close in (SubprocessContext.close, LocalElasticAgent._shutdown):
        assert inspect.signature(close).parameters["timeout"].default == 30
