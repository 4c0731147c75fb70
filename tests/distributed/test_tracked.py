"""A resumed run continues in its trackers: TensorBoard's own reader finds each step once."""

from __future__ import annotations

import json
from pathlib import Path

from harness import assert_killed, killed_after, train


def test_killed_and_resumed_each_step_is_there_once(classification: tuple[str, ...], tmp_path: Path) -> None:
    """Killed on 2 ranks after step 5, resumed from step 4."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def before(rank: int) -> None:
        from warmup.training.reporting.trackers import Trackers

        log = Trackers.log

        def at_once(self: Trackers, values: dict, step: int) -> None:
            log(self, values, step)
            self._thread.submit(int).result()  # waits until everything before it is sent

        Trackers.log = at_once
        killed_after(5)(rank)

    def logged() -> dict[int, list[float]]:
        accumulator = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
        values: dict[int, list[float]] = {}
        for event in accumulator.Scalars("train/loss"):
            values.setdefault(event.step, []).append(event.value)
        return values

    job = (*classification, "--recipe.duration", "8 steps", "--recipe.warmup", "2 steps")
    job = (*job, "--batch.per_device", 16, "--checkpoint.every", "2 steps", "--resume", "auto")
    job = (*job, "--log.trackers", "tensorboard")
    assert_killed(train(2, tmp_path / "run", *job, before=before), 5)
    assert list(logged()) == [1, 2, 3, 4, 5]
    run = train(2, tmp_path / "run", *job)
    assert run.codes == [0, 0], run.status
    assert [line["step"] for line in run.of_kind("resumed")] == [4]
    losses = dict(zip(run.column("step"), run.column("loss"), strict=True))
    tracked = logged()
    assert tracked.keys() == losses.keys() == set(range(1, 9))
    assert all(len(values) == 1 for values in tracked.values())
    assert all(abs(tracked[step][0] - losses[step]) < 1e-6 for step in losses)
    assert len(list((tmp_path / "run" / "tensorboard").glob("*/hparams.yml"))) == 1  # the configuration, once too
    assert json.loads((tmp_path / "run" / "trackers.json").read_text()).keys() == {"tensorboard"}
