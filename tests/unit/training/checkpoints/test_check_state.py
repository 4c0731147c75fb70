"""A sealed state that this program did not write ends in one line, before anything is changed; also by a seeded fuzz.

More of the fuzz: WARMUP_FUZZ=20000 python -m pytest tests/unit/training/checkpoints/test_check_state.py
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from warmup.config import Config
from warmup.config.recipe import Recipe
from warmup.elastic import LRSchedule
from warmup.errors import UserError
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import resume, run_directory
from warmup.training.checkpoints.check_state import check_lr_schedule, check_state
from warmup.training.checkpoints.format import BrokenCheckpoint
from warmup.training.checkpoints.state import RunState, config_fields

CASES = int(os.environ.get("WARMUP_FUZZ", 300))
RECIPE = Recipe("sgd", 0.1, 32, warmup="10 steps", duration="100 steps")
CONFIG = Config(recipe=RECIPE)
PLAN = make_plan(RECIPE, Topology(2, 16), 1000)
EARLIER = LRSchedule(make_plan(RECIPE, Topology(4, 16), 1000))
POSITION = {"step": 4, "samples": 128, "consumed_samples": 160, "tokens": 40}


def valid_state() -> dict[str, Any]:
    """With everything that a state can have."""
    evaluations = {"metrics": {"loss": 2.0}, "evaluated": POSITION, "best_step": 3, "best_metrics": {"loss": 1.5}}
    evaluations |= {"details": {"model_settings": {"null_threshold": 0.5}}, "best_details": {"per_class": {}}}
    run_state = RunState(config_fields(CONFIG), "key", LRSchedule(PLAN, 32, EARLIER, 96, 320), **evaluations)
    state = {
        "clock": POSITION,
        "lr_schedule": run_state.lr_schedule.to_dict(),
        "config": run_state.config,
        "data": "key",
        "world_size": 2,
        "evaluations": run_state.evaluations(),
        "stream": {"epoch": 1, "shard": 0, "row": 3, "bad_rows": 0, "chunk": 2, "consumed_samples": 128},
        "scaler": {"scale": 2.0},
    }
    return json.loads(json.dumps(state))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checkpoint_format, "flush_to_disk", lambda path: None)  # which takes most of the time
    (tmp_path / ".lock").touch()
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "consumed_samples": 160}\n')
    sealed(tmp_path, json.dumps(valid_state()))
    return tmp_path


def sealed(run: Path, state: str) -> Path:
    """The checkpoint of step 4 with a state.json of this text, and a manifest that fits it."""
    folder = checkpoint_format.checkpoint_path(run, 4)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (checkpoint_format.MODEL, checkpoint_format.OPTIMIZER):
        (folder / name).write_bytes(b"weights")
    (folder / checkpoint_format.MANIFEST).unlink(missing_ok=True)
    (folder / checkpoint_format.STATE).write_text(state, encoding="utf-8", errors="surrogatepass")
    checkpoint_format._seal(folder)
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def resumed(run: Path) -> str | None:
    """Resume as far as the run directory is entered. Returns the message if it is refused; None if it is not."""
    before = contents(run)
    try:
        point = resume.find_resume_point("auto", str(run))
        resume.reconcile_config(CONFIG, point)
        resume.initial_state(point, config_fields(CONFIG), "key", point.lr_schedule, "loss")
        resume.describe_changes(point, point.lr_schedule, 2)
        run_directory.enter(point.run_dir, "mlm", point)
    except UserError as error:
        assert contents(run) == before
        text = str(error)
        assert text.isprintable() and len(text) < 1500, text
        return text
    finally:
        run_directory.release(run)
    return None


def test_a_valid_state_is_accepted(run: Path) -> None:
    check_state(valid_state())
    assert resumed(run) is None


@pytest.mark.parametrize(("change", "message"), [
    (lambda state: state.pop("clock"), "clock is missing"),
    (lambda state: state.update(clock=[1]), "clock is [1] and should have a step, samples, consumed_samples and"),
    (lambda state: state["clock"].pop("tokens"), "clock is {"),
    (lambda state: state["clock"].update(consumed_samples=-32), "clock is {"),
    (lambda state: state["clock"].update(samples=True), "clock is {"),
    (lambda state: state["clock"].update(samples=1e3), "clock is {"),
    (lambda state: state["clock"].update(samples=10**30), "clock is {"),
    (lambda state: state["clock"].update(samples=999), "clock should have step <= samples <= consumed_samples"),
    (lambda state: state.update(config=3), "config is 3 and should be an object"),
    (lambda state: state.update(data=None), "data is None and should be a text"),
    (lambda state: state.update(world_size=0), "world_size is 0 and should be a whole number from 1 up"),
    (lambda state: state.update(evaluations=[]), "evaluations is [] and should be an object"),
    (lambda state: state["evaluations"].update(best_step="3"), "evaluations.best_step is '3' and should be null or"),
    (lambda state: state["evaluations"].update(best_step=None), "evaluations should have both of best_step and"),
    (lambda state: state["evaluations"].update(metrics={"loss": "low"}), "evaluations.metrics is {'loss': 'low'}"),
    (lambda state: state["evaluations"].update(evaluated={"step": 1}), "evaluations.evaluated is {'step': 1}"),
    (lambda state: state["evaluations"].update(pending=1), "evaluations.pending is 1 and should be true or false"),
    (lambda state: state["stream"].update(row=-1), "stream.'row' is -1 and should be a whole number from 0 up"),
    (lambda state: state["lr_schedule"].update(since="now"), "since is 'now' and should be a whole number from 0"),
    (lambda state: state["lr_schedule"]["plan"].update(peak_lr="high"), "plan.peak_lr is 'high' and should be of type"),
    (lambda state: state["lr_schedule"]["plan"].update(betas=[1]), "plan.betas is (1,) and should be of type tuple"),
    (lambda state: state["lr_schedule"]["plan"].update(total_samples=0), "plan.total_samples is 0 and should be 1"),
    (lambda state: state["lr_schedule"]["plan"].update(decay="wavy"), "wavy"),
    (lambda state: state["lr_schedule"]["before"].update(before=state["lr_schedule"]["before"]["plan"]), "another ver"),
])  # fmt: skip
def test_what_is_wrong_with_a_state_is_named(run: Path, change: Callable[[dict], object], message: str) -> None:
    state = valid_state()
    change(state)
    folder = sealed(run, json.dumps(state))
    text = resumed(run)
    assert text is not None and text.startswith(f"--resume: {folder}") and message in text, text


@pytest.mark.parametrize("text", ["", "null", "[]", "3", '"clock"', "{", "[" * 100_000, '{"clock": ' * 50_000, "{}"])
def test_a_state_that_is_no_object(run: Path, text: str) -> None:
    folder = sealed(run, text)
    assert (resumed(run) or "").startswith(f"--resume: {folder}: ")


def test_a_schedule_nested_too_deeply(run: Path) -> None:
    """Though JSON can be read."""
    state = valid_state()
    schedule = json.dumps(state["lr_schedule"] | {"before": None})
    head, tail = schedule.split('"before": null')
    depth = 700
    text = json.dumps(state | {"lr_schedule": "HERE"})
    nested = f'{head}"before": ' * depth + schedule + tail * depth
    sealed(run, text.replace('"HERE"', nested))
    assert resumed(run) is None or "another version" in (resumed(run) or "")


ODD = (None, True, False, 0, -1, 1, 3.5, -0.0, 1e308, float("nan"), float("inf"), 2**53, 2**64, -(2**63), 10**400, "",
       "4", "x\ny", "\ud800", "\x00", [], {}, [1], [[]], {"step": 1}, {"": None}, "planted:curve", "mlm")  # fmt: skip


def paths(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Where there is something in nested objects and lists."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*path, key))


def spoil(content: dict, random_: random.Random) -> dict:
    """A copy in which up to three values are others, gone, or in addition."""
    content = copy.deepcopy(content)
    for _ in range(random_.randint(1, 3)):
        *way, last = random_.choice(list(paths(content)))
        parent = content
        for key in way:
            parent = parent[key]
        how = random_.random()
        if how < 0.7:
            parent[last] = copy.deepcopy(random_.choice(ODD))
        elif how < 0.85:
            del parent[last]
        elif isinstance(parent, dict):
            parent[random_.choice(("x", "", "a\nb", "before", "step"))] = copy.deepcopy(random_.choice(ODD))
    return content


def damaged(text: str, random_: random.Random) -> str:
    """Up to four characters are others, gone or twice there."""
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(text))
        text = text[:at] + random_.choice(("", text[at] * 2, random_.choice('{}[]",:-019eNx\n\\'))) + text[at + 1 :]
    return text


def test_no_state_is_read_wrongly(run: Path) -> None:
    """Each is accepted, or refused in one line with nothing changed."""
    random_, ended = random.Random(0), {True: 0, False: 0}
    log = (run / "metrics.jsonl").read_bytes()
    for number in range(CASES):
        state = spoil(valid_state(), random_)
        text = json.dumps(state)
        sealed(run, damaged(text, random_) if number % 4 == 0 else text)
        ended[resumed(run) is None] += 1
        assert len(checkpoint_format.list_checkpoints(run)) == 1
        (run / "metrics.jsonl").write_bytes(log)
    assert min(ended.values()) > CASES / 25, ended  # it tries both


def test_no_manifest_is_read_wrongly(run: Path) -> None:
    """Each is accepted only if it names every file that a checkpoint has as it is; otherwise it is broken."""
    folder, random_, broken = checkpoint_format.checkpoint_path(run, 4), random.Random(1), 0
    whole = json.loads((folder / "manifest.json").read_text())
    names = ("../x", "/etc/hostname", ".", "", "a" * 300, "x\ny", "\ud800", "\x00", "model.safetensors/x")
    for number in range(CASES):
        manifest = spoil(whole, random_)
        if number % 5 == 0 and isinstance(manifest.get("files"), dict):
            manifest["files"][random_.choice(names)] = {"bytes": 1, "sha256": ""}
        text = json.dumps(manifest)
        (folder / "manifest.json").write_text(damaged(text, random_) if number % 4 == 0 else text)
        try:
            checkpoint_format.verify(folder)
            assert json.loads((folder / "manifest.json").read_text())["format"] == 1
            found = json.loads((folder / "manifest.json").read_text())["files"]
            for name, entry in whole["files"].items():
                assert {key: found[name][key] for key in entry} == entry
        except BrokenCheckpoint as error:
            broken += 1
            assert str(error).isprintable() and len(str(error)) < 700
            assert (resumed(run) or "").startswith("--resume: none of the checkpoints in ")
    assert broken > CASES / 2


@pytest.mark.parametrize("start", [0, 33])
def test_a_batch_that_would_not_grow_from_a_size_to_its_own(start: int) -> None:
    recipe = Recipe("sgd", 0.1, 32, duration="100 steps")
    plan = make_plan(recipe, Topology(1, 32, 1, 32, "1000 samples", 8))
    check_lr_schedule(LRSchedule(plan))
    with pytest.raises(ValueError, match="start_size"):
        check_lr_schedule(LRSchedule(replace(plan, batch_start_size=start)))
