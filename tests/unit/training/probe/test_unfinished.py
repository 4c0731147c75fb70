"""A probe that was stopped or killed goes on after the trials that it had made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from warmup.config import Config
from warmup.config.recipe import Recipe
from warmup.config.run import Batch
from warmup.errors import UserError
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.training.distributed.exit_status import Stopped
from warmup.training.probe import command, run, unfinished
from warmup.training.probe.halving import Candidate, Result
from warmup.training.run.trial import Trial

CONFIG = Config(recipe=Recipe("adamw", 0.01, 32, warmup="10%", duration="400 steps"), batch=Batch(per_device=32))
PLAN = make_plan(CONFIG.recipe, Topology(1, 32), 1000)
LAUNCHED: Any = SimpleNamespace(
    accelerator=SimpleNamespace(
        is_main_process=True, scaler=None, device=SimpleNamespace(type="cpu"), mixed_precision="no"
    )
)
GOOD, BAD = Candidate(0.01, "10%"), Candidate(1.0, "10%")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """The rate and the seed of each trial that is made. Rates from 1 on diverge, and the third trial is stopped."""
    made: list[tuple[float, int]] = []

    def run_trial(config: Config, launched: object, on_step: object) -> Trial:
        made.append((config.recipe.lr, config.seed))
        if len(made) == 3:
            raise Stopped("somewhere in a trial")
        diverged = "step 7: the loss is not finite" if config.recipe.lr >= 1 else None
        return Trial(7 if diverged else 50, {0: 6.0, 1600: 5.0 + config.seed / 10}, diverged)

    monkeypatch.setattr(run, "run_trial", run_trial)
    monkeypatch.setattr(run, "free_memory", lambda accelerator, scaler: None)
    return made


def spec(config: Config = CONFIG, data: str = "abc") -> Any:
    """A run on data with this key."""
    return SimpleNamespace(config=config, plan=PLAN, data=SimpleNamespace(key=data))


def search(config: Config, output: Path) -> Iterator[Result]:
    """Two candidates with two seeds."""
    trials = run.Trials(spec(config), LAUNCHED, 1000, output)
    for candidate in (GOOD, BAD):
        for seed in (0, 1):
            yield trials.try_one(candidate, 0, seed, 50)


def test_only_the_trials_that_are_missing_are_made(made: list, tmp_path: Path) -> None:
    output = tmp_path / "runs" / "probe"
    with pytest.raises(Stopped, match=f"^after 2 trials; the same command with --output {output} makes the others$"):
        list(search(CONFIG, output))
    results = list(search(replace(CONFIG, launch=replace(CONFIG.launch, timeout=77.0)), output))
    assert made == [(0.01, 0), (0.01, 1), (1.0, 0), (1.0, 0), (1.0, 1)]
    assert [(result.candidate, result.seed, result.loss, result.tried) for result in results] == [
        (GOOD, 0, 5.0, 50), (GOOD, 1, 5.1, 50), (BAD, 0, math.inf, 7), (BAD, 1, math.inf, 7),
    ]  # fmt: skip
    assert list(search(CONFIG, output)) == results and len(made) == 5  # nothing is lost on the way through the file


def test_those_of_another_length_are_made_again(made: list, tmp_path: Path) -> None:
    run.Trials(spec(), LAUNCHED, 1000, tmp_path / "probe").try_one(GOOD, 0, 0, 50)
    run.Trials(spec(), LAUNCHED, 2000, tmp_path / "probe").try_one(GOOD, 0, 0, 100)
    assert made == [(0.01, 0), (0.01, 0)]


def test_trials_of_another_probe_and_a_damaged_file_are_refused(made: list, tmp_path: Path) -> None:
    output = tmp_path / "probe"
    next(search(CONFIG, output))
    with pytest.raises(UserError, match="^--output: .*.unfinished.json has trials of a probe with another dropout;"):
        next(search(replace(CONFIG, dropout=0.3), output))
    unfinished.path_of(output).write_text('{"probe": {}')
    with pytest.raises(UserError, match=r"^--output: .*probe.unfinished.json is damaged \(.*\); remove it$"):
        next(search(CONFIG, output))
    assert len(made) == 1


def test_trials_on_other_data_or_another_device_are_refused(
    made: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files may change under their names, and keep their length."""
    output = tmp_path / "probe"
    next(search(CONFIG, output))
    with pytest.raises(UserError, match="has trials of a probe with another content of the data;"):
        run.Trials(spec(data="abd"), LAUNCHED, 1000, output)
    for name, value in (("device", SimpleNamespace(type="cuda")), ("mixed_precision", "bf16")):
        with monkeypatch.context() as patch:
            patch.setattr(LAUNCHED.accelerator, name, value)
            with pytest.raises(UserError, match=f"with another {name.removeprefix('mixed_')};"):
                run.Trials(spec(), LAUNCHED, 1000, output)
    assert run.Trials(spec(), LAUNCHED, 1000, output).try_one(GOOD, 0, 0, 50).loss == 5.0 and len(made) == 1


def test_two_probes_do_not_write_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second lock in this process stands for another one: `flock` sets its file apart all the same."""
    monkeypatch.setattr(unfinished, "_held", [])
    output = tmp_path / "runs" / "probe"
    unfinished.claim(output)
    with pytest.raises(UserError, match=f"^--output: another probe writes {output}; wait for it, or give another"):
        unfinished.claim(output)
    unfinished.claim(tmp_path / "runs" / "other")
    unfinished.remove(output)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other.unfinished.lock"]


def test_the_folder_where_one_is_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = ("--recipe.optimizer", "adamw", "--recipe.lr", "0.01", "--recipe.reference_batch_size", "32")
    _, options = command.parse([*recipe, "--recipe.duration", "9 steps", "--batch.per_device", "8", "--output", "."])
    assert unfinished.path_of(options.output) == tmp_path.with_name(f"{tmp_path.name}.unfinished.json")
