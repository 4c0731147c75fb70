"""The sweep of seeds without training: what may be requested, in what order, what is kept, refused and computed."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from warmup.commandline import to_yaml
from warmup.config import Config
from warmup.config.recipe import Recipe
from warmup.errors import UserError
from warmup.training.checkpoints import resume, run_directory
from warmup.training.checkpoints.state import config_fields
from warmup.training.run import arguments, seed_sweep
from warmup.training.run.setup import Launched

CONFIG = Config(recipe=Recipe(lr=1e-3, reference_batch_size=32), task="mlm")


@pytest.mark.parametrize("given", [("--seeds", "1,2,3"), ("--seeds", "1", "2", "3"), ("--seeds=[1,2,3]",)])
def test_how_they_may_be_written(given: tuple[str, ...]) -> None:
    config, options = arguments.parse(given)
    assert options.seeds == [1, 2, 3] and config.seed == 0 and config.task == "mlm"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("1,2,1",), "--seeds: 1 is named twice"),
        ((), "--seeds: names no seed"),
        (("1,-2",), "seed: -2 is not in 0 <= seed < 2^63"),
        (("1,x",), "seeds: "),
        (("1,2", "--seed", "3"), "--seed and --seeds: give one"),
        (("1,2", "--seed=3"), "--seed and --seeds: give one"),
        (("1,2", "--test"), "--test: tries one run; leave --seeds out"),
        (("1,2", "--resume", "runs/x"), "--resume: seeds go on from the run directory of all of them: --resume auto"),
        (("1,2", "--log.push_to_hub", "a/b"), "log.push_to_hub: one model is pushed;"),
    ],
)
def test_what_does_not_go_together(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as caught:
        arguments.parse(["--seeds", *given])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("given", [("--predict",), ("--predict", "--model", "x")])
def test_to_predict_nothing_is_not_to_train(given: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="^--predict: names no file"):
        arguments.parse(["--task", "mlm", *given])


def test_a_sweep_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "seeds.json").write_text("{}")
    text = f"{tmp_path} holds a sweep of seeds; name one of its runs: {tmp_path}/seed-N"
    for flag, find in (
        ("run_dir", lambda: resume.find_resume_point("auto", str(tmp_path))),
        ("--resume", lambda: resume.find_resume_point(str(tmp_path), None)),
        ("--model", lambda: arguments.parse(["--predict", "x.txt", "--model", str(tmp_path)])),
    ):
        with pytest.raises(UserError) as caught:
            find()
        assert str(caught.value) == f"{flag}: {text}"


def test_a_seed_of_a_file_gives_way(tmp_path: Path) -> None:
    """As that of an earlier run's config.yaml."""
    (tmp_path / "config.yaml").write_text("seed: 7\n")
    _, options = arguments.parse(["--config", str(tmp_path / "config.yaml"), "--seeds", "1,2"])
    assert options.seeds == [1, 2]


