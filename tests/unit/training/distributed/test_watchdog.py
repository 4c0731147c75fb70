"""The hang watch: which rank is late, and that the job ends then and not before."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from torch.distributed import HashStore

from warmup.training.distributed import watchdog
from warmup.training.distributed.watchdog import RankReport, Watchdog, find_late_rank

COUNT, SUM = "the count of targets", "the sum of gradients"


def looks(*ranks: tuple[RankReport, int, int]) -> tuple[list[RankReport], list[RankReport]]:
    """Two looks at ranks: what each said, and how many beats and marks came in between."""
    before = [report for report, _, _ in ranks]
    now = [replace(one, beats=one.beats + beats, marks=one.marks + marks) for one, beats, marks in ranks]
    return before, now


def waiting(drawn: int = 64, marks: int = 20, where: str = COUNT) -> RankReport:
    return RankReport(100, marks, drawn, True, where)


def working(drawn: int = 64, marks: int = 19, where: str = "the forward pass") -> RankReport:
    return RankReport(100, marks, drawn, False, where)


# Which rank


def test_a_silent_rank_is_stopped_or_gone() -> None:
    found = find_late_rank(*looks((waiting(), 3, 0), (working(), 0, 0), (waiting(), 3, 0)), 20)
    assert found == "rank 1 does not answer: stopped, or its machine is gone; last seen at the forward pass"


def test_several_silent_ranks() -> None:
    found = find_late_rank(*looks((working(), 0, 0), (waiting(), 3, 0), (waiting(where=SUM), 0, 0)), 20)
    assert found == "rank 0, 2 does not answer: stopped, or its machine is gone; last seen at the forward pass"


def test_a_silent_rank_is_named_before_a_late_one() -> None:
    found = find_late_rank(*looks((waiting(96), 0, 0), (working(32), 3, 0)), 20)
    assert found.startswith("rank 0 does not answer")


def test_a_rank_that_never_spoke_is_silent() -> None:
    found = find_late_rank(*looks((waiting(), 3, 0), (RankReport(), 0, 0)), 20)
    assert found == "rank 1 does not answer: stopped, or its machine is gone; last seen at the start"


def test_the_rank_that_does_not_wait_is_late() -> None:
    ranks = [(waiting(marks=5), 3, 0), (working(marks=900), 3, 0), (waiting(marks=5), 3, 0)]
    wanted = "rank 1 has made no progress for 20 s, at the forward pass; the others wait for it"
    assert find_late_rank(*looks(*ranks), 20.4) == wanted


def test_the_rank_that_is_least_far_is_late() -> None:
    """Whatever the others are in: they have drawn more."""
    found = find_late_rank(*looks((waiting(96), 3, 0), (working(96), 3, 0), (working(64, where="the data"), 3, 0)), 7)
    assert found == "rank 2 has made no progress for 7 s, at the data; the others wait for it"


def test_a_rank_that_is_a_step_behind_is_late_also_where_it_waited_last() -> None:
    """What it waited for is over, as the others are further; it stands before its next mark."""
    found = find_late_rank(*looks((waiting(96, 20), 3, 0), (waiting(64, 18, SUM), 3, 0)), 7)
    assert found == "rank 1 has made no progress for 7 s, at the sum of gradients; the others wait for it"


def test_at_the_same_place_the_one_with_fewer_marks_is_late() -> None:
    found = find_late_rank(*looks((working(marks=19), 3, 0), (working(marks=17, where="the data"), 3, 0)), 7)
    assert found == "rank 1 has made no progress for 7 s, at the data; the others wait for it"


def test_where_all_wait_it_is_nobodys_fault() -> None:
    found = find_late_rank(*looks((waiting(marks=21), 3, 0), (waiting(marks=20, where=SUM), 3, 0)), 20)
    assert found == "all ranks wait for each other, rank 1 at the sum of gradients; is the network down?"


def test_a_rank_that_still_moves_is_only_slow() -> None:
    assert find_late_rank(*looks((waiting(), 3, 0), (working(), 3, 1)), 20) is None
    assert find_late_rank(*looks((waiting(), 3, 1), (working(), 3, 0)), 20) is not None  # another one's do not count


@pytest.mark.parametrize("marks", [19, 20, 900])
def test_where_one_came_just_now_the_others_have_not_noticed_yet(marks: int) -> None:
    """A slow rank that all waited for, and that waits now itself: they go on in a moment, however many marks it has."""
    before = [waiting(), working(marks=marks - 1)]
    now = [replace(before[0], beats=103), replace(before[1], beats=103, marks=marks, waits=True, where=COUNT)]
    assert find_late_rank(before, now, 20) is None


def test_where_none_answers_the_store_is_at_fault_and_not_a_rank() -> None:
    found = find_late_rank(*looks((waiting(), 0, 0), (working(), 0, 0)), 20)
    assert found is None or "does not answer" not in found


# The watch


class Other:
    """Another rank, of which the store has what a test says."""

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
        one = self.report
        said = [one.beats, one.marks, one.drawn, one.waits, one.where]
        self.store.set(f"hang-watch/{self.rank}", json.dumps(said))

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
    monkeypatch.setattr(watchdog, "_LOOK_SECONDS", 0.3)


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


def watch(limit: float = 0.4) -> tuple[Watchdog, list[str], threading.Event]:
    messages, ended = [], threading.Event()

    def end(message: str) -> None:
        messages.append(message)
        ended.set()

    return Watchdog(limit, end), messages, ended


def marking(watched: Watchdog, seconds: float, every: float = 0.05) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        watched.mark("the forward pass", 64)
        time.sleep(every)


def test_a_late_rank_ends_the_job(other: Other) -> None:
    other.is_at(working()).beating()
    watched, messages, ended = watch()
    watched.mark(COUNT, 64, waits=True)
    began = time.monotonic()
    watched.start()
    assert ended.wait(10)
    assert 0.2 < time.monotonic() - began < 5
    watched.stop()
    assert messages[0] == "rank 1 has made no progress for 0 s, at the forward pass; the others wait for it"


def test_this_rank_too_can_be_the_late_one(other: Other) -> None:
    other.is_at(waiting()).beating()
    watched, messages, ended = watch()
    watched.mark("the reading of its samples", 64)
    watched.start()
    assert ended.wait(10)
    watched.stop()
    assert messages[0].startswith("rank 0 has made no progress for 0 s, at the reading of its samples;")


def test_a_rank_whose_thread_is_silent_is_gone(other: Other) -> None:
    other.is_at(waiting())
    watched, messages, ended = watch()
    watched.mark(COUNT, 64, waits=True)
    watched.start()
    assert ended.wait(10)
    watched.stop()
    assert messages[0].startswith("rank 1 does not answer: stopped, or its machine is gone; last seen at the count")


def test_a_rank_that_moves_ends_nothing(other: Other) -> None:
    """Neither this one nor, where this one waits long, the one it waits for."""
    other.is_at(working()).beating()
    watched, messages, _ = watch(limit=0.8)
    watched.start()
    marking(watched, 0.7)
    assert messages == []
    watched.mark(COUNT, 64, waits=True)
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        other.report = replace(other.report, marks=other.report.marks + 1)
        time.sleep(0.02)
    assert messages == []
    watched.stop()


def test_what_it_tells_the_others(store: HashStore, other: Other) -> None:
    watched, _, _ = watch(limit=100)
    watched.mark(COUNT, 96, waits=True)
    watched.mark("the forward pass")  # no further in the data
    watched.start()
    seen = set()
    until = time.monotonic() + 5
    while len(seen) < 3 and time.monotonic() < until:
        if store.check(["hang-watch/0"]):
            seen.add(tuple(json.loads(store.get("hang-watch/0"))))
    watched.stop()
    assert {one[1:] for one in seen} == {(2, 96, False, "the forward pass")}
    assert len({one[0] for one in seen}) >= 3  # beats


def test_a_store_that_does_not_answer(store: HashStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """While this rank still moves it may be only slow."""

    def broken(*_: object) -> None:
        raise RuntimeError("Connection reset by peer")

    monkeypatch.setattr(Watchdog, "_tell", broken)
    watched, messages, ended = watch(limit=0.8)
    watched.start()
    marking(watched, 0.7)
    assert messages == []
    assert ended.wait(10)
    watched.stop()
    assert messages[0] == "the launcher's store does not answer: rank 0 or its machine is stopped or gone"


def test_a_store_that_neither_answers_nor_fails(store: HashStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a cable was cut: the call does not come back. Nothing waits for it, not even the end."""
    monkeypatch.setattr(watchdog, "_ANSWER_SECONDS", 0.5)
    cut, let_go = threading.Event(), threading.Event()

    def stuck(*_: object) -> None:
        cut.set()
        let_go.wait(30)

    monkeypatch.setattr(Watchdog, "_tell", stuck)
    watched, messages, ended = watch(limit=0.4)
    watched.start()
    assert cut.wait(10)
    marking(watched, 1.0)
    assert messages == []  # this rank moves
    assert ended.wait(10)
    began = time.monotonic()
    watched.stop()
    assert time.monotonic() - began < 5
    let_go.set()
    assert messages[0] == "the launcher's store does not answer: rank 0 or its machine is stopped or gone"


