"""Trackers: how W&B, MLflow and Trackio are called when a run begins and when it is resumed; and failures."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from accelerate import PartialState
from PIL import Image

from warmup.config import Config
from warmup.config.recipe import Recipe
from warmup.config.run import Log
from warmup.errors import UserError
from warmup.training.checkpoints import run_directory
from warmup.training.checkpoints.state import ResumePoint
from warmup.training.reporting import trackers
from warmup.training.reporting.trackers import Trackers, settings


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    """The state that Accelerate's trackers need, and that no later test may find."""
    PartialState._reset_state()
    PartialState(cpu=True)
    yield
    PartialState._reset_state()


class Calls(list):
    """The calls that were made: (name, arguments by name)."""

    def record(self, name: str, result: Any = None) -> Any:
        def called(*args: object, **kwargs: object) -> Any:
            self.append((name, {**dict(enumerate(args)), **kwargs}))
            if name == "wandb.init":
                result.id = os.environ.get("WANDB_RUN_ID") or kwargs["id"]
            return result

        return called

    def of(self, name: str) -> list[dict]:
        return [arguments for called, arguments in self if called == name]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Replaces the modules of the three trackers by ones that record their calls."""
    calls = Calls()
    for name in ("wandb", "trackio"):
        run = SimpleNamespace(log=calls.record(f"{name}.log"), finish=calls.record(f"{name}.finish"))
        module = ModuleType(name)
        module.init = calls.record(f"{name}.init", run)
        module.config = SimpleNamespace(update=calls.record(f"{name}.config"))
        monkeypatch.setitem(sys.modules, name, module)
    mlflow = ModuleType("mlflow")
    mlflow.search_experiments = lambda **_: []
    mlflow.create_experiment = calls.record("mlflow.experiment", "7")
    mlflow.start_run = calls.record("mlflow.init", SimpleNamespace(info=SimpleNamespace(run_id="server's")))
    mlflow.log_metrics, mlflow.end_run = calls.record("mlflow.log"), calls.record("mlflow.finish")
    mlflow.log_params = calls.record("mlflow.config")
    mlflow.utils = SimpleNamespace(validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return calls


def configured(*names: str, **log: Any) -> Config:
    return Config(task="classification", recipe=Recipe(lr=1e-3), log=Log(trackers=names, **log))


def run(folder: Path, config: Config, step: int) -> None:
    """A run that has done `step`, logs the next one and ends."""
    started = Trackers(folder, config, step)
    started.log({"train/loss": 0.5}, step + 1)
    started.finish()


def started_and_resumed(folder: Path, calls: Calls, name: str, **log: Any) -> tuple[Calls, Calls]:
    folder.mkdir(parents=True)
    run(folder, configured(name, **log), -1)
    first = Calls(calls)
    calls.clear()
    run(folder, configured(name, **log), 40)
    return first, calls


def test_wandb_resumes_the_same_run(tmp_path: Path, calls: Calls) -> None:
    first, second = started_and_resumed(tmp_path / "runs" / "mine", calls, "wandb", project="berts")
    (init,) = first.of("wandb.init")
    assert init["project"] == "berts" and init["name"] == "runs/mine" and init["resume"] == "allow"
    assert init["dir"] == str(tmp_path / "runs" / "mine") and len(init["id"]) == 8
    assert second.of("wandb.init") == [init]
    for calls in (first, second):  # a recipe may have changed
        assert calls.of("wandb.config")[0][0]["recipe.lr"] == 1e-3
    assert first.of("wandb.log") == [{0: {"train/loss": 0.5}, "step": 0}]
    assert second.of("wandb.log") == [{0: {"train/loss": 0.5}, "step": 41}]
    assert second[-1][0] == "wandb.finish"


def test_in_a_sweep_of_wandb_the_id_is_its_agents(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of it, the run goes on under that id."""
    monkeypatch.setenv("WANDB_RUN_ID", "agents")
    run(tmp_path, configured("wandb"), -1)
    assert json.loads((tmp_path / trackers.FILE).read_text())["wandb"]["id"] == "agents"
    monkeypatch.delenv("WANDB_RUN_ID")
    run(tmp_path, configured("wandb"), 40)
    assert calls.of("wandb.init")[1]["id"] == "agents"


def test_another_run_is_another_one_of_wandb(tmp_path: Path, calls: Calls) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        run(tmp_path / name, configured("wandb"), -1)
    one, other = calls.of("wandb.init")
    assert one["id"] != other["id"] and one["project"] == "bert-warmup"


def test_mlflow_resumes_the_run_that_its_server_named(tmp_path: Path, calls: Calls) -> None:
    first, second = started_and_resumed(tmp_path / "runs" / "mine", calls, "mlflow")
    assert first.of("mlflow.experiment")[0]["name"] == "bert-warmup"
    (init,), (again,) = first.of("mlflow.init"), second.of("mlflow.init")
    assert init["run_id"] is None and init["run_name"] == "runs/mine"
    assert again["run_id"] == "server's"
    assert first.of("mlflow.config") and not second.of("mlflow.config")  # it does not accept changed values
    assert [calls.of("mlflow.log")[0]["step"] for calls in (first, second)] == [0, 41]


def test_trackio_resumes_by_name(tmp_path: Path, calls: Calls) -> None:
    first, second = started_and_resumed(tmp_path / "runs" / "mine", calls, "trackio")
    (init,), (again,) = first.of("trackio.init"), second.of("trackio.init")
    assert init == {"project": "bert-warmup", "name": "runs/mine", "resume": "never"}
    assert again == init | {"resume": "allow"}
    assert first.of("trackio.config") and second.of("trackio.config")


