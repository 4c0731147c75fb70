"""Requests to stop: signals before and during training, and the time limit, for which only rank 0's clock counts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from warmup.errors import UserError
from warmup.training.data.tokenizers import load
from warmup.training.data.tokenizers.load import load_tokenizer
from warmup.training.distributed import preemption
from warmup.training.distributed.exit_status import Stopped
from warmup.training.distributed.preemption import PreemptionHandler

SIGNALS = [signal.SIGTERM, signal.SIGUSR1]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give the test process its own back."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_before_training_a_signal_stops_at_once(number: signal.Signals) -> None:
    handler = PreemptionHandler()
    with pytest.raises(Stopped, match="^before there was anything to save$"):
        os.kill(os.getpid(), number)
        pytest.fail("went on")
    assert handler.stop_requested()


@pytest.mark.parametrize("number", SIGNALS)
def test_in_training_a_signal_sets_a_flag(number: signal.Signals) -> None:
    handler = PreemptionHandler()
    handler.start(None, is_main=True)
    assert not handler.stop_requested()
    for _ in range(2):  # a second one is no reason to die
        os.kill(os.getpid(), number)
        assert handler.stop_requested()


def test_a_signal_counts_on_every_rank() -> None:
    handler = PreemptionHandler()
    handler.start(100.0, is_main=False)
    os.kill(os.getpid(), signal.SIGTERM)
    assert handler.stop_requested()


def test_no_other_signal_is_taken() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)}
    PreemptionHandler()
    assert {number: signal.getsignal(number) for number in before} == before


def test_the_time_limit_is_rank_0s(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=50.0)
    monkeypatch.setattr(preemption.time, "monotonic", lambda: clock.now)
    main, other, free = PreemptionHandler(), PreemptionHandler(), PreemptionHandler()
    main.start(10.0, is_main=True)
    other.start(10.0, is_main=False)
    free.start(None, is_main=True)
    for clock.now, expected in ((50.0, False), (59.9, False), (60.0, True), (1e9, True)):
        assert [main.stop_requested(), other.stop_requested(), free.stop_requested()] == [expected, False, False]


def test_its_age_goes_on_from_run_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """So one time limit can cover several runs."""
    clock = SimpleNamespace(now=50.0)
    monkeypatch.setattr(preemption.time, "monotonic", lambda: clock.now)
    handler = PreemptionHandler()
    for clock.now in (57.0, 70.0):
        assert handler.elapsed_seconds() == clock.now - 50.0
        handler.start(30.0 - handler.elapsed_seconds(), is_main=True)
        assert not handler.stop_requested()
    clock.now = 80.0
    assert handler.stop_requested()


@pytest.mark.parametrize("limit", [0.0, -5.0])
def test_a_limit_that_is_over_before_training_stops_after_a_step(limit: float) -> None:
    """As after a preparation that took longer."""
    handler = PreemptionHandler()
    assert not handler.stop_requested()
    handler.start(limit, is_main=True)
    assert handler.stop_requested()


def test_a_signal_is_not_taken_for_an_error_of_what_it_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries raise all kinds of errors, so loading a tokenizer catches all of them, but not Stopped."""
    PreemptionHandler()

    def interrupted(name: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(load.AutoTokenizer, "from_pretrained", interrupted)
    with pytest.raises(BaseException) as caught:
        load_tokenizer("a-name", "data.tokenizer")
    assert not isinstance(caught.value, UserError)
    assert isinstance(caught.value, Stopped)