class Swept:
    """A sweep of fake runs, which end as `ends` says: a metric, or None for one that is stopped."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, ends: dict[int, float | None]):
        self.folder, self.ends, self.trained, self.freed = folder, ends, [], 0
        self.preemption = SimpleNamespace(stop_requested=lambda: False)
        self.scaler, self.scales = torch.amp.GradScaler("cpu", init_scale=1024.0), []
        self.key = "data"
        monkeypatch.setattr(seed_sweep, "prepare_data", lambda config, task: SimpleNamespace(key=self.key))

    def free_memory(self) -> None:
        self.freed += 1

    def run(self, *numbers: int, resume: str | None = None, **changes: object) -> tuple[str, str]:
        device = SimpleNamespace(type="cpu")
        accelerator = SimpleNamespace(
            is_main_process=True, free_memory=self.free_memory, device=device, scaler=self.scaler
        )
        config = replace(CONFIG, run_dir=str(self.folder), **changes)
        options = SimpleNamespace(seeds=list(numbers), resume=resume)
        try:
            launched = Launched(accelerator, options, world_size=1, preemption=self.preemption)
            return seed_sweep.run_seed_sweep(config, launched, self.train)
        finally:
            run_directory.release(self.folder)

    def train(self, config: Config, launched: Launched, started_at: float) -> None:
        assert launched.preemption is self.preemption and started_at <= time.perf_counter()
        self.trained.append(config.seed)
        self.scales.append(self.scaler.state_dict()["scale"])
        self.scaler.load_state_dict(self.scaler.state_dict() | {"scale": 2.0})  # what overflows come to
        folder, value = Path(config.run_dir), self.ends[config.seed]
        folder.mkdir(exist_ok=True)
        run_directory.claim(folder)
        result = {"outcome": "stopped" if value is None else "done", "metrics": {"loss": value, "n": 8.0}}
        result |= {"step": 3, "total_steps": 9, "data": self.key}
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "config.yaml").write_text(to_yaml(replace(config, run_dir=None)))

    def results(self) -> dict:
        return json.loads((self.folder / "seeds.json").read_text())


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Swept:
    return Swept(tmp_path / "run", monkeypatch, {5: 1.0, 3: 2.0, 8: 6.0})


def test_mean_and_sample_standard_deviation(swept: Swept, capsys: pytest.CaptureFixture) -> None:
    assert swept.run(5, 3, 8) == ("done", f"3 seeds, compared in {swept.folder}/seeds.json")
    assert swept.trained == [5, 3, 8] and swept.freed == 3 and run_directory._held == []
    assert swept.scales == [1024.0] * 3  # each begins with the scale of fp16 that a run by itself would
    assert swept.results() == {
        "seeds": [5, 3, 8],
        "metrics": {"5": {"loss": 1.0, "n": 8.0}, "3": {"loss": 2.0, "n": 8.0}, "8": {"loss": 6.0, "n": 8.0}},
        "mean": {"loss": 3.0, "n": 8.0},
        "standard_deviation": {"loss": pytest.approx(7**0.5), "n": 0.0},  # ((-2)^2 + (-1)^2 + 3^2) / 2
    }
    assert capsys.readouterr().out.splitlines() == [
        "metric  seed 5  seed 3  seed 8  mean  standard deviation",
        "  loss       1       2       6     3             2.64575",
        "     n       8       8       8     8                   0",
    ]


def test_one_seed_has_no_deviation(swept: Swept, capsys: pytest.CaptureFixture) -> None:
    assert swept.run(3)[0] == "done"
    assert swept.results()["standard_deviation"] == {"loss": None, "n": None}
    assert capsys.readouterr().out.splitlines()[1] == "  loss       2     2                   -"


def test_it_goes_on_with_what_is_not_done(swept: Swept) -> None:
    """Also with a seed more than before; without one that is taken out, the table is of the others."""
    swept.ends[3] = None
    again = f"go on with --resume auto --run_dir {swept.folder} --seeds 5,3"
    assert swept.run(5, 3) == ("stopped", f"seed 3 after step 3 of 9; {again}")
    assert list(swept.results()["metrics"]) == ["5"]
    swept.ends[3], swept.trained = 2.0, []
    assert swept.run(5, 3, 8, resume="auto")[0] == "done"
    assert swept.trained == [3, 8] and list(swept.results()["metrics"]) == ["5", "3", "8"]
    assert swept.run(8, 3, resume="auto")[0] == "done"
    assert swept.trained == [3, 8] and swept.results()["mean"]["loss"] == 4.0


def test_between_two_seeds_it_stops_too(swept: Swept) -> None:
    """A signal in the last step of a run is for the sweep."""
    swept.preemption.stop_requested = lambda: swept.trained == [5]
    outcome, message = swept.run(5, 3)
    assert outcome == "stopped" and message.startswith("before seed 3; go on with --resume auto --run_dir ")
    assert swept.trained == [5]
    assert swept.run(5, resume="auto")[0] == "done"  # with none to come it has nothing to stop


def test_seeds_of_another_training_are_not_mixed(swept: Swept) -> None:
    swept.run(5, 3)
    text = f"{swept.folder}/seed-5 is of a run that is done"
    with pytest.raises(UserError, match=f"^recipe.lr: {text}, with another one; give the same, or start another sweep"):
        swept.run(5, 8, resume="auto", recipe=replace(CONFIG.recipe, lr=2e-3))
    with pytest.raises(UserError, match=f"^dropout: {text}"):
        swept.run(5, 8, resume="auto", dropout=0.0)
    swept.key = "other"
    with pytest.raises(UserError, match=f"^data: {text}, on other data; give the same, or start another sweep$"):
        swept.run(5, 8, resume="auto")
    assert swept.trained == [5, 3]


def test_a_recipe_or_data_that_cannot_be_used_leaves_no_directory(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="^recipe.reference_batch_size: needed"):
        swept.run(5, recipe=Recipe(lr=1e-3))

    def unreadable(config: Config, task: object) -> None:
        raise UserError("data.train_files: no file matches *.txt")

    monkeypatch.setattr(seed_sweep, "prepare_data", unreadable)
    with pytest.raises(UserError, match="^data.train_files: no file matches"):
        swept.run(5)
    assert not swept.trained and not swept.folder.exists()


def test_the_directory_of_a_sweep(tmp_path: Path, swept: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    swept.run(5)
    with pytest.raises(UserError, match="^run_dir: .* is occupied; give another one"):
        swept.run(5)
    run_directory.release(run_directory.create(str(tmp_path / "one"), "mlm"))
    other = Swept(tmp_path / "one", monkeypatch, {5: 1.0})
    with pytest.raises(UserError, match="^run_dir: .*/one is occupied, and not by a sweep of seeds; give another one$"):
        other.run(5, resume="auto")
    with pytest.raises(UserError, match="^--resume: auto needs a run directory to look in; give --run_dir$"):
        seed_sweep.enter(CONFIG, "auto")
    monkeypatch.chdir(tmp_path)
    folder = seed_sweep.enter(CONFIG, None)
    assert folder.parent == Path("runs") and folder.name.startswith("mlm-")
    run_directory.release(folder)
    assert run_directory._held == []


def test_fields_that_make_it_another_training() -> None:
    now = config_fields(CONFIG)
    was = {name: value for name, value in now.items() if name not in ("recipe.scaled", "batch.warmup", "data.rows")}
    assert seed_sweep.changed_fields(was, now) == []  # of a version without these fields
    grown = replace(CONFIG, batch=replace(CONFIG.batch, warmup="10 steps", start_size=8, warmup_lr="keep"))
    changed = ["batch.warmup", "batch.start_size", "batch.warmup_lr"]
    assert seed_sweep.changed_fields(was, config_fields(grown)) == changed
    assert (
        seed_sweep.changed_fields(was, config_fields(replace(CONFIG, batch=replace(CONFIG.batch, per_device=8)))) == []
    )