def test_one_that_is_new_in_a_resumed_run(tmp_path: Path, calls: Calls) -> None:
    run(tmp_path, configured("wandb"), -1)
    run(tmp_path, configured("wandb", "mlflow"), 40)
    assert calls.of("mlflow.config") and calls.of("mlflow.init")[0]["run_id"] is None
    known = json.loads((tmp_path / "trackers.json").read_text())
    assert known.keys() == {"wandb", "mlflow"} and known["wandb"]["id"] == calls.of("wandb.init")[1]["id"]


def test_the_configuration_is_flat_and_of_single_values() -> None:
    fields = settings(configured("wandb"))
    assert (fields["recipe.lr"], fields["task"], fields["seed"]) == (1e-3, "classification", 0)
    assert (fields["recipe.betas"], fields["dropout"], fields["log.samples"]) == ("[0.9, 0.999]", "null", False)
    assert all(isinstance(value, bool | int | float | str) for value in fields.values())


def test_one_that_does_not_start_ends_the_run(tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("api_key not configured\n  call wandb login")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    text = "^log.trackers: wandb does not start: RuntimeError: api_key not configured call wandb login$"
    with pytest.raises(UserError, match=text):
        Trackers(tmp_path, configured("wandb"), -1)
    assert not (tmp_path / "trackers.json").exists()


@pytest.mark.parametrize("checkpoint", [None, Path("step-00000004")])
def test_a_new_run_that_does_not_start_leaves_its_directory_free(
    checkpoint: Path | None, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if another tracker has started. A resumed run keeps what it has."""
    monkeypatch.setattr(sys.modules["wandb"], "init", lambda **_: 1 / 0)
    (tmp_path / "metrics.jsonl").touch()
    resume_point = ResumePoint(checkpoint, None, state={"clock": {"step": 4}})
    with pytest.raises(UserError, match="^log.trackers: wandb does not start: ZeroDivisionError"):
        trackers.start(SimpleNamespace(is_main_process=True), tmp_path, configured("mlflow", "wandb"), resume_point)
    assert run_directory.is_occupied(tmp_path) == (checkpoint is not None)


def test_one_that_fails_during_training_is_a_warning_once(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The other one gets everything, and so does the failed one once its server is back."""
    started = Trackers(tmp_path, configured("mlflow", "wandb"), -1)
    working = sys.modules["mlflow"].log_metrics

    def down(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(sys.modules["mlflow"], "log_metrics", down)
    for step in (1, 2):
        started.log({"train/loss": 0.5}, step)
    started._thread.submit(int).result()
    monkeypatch.setattr(sys.modules["mlflow"], "log_metrics", working)
    started.log({"train/loss": 0.5}, 3)
    started.finish()
    assert [call["step"] for call in calls.of("wandb.log")] == [1, 2, 3]
    assert [call["step"] for call in calls.of("mlflow.log")] == [3]
    text = "mlflow: ConnectionError: no route to host; training goes on, and metrics.jsonl has everything"
    assert capsys.readouterr().err == f"warning: log.trackers: {text}\n"


@pytest.mark.timeout(20)
def test_one_that_hangs_does_not_block_the_end(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "_FINISH_SECONDS", 0.2)
    started, over = Trackers(tmp_path, configured("mlflow"), -1), threading.Event()
    monkeypatch.setattr(sys.modules["mlflow"], "log_metrics", lambda *_, **__: over.wait())
    started.log({"train/loss": 0.5}, 1)
    started.finish()
    over.set()
    assert "mlflow: does not accept the last lines" in capsys.readouterr().err


def test_others_of_accelerate_get_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    monkeypatch.setitem(sys.modules, "swanlab", module := ModuleType("swanlab"))
    module.init, module.log = calls.record("init", SimpleNamespace(finish=calls.record("finish"))), calls.record("log")
    module.config = {}
    started = Trackers(tmp_path, configured("swanlab"), -1)
    assert calls.of("init")[0]["project"] == "bert-warmup"
    started.finish()


def test_figures_go_to_the_trackers_that_take_pictures(tmp_path: Path) -> None:
    """To a real TensorBoard, to one of W&B's kind and one of MLflow's; others are left alone."""
    from accelerate.tracking import TensorBoardTracker
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    file = io.BytesIO()
    Image.new("RGB", (8, 4), (255, 0, 0)).save(file, "png")
    pictures, calls = {"learning rate": file.getvalue()}, Calls()
    board = TensorBoardTracker("tensorboard", str(tmp_path))
    board.start()
    trackers._log_pictures("tensorboard", board, pictures, 7)
    board.finish()
    (folder,) = {path.parent for path in tmp_path.rglob("events*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    (image,) = (event for tag in events.Tags()["images"] for event in events.Images(tag))
    assert (image.width, image.height, image.step) == (8, 4, 7)
    trackers._log_pictures("wandb", SimpleNamespace(log_images=calls.record("images")), pictures, 7)
    trackers._log_pictures("mlflow", SimpleNamespace(log_figure=calls.record("figure")), pictures, 7)
    trackers._log_pictures("trackio", SimpleNamespace(), pictures, 7)
    ((name, given), (other, figure)) = calls
    assert (name, given["step"], given[0]["report/learning rate"][0].shape) == ("images", 7, (4, 8, 3))
    assert (other, figure[0].size, figure[1]) == ("figure", (8, 4), "report/learning rate.png")
