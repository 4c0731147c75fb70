"""What a trial of the probe trains, without training."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from warmup.config import Config
from warmup.config.recipe import Recipe
from warmup.config.run import Batch, Log
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.training.probe import run
from warmup.training.probe.halving import Candidate

RECIPE = Recipe("adamw", 0.01, 32, warmup="10%", duration="400 steps")
CANDIDATE = Candidate(0.02, "10%")


def test_the_warmup_of_the_batch_is_as_long_a_share_of_a_trial() -> None:
    config = Config(recipe=RECIPE, batch=Batch(per_device=32, warmup="25%", start_size=8))
    plan = make_plan(RECIPE, Topology.from_batch(config.batch, 1), 1000)
    short = run.shortened(config, plan, CANDIDATE, plan.total_steps // 4, 3)
    trial = make_plan(short.recipe, Topology.from_batch(short.batch, 1), 1000)
    assert plan.batch_warmup_samples == 3200  # 25 % of 400 steps of 32
    assert trial.batch_warmup_samples == 3200 * (plan.total_steps // 4) // plan.total_steps
    assert trial.total_steps == plan.total_steps // 4
    assert (trial.batch_start_size, short.seed, trial.lr) == (8, 3, 0.02)


def test_a_batch_of_one_size_stays_so() -> None:
    config = Config(recipe=RECIPE, batch=Batch(per_device=32))
    plan = make_plan(RECIPE, Topology(1, 32), 1000)
    short = run.shortened(config, plan, CANDIDATE, 100, 0)
    assert (short.batch, short.recipe.duration) == (config.batch, "3200 samples")


def test_a_probe_logs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(config: Config, _: object) -> None:
        assert (config.log, config.run_dir) == (Log(), None)
        raise InterruptedError

    monkeypatch.setattr(run.setup, "start", start)
    log = replace(Log(), push_to_hub="a/b", noise_scale=True, trackers=("tensorboard",))
    with pytest.raises(InterruptedError):
        run.run_probe(Config(recipe=RECIPE, log=log, run_dir="runs/x"), SimpleNamespace())