def test_after_stop_nothing_is_watched(other: Other) -> None:
    other.is_at(working()).beating()
    watched, messages, _ = watch(limit=0.2)
    watched.mark(COUNT, 64, waits=True)
    watched.start()
    watched.stop()
    time.sleep(0.5)
    assert messages == []
    watched.stop()  # again


def test_a_look_that_was_begun_ends_nothing_after_stop(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_LOOK_SECONDS", 5.0)
    other.is_at(working()).beating()
    watched, messages, _ = watch(limit=0.2)
    watched.mark(COUNT, 64, waits=True)
    looked, all_ = threading.Event(), Watchdog._all

    def look(store: HashStore) -> list[RankReport]:
        looked.set()
        return all_(store)

    monkeypatch.setattr(Watchdog, "_all", staticmethod(look))
    watched.start()
    assert looked.wait(10)
    began = time.monotonic()
    watched.stop()
    assert messages == [] and time.monotonic() - began < 2  # nor is the look waited for


def test_not_before_start(other: Other) -> None:
    other.is_at(working())
    watched, messages, _ = watch(limit=0.1)
    watched.mark(COUNT, 64, waits=True)
    time.sleep(0.3)
    assert messages == [] and watched._thread is None
    watched.stop()


def test_a_single_process_watches_nothing(fast: None) -> None:
    watched, messages, _ = watch(limit=0.1)
    watched.start()
    time.sleep(0.3)
    assert messages == [] and watched._thread is None


@pytest.mark.parametrize(("limit", "still", "wanted"), [
    (20, 15.9, False), (20, 16.1, True), (300, 295.9, False), (300, 296.1, True), (4, 1.9, False), (4, 2.1, True),
])  # fmt: skip
def test_the_look_comes_so_early_that_the_limit_holds(
    monkeypatch: pytest.MonkeyPatch, limit: float, still: float, wanted: bool
) -> None:
    """A look takes 3 s and a beat 1 s; of a short limit, a half is left to them."""
    now = 1000.0
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now)
    watched, _, _ = watch(limit)
    watched.mark(COUNT, 64)
    now += still
    assert watched._stands_still() == wanted


def test_a_mark_is_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now)
    watched, _, _ = watch(20)
    now += 19
    assert watched._stands_still()
    watched.mark(COUNT)
    assert not watched._stands_still()
