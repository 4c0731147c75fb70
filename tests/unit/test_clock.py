"""StepClock: its counters, and its results without a process group and for ranks that differ.

Real ranks are in tests/distributed; here `gather` returns what several ranks would have sent.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from warmup import clock as module
from warmup.batch_schedule import BatchSchedule
from warmup.clock import RanksDisagree, StepClock, gather, require_equal, require_same
from warmup.duration import Duration


@pytest.fixture
def ranks(monkeypatch):
    """Calling ranks(a, b, ...) adds other ranks that send these rows, after this rank's own."""

    def send(*others):
        def gathered(own):
            return [own, *(torch.tensor(other, dtype=own.dtype) for other in others)]

        monkeypatch.setattr(module, "gather", gathered)

    return send


# Counters


def test_an_applied_step_advances_everything():
    clock = StepClock(32, num_samples=100)
    assert (clock.step, clock.samples, clock.consumed_samples, clock.tokens, clock.epoch) == (0, 0, 0, 0, 0.0)
    clock.advance(tokens=700)
    clock.advance(tokens=500)
    assert (clock.step, clock.samples, clock.consumed_samples, clock.tokens, clock.epoch) == (2, 64, 64, 1200, 0.64)


def test_a_skipped_step_advances_only_the_consumed_samples():
    clock = StepClock(32, num_samples=64)
    clock.advance(tokens=700)
    clock.advance(tokens=500, applied=False)
    assert (clock.step, clock.samples, clock.consumed_samples, clock.tokens, clock.epoch) == (1, 32, 64, 700, 1.0)


def test_skipped_steps_in_a_row_are_counted_until_one_is_applied():
    clock = StepClock(8)
    counts = []
    for applied in (False, False, True, False, True, True):
        clock.advance(applied=applied)
        counts.append(clock.skipped_in_a_row)
    assert counts == [1, 2, 0, 1, 0, 0]


def test_without_a_number_of_samples_there_is_no_epoch():
    assert StepClock(8).epoch is None


@given(st.integers(1, 10**6), st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), max_size=30))
def test_the_counters_are_sums(batch_size, steps):
    clock = StepClock(batch_size)
    for tokens, applied in steps:
        clock.advance(tokens, applied)
    applied_tokens = [tokens for tokens, applied in steps if applied]
    assert (clock.step, clock.tokens) == (len(applied_tokens), sum(applied_tokens))
    assert (clock.samples, clock.consumed_samples) == (clock.step * batch_size, len(steps) * batch_size)
    copy = StepClock(batch_size)
    copy.load_state_dict(clock.state_dict())
    assert copy.state_dict() == clock.state_dict()


def test_a_state_is_plain_numbers_and_sets_the_position():
    clock = StepClock(32, num_samples=320)
    clock.load_state_dict({"step": 3, "samples": 96, "consumed_samples": 160, "tokens": 5})
    assert clock.state_dict() == {"step": 3, "samples": 96, "consumed_samples": 160, "tokens": 5}
    assert clock.epoch == 0.5
    clock.advance(tokens=2)
    assert clock.state_dict() == {"step": 4, "samples": 128, "consumed_samples": 192, "tokens": 7}


# Alone


def test_alone_everything_agrees():
    clock = StepClock(8)
    assert clock.check(1e-4, extra=2.5) == [2.5]
    assert [clock.agree(10, policy) for policy in ("min", "max", "error")] == [10, 10, 10]
    assert gather(torch.tensor([1.0, 2.0]))[0].tolist() == [1.0, 2.0] and len(gather(torch.tensor([1.0]))) == 1
    require_same({"lr": 1.0})


@pytest.mark.parametrize("policy", ["min", "max", "error"])
def test_alone_the_batches_are_the_loaders(policy):
    assert list(StepClock(8).batches(["a", "b", "c"], policy)) == ["a", "b", "c"]


def test_no_batches_and_unknown_policies_are_refused():
    with pytest.raises(ValueError, match=r"^rank 0 has no batches \(all ranks: \[0\]\); give every rank data$"):
        StepClock(8).agree(0)
    with pytest.raises(ValueError, match="^policy: 'median' is none of min, max, error$"):
        StepClock(8).agree(5, "median")
    with pytest.raises(ValueError, match="rank 0 has no batches"):
        next(StepClock(8).batches([], "max"))


# Ranks that differ


@pytest.mark.parametrize(("policy", "steps"), [("min", 7), ("max", 10)])
def test_ranks_with_10_and_7_batches(policy, steps, ranks):
    ranks([7])
    assert StepClock(8).agree(10, policy) == steps
    assert len(list(StepClock(8).batches(range(10), policy))) == steps


def test_the_short_loader_starts_again_under_max(ranks):
    ranks([7])
    assert list(StepClock(8).batches([1, 2, 3], "max")) == [1, 2, 3, 1, 2, 3, 1]
    assert list(StepClock(8).batches([1, 2, 3], "min")) == [1, 2, 3]


def test_ranks_with_10_and_7_batches_are_an_error_where_asked(ranks):
    ranks([10], [7])
    with pytest.raises(RanksDisagree) as caught:
        StepClock(8).agree(10, "error")
    assert str(caught.value).startswith("ranks disagree on local batches: rank 0 has 10, rank 2 7 (")
    assert '"min" or "max"' in str(caught.value)


def test_a_rank_without_batches_is_named(ranks):
    ranks([4], [0])
    with pytest.raises(ValueError, match=r"rank 2 has no batches \(all ranks: \[10, 4, 0\]\)"):
        StepClock(8).agree(10)


def test_check_returns_every_ranks_extra(ranks):
    clock = StepClock(8)
    clock.advance()
    ranks([1, 8, 8, 0.1, 5.0], [1, 8, 8, 0.1, 6.0])
    assert clock.check(0.1, extra=4.0) == [4.0, 5.0, 6.0]


@pytest.mark.parametrize(
    ("field", "row"),
    [
        ("step", [2, 8, 8, 0.1, 0]),
        ("samples", [1, 9, 8, 0.1, 0]),
        ("consumed_samples", [1, 8, 16, 0.1, 0]),
        ("lr", [1, 8, 8, math.nextafter(0.1, 1), 0]),
    ],
)
def test_check_names_the_field_the_rank_and_both_values(field, row, ranks):
    """The rate down to its last bit."""
    clock = StepClock(8)
    clock.advance()
    ranks([1, 8, 8, 0.1, 0], row)
    with pytest.raises(RanksDisagree) as caught:
        clock.check(0.1)
    index = ("step", "samples", "consumed_samples", "lr").index(field)
    mine = [1.0, 8.0, 8.0, 0.1][index]
    expected = f"ranks disagree on {field}: rank 0 has {mine!r}, rank 2 {float(row[index])!r} (at step 1)"
    assert str(caught.value) == expected


def test_require_equal():
    require_equal("seed", [3, 3, 3], "hint")
    require_equal("seed", [], "hint")
    with pytest.raises(RanksDisagree, match=r"^ranks disagree on model: rank 0 has 'a', rank 1 'b' \(start alike\)$"):
        require_equal("model", iter(["a", "b", "c"]), "start alike")


@pytest.mark.parametrize(
    ("every", "step"),
    [("5 steps", 10), ("1 epoch", 12), ("64 samples", 15), ("10%", 13), ("1.5 steps", 8), ("3 tokens", None)],
)
def test_the_next_multiple_of_an_interval(every: str, step: int | None) -> None:
    """At step 7, with 8 samples each and one step skipped: 64 samples are consumed. 10% of the run are 56 samples."""
    clock = StepClock(batch_size=8, num_samples=100)
    for _ in range(7):
        clock.advance(tokens=3)
    clock.advance(applied=False)
    assert clock.next_multiple(Duration.parse(every), 560) == step


def test_the_clock_of_a_batch_that_grows():
    """2 to 5 over 12 samples: 2 2 3 3 4, then 5. A skipped step takes its samples from the data and counts none."""
    clock = StepClock(BatchSchedule(5, 2, 12), num_samples=100)
    counts = []
    for applied in (True, True, True, False, True, True, True):
        counts.append(clock.batch_size)
        clock.advance(applied=applied)
    assert counts == [2, 2, 3, 3, 3, 4, 5]
    assert (clock.step, clock.samples, clock.consumed_samples) == (6, 19, 22)
    restored = StepClock(BatchSchedule(5, 2, 12), num_samples=100)
    restored.load_state_dict({"step": 2, "samples": 4, "consumed_samples": 4, "tokens": 0})
    assert restored.batch_size == 3 and restored.steps_to(19) == 4 and restored.steps_to(4) == 0
    assert restored.next_multiple(Duration.parse("13 samples"), 100) == 5  # at 7, 10 and 14
