"""Resuming: from which checkpoint, in which directory, and whether the configuration fits."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from made_checkpoints import CONFIG, LR_SCHEDULE, RECIPE, at, clock_at, everything, harm, save, state_at

from warmup.config import Config
from warmup.config.data import Data
from warmup.config.run import Batch, Checkpoint, Elastic, Launch, Log, Speed
from warmup.elastic import LRSchedule
from warmup.errors import UserError
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import resume, run_directory
from warmup.training.checkpoints.resume import find_resume_point, reconcile_config
from warmup.training.checkpoints.state import ResumePoint, RunState, config_fields


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with checkpoints of steps 2, 3 and 4, and a log."""
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (2, 3, 4):
        save(folder, step, state_at(step))
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"consumed_samples": 32 * step}) + "\n" for step in (1, 2, 3, 4))
    )
    return folder


def refusal(requested: str | None, run_dir: Path | str | None) -> str:
    with pytest.raises(UserError) as caught:
        find_resume_point(requested, None if run_dir is None else str(run_dir))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# From nothing


@pytest.mark.parametrize("requested", [None, "never"])
def test_a_fresh_start(requested: str | None, tmp_path: Path, run: Path) -> None:
    assert find_resume_point(requested, None) == ResumePoint(None, None)
    missing = str(tmp_path / "missing")
    assert find_resume_point(requested, missing) == ResumePoint(None, missing) and not Path(missing).exists()
    text = f"run_dir: {run} is occupied; give another one, remove it, or go on with it: --resume auto"
    assert refusal(requested, run) == text
    assert run_directory._held == []


def test_auto_needs_a_directory() -> None:
    assert refusal("auto", None) == "--resume: auto needs a run directory to look in; give --run_dir"


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "a lock"])
def test_auto_begins_where_there_is_nothing(tmp_path: Path, there: str) -> None:
    """The first start of a job that will be started again and again."""
    folder = tmp_path / "run"
    if there != "nothing":
        folder.mkdir()
    if there == "a lock":
        (folder / ".lock").touch()
    before = sorted(tmp_path.rglob("*"))
    assert find_resume_point("auto", str(folder)) == ResumePoint(None, str(folder))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_auto_touches_nothing_that_is_no_run_directory(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "mine"
    if kind == "file":
        folder.write_text("mine")
    else:
        folder.mkdir()
        (folder / "thesis.tex").write_text("mine")
    before = everything(tmp_path)
    text = f"run_dir: {folder} is occupied and not a run directory; give another one"
    assert refusal("auto", folder) == text and everything(tmp_path) == before


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    notes = (f"no checkpoint in {tmp_path} to go on from: starting afresh",)
    assert find_resume_point("auto", str(tmp_path)) == ResumePoint(None, str(tmp_path), notes)


# From the newest


def test_auto_finds_the_newest(run: Path) -> None:
    point = find_resume_point("auto", str(run))
    assert (point.checkpoint, point.run_dir, point.notes, point.abandoned) == (at(run, 4), str(run), (), ())
    assert point.state == state_at(4) and point.lr_schedule == LR_SCHEDULE
    assert len(run_directory._held) == 1


def test_auto_passes_over_what_is_broken_and_says_so(run: Path) -> None:
    words = [harm(at(run, 4)), harm(at(run, 3))]
    point = find_resume_point("auto", str(run))
    assert point.checkpoint == at(run, 2) and point.state["clock"]["step"] == 2
    assert point.notes == (
        *(f"skipped: {reason}" for reason in words),
        "set aside as discarded-step-00000004",
        "set aside as discarded-step-00000003",
    )
    assert point.abandoned == (at(run, 4), at(run, 3))
    assert (at(run, 4) / checkpoint_format.MODEL).is_file()  # not before the directory is entered


def test_where_all_are_broken_auto_refuses_and_touches_nothing(run: Path) -> None:
    (run / ".lock").touch()
    words = [harm(at(run, step)) for step in (4, 3, 2)]
    before = everything(run)
    assert refusal("auto", run) == (
        f"--resume: none of the checkpoints in {run} is valid: {'; '.join(words)}; mend them, name another one with "
        "--resume PATH, or start another run in another --run_dir"
    )
    assert everything(run) == before


def test_checkpoints_of_a_newer_version_are_no_reason_to_start_over(run: Path) -> None:
    (run / ".lock").touch()
    for step in (2, 3, 4):
        manifest = at(run, step) / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    before, text = everything(run), refusal("auto", run)
    assert text.count("was written by a newer version of this program: its format is 2, this version reads 1") == 3
    assert everything(run) == before


@pytest.mark.parametrize("how", ["discarded", "removed"])
def test_where_the_checkpoints_are_gone_auto_refuses(run: Path, how: str) -> None:
    (run / ".lock").touch()
    for step in (2, 3, 4):
        if how == "discarded":
            checkpoint_format.set_aside(at(run, step))
    if how == "removed":
        shutil.rmtree(run / "checkpoints")
        (run / "result.json").write_text("{}")
    before = everything(run)
    words = {
        "discarded": f"{run} has only checkpoints that were set aside: discarded-step-00000002, discarded-step-0000000",
        "removed": f"the run in {run} has ended, and its checkpoints are gone; put them back, or start another run",
    }
    assert refusal("auto", run).startswith(f"--resume: {words[how]}")
    assert everything(run) == before


def test_other_files_in_all_checkpoints_are_left_alone(run: Path, tmp_path: Path) -> None:
    for step in (2, 3, 4):
        (at(run, step) / ".DS_Store").write_text("mine")
        (at(run, step) / ".cache").mkdir()
        (at(run, step) / "note").write_text("mine")
    note = f"{at(run, 4)}: .DS_Store, .cache, note: no part of the checkpoint, left alone"
    point = find_resume_point("auto", str(run))
    assert (point.checkpoint, point.notes, point.abandoned) == (at(run, 4), (note,), ())
    run_directory.enter(str(run), "mlm", point)
    assert (at(run, 4) / "note").read_text() == "mine"
    assert find_resume_point(str(at(run, 4)), str(tmp_path / "new")).notes == (note,)


@pytest.mark.parametrize("requested", ["auto", "path"])
def test_a_copy_under_another_steps_name_is_refused(run: Path, requested: str) -> None:
    (run / ".lock").touch()
    copy = Path(shutil.copytree(at(run, 4), at(run, 9)))
    before = everything(run)
    text = refusal("auto" if requested == "auto" else str(copy), run)
    assert text == (
        f"--resume: {copy}: holds the checkpoint of step 4; rename it after that step, or remove it if it is a copy"
    )
    assert everything(run) == before


# From a path


def test_a_checkpoint_of_a_run_goes_on_in_that_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came later is not of its past."""
    point = find_resume_point(str(at(run, 3)), None)
    assert (point.checkpoint, point.run_dir, point.abandoned) == (at(run, 3), str(run), (at(run, 4),))
    assert point.notes == ("set aside as discarded-step-00000004",) and point.state == state_at(3)
    assert len(run_directory._held) == 1


def test_the_same_run_in_other_words(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    point = find_resume_point("run/../run/checkpoints/step-00000003", "./run")
    assert (point.run_dir, [path.name for path in point.abandoned]) == ("./run", ["step-00000004"])
    assert len(run_directory._held) == 1


def test_a_home_is_expanded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(run.parent))
    assert find_resume_point("~/run/checkpoints/step-00000003", None).checkpoint == at(run, 3)


def test_a_checkpoint_goes_on_in_another_directory(run: Path, tmp_path: Path) -> None:
    """Which leaves its run as it is, and free."""
    before = everything(run)
    for given in (at(run, 3), run):
        point = find_resume_point(str(given), str(tmp_path / "new"))
        assert point.checkpoint == (at(run, 3) if given == at(run, 3) else at(run, 4))
        assert (point.run_dir, point.notes, point.abandoned) == (str(tmp_path / "new"), (), ())
    assert everything(run) == before and run_directory._held == []
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").touch()
    assert refusal(str(at(run, 3)), tmp_path / "new").startswith(f"run_dir: {tmp_path}/new is occupied")


def test_a_run_directory_stands_for_its_newest(run: Path) -> None:
    words = harm(at(run, 4))
    point = find_resume_point(str(run), None)
    assert (point.checkpoint, point.run_dir, point.abandoned) == (at(run, 3), str(run), (at(run, 4),))
    assert point.notes == (f"skipped: {words}", "set aside as discarded-step-00000004")


def test_a_run_directory_without_a_valid_one_is_refused(run: Path, tmp_path: Path) -> None:
    """Whoever names it does not want a fresh start."""
    words = "; ".join(f"skipped: {harm(at(run, step))}" for step in (4, 3, 2))
    assert refusal(str(run), None) == f"--resume: no valid checkpoint in {run} ({words})"
    (tmp_path / "bare" / "checkpoints").mkdir(parents=True)
    assert refusal(str(tmp_path / "bare"), None) == f"--resume: no valid checkpoint in {tmp_path}/bare (there is none)"


def test_a_broken_checkpoint_is_refused_by_its_fault(run: Path) -> None:
    words = harm(at(run, 3))
    assert refusal(str(at(run, 3)), None) == f"--resume: {words}; give another one, or auto"


def test_nonsense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file"):
        assert refusal(str(path), None) == (
            f"--resume: {path} is neither auto, never, a checkpoint nor a run directory"
        )
    assert refusal("always", None).startswith("--resume: always is neither auto, never,")
    text = f"--resume: {tmp_path}: manifest.json is missing or unreadable; give another one, or auto"
    assert refusal(str(tmp_path), None) == text


@pytest.mark.parametrize("name", ["copy", "checkpoints-of-mine/step-00000003"])
def test_a_checkpoint_away_from_its_run_claims_no_folder_above_it(run: Path, tmp_path: Path, name: str) -> None:
    """Two levels up is no run directory: nothing there is to be locked, cut or written over."""
    home = tmp_path / "home"
    folder = home / "backup" / name
    folder.parent.mkdir(parents=True)
    at(run, 3).rename(folder)
    (home / "metrics").write_text("mine")
    (home / "backup" / "metrics").write_text("mine")
    before = everything(home)
    try:
        point = find_resume_point(str(folder), None)
    except UserError as error:
        assert "--run_dir" in str(error)
    else:
        assert (point.checkpoint, point.run_dir, point.abandoned) == (folder, None, ())
    assert everything(home) == before and run_directory._held == []
    point = find_resume_point(str(folder), str(tmp_path / "new"))
    assert (point.checkpoint, point.run_dir) == (folder, str(tmp_path / "new"))


def test_a_discarded_checkpoint_abandons_only_what_is_later(run: Path) -> None:
    """It is of step 3, whatever it is called."""
    aside = checkpoint_format.set_aside(at(run, 3))
    point = find_resume_point(str(aside), None)
    assert (point.checkpoint, point.state["clock"]["step"]) == (aside, 3)
    assert at(run, 4) in point.abandoned and at(run, 2) not in point.abandoned


def test_a_run_in_use_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(FileLock):
        def acquire(self, timeout: float = 0) -> object:
            return super().acquire(timeout=0)

    monkeypatch.setattr(run_directory, "FileLock", Impatient)
    script = (
        "import sys; from filelock import FileLock\n"
        "lock = FileLock(sys.argv[1]); lock.acquire(); print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(run / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "mine\n"
        for requested, run_dir in (("auto", run), (str(run), None), (str(at(run, 3)), None), (str(at(run, 3)), run)):
            text = f"run_dir: {run} is in use by another run; wait for it, or give another one"
            assert refusal(requested, run_dir) == text
        other.stdin.close()
    assert find_resume_point("auto", str(run)).checkpoint == at(run, 4)


def test_what_is_found_can_be_entered(run: Path) -> None:
    point = find_resume_point(str(at(run, 3)), None)
    assert run_directory.enter(point.run_dir, "mlm", point) == run
    names = ["discarded-step-00000004", "step-00000002", "step-00000003"]
    assert sorted(os.listdir(run / "checkpoints")) == names
    assert [json.loads(line)["consumed_samples"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [
        32,
        64,
        96,
    ]


# Whether it fits


def point_of(
    config: Config = CONFIG, lr_schedule: LRSchedule = LR_SCHEDULE, step: int = 4, **state: object
) -> ResumePoint:
    """As found on a disk."""
    content = json.loads(json.dumps(state_at(step, config, lr_schedule) | state))
    return ResumePoint(Path("runs/x/checkpoints/step-00000004"), "runs/x", state=content)


def test_a_fresh_start_fits_always() -> None:
    assert reconcile_config(CONFIG, ResumePoint(None, None)) == (CONFIG, [])


def test_the_same_configuration_fits() -> None:
    assert reconcile_config(CONFIG, point_of()) == (CONFIG, [])


@pytest.mark.parametrize(("name", "now", "was"), [
    ("task", "classification", "mlm"), ("model", "mini", "tiny"), ("dropout", None, 0.1), ("dropout", 0.2, 0.1),
    ("seed", 8, 7), ("recipe.optimizer", "adamw", "sgd"), ("recipe.momentum", 0.5, 0.9), ("data.mask_rate", 0.2, 0.15),
])  # fmt: skip
def test_what_a_checkpoint_does_not_fit_another_value_of(name: str, now: object, was: object) -> None:
    part, _, leaf = name.rpartition(".")
    changed = dataclasses.replace(getattr(CONFIG, part), **{leaf: now}) if part else now
    config = dataclasses.replace(CONFIG, **{part or leaf: changed})
    with pytest.raises(UserError) as caught:
        reconcile_config(config, point_of())
    assert str(caught.value) == (
        f"{name}: the checkpoint runs/x/checkpoints/step-00000004 was made with {was!r}, this run has {now!r}; give "
        "the same, or start another run"
    )


def test_all_else_may_change() -> None:
    """What changes how a step is computed is told."""
    config = Config(
        dropout=0.1,
        seed=7,
        run_dir="elsewhere",
        time_limit="1 hour",
        recipe=RECIPE,
        batch=Batch(3, 5),
        data=Data(train_files=("moved.csv",), cache_dir="elsewhere"),
        launch=Launch(4, timeout=9),
        checkpoint=Checkpoint("1 epochs", 3),
        elastic=Elastic("keep", "1%"),
        log=Log(9, 9, trackers=("tensorboard",)),
    )
    assert reconcile_config(config, point_of()) == (
        config, ["batch.per_device was 32, is 3", "batch.accumulation was None, is 5"]
    )  # fmt: skip


def test_changes_of_speed_are_told() -> None:
    speed, batch = Speed(packing=False, attention="mask", gradient_checkpointing=True), Batch(8, evaluation=9)
    config = dataclasses.replace(CONFIG, speed=speed, batch=batch)
    assert reconcile_config(config, point_of()) == (config, [
        "batch.per_device was 32, is 8",
        "batch.evaluation was 64, is 9",
        "speed.packing was True, is False",
        "speed.attention was 'auto', is 'mask'",
        "speed.gradient_checkpointing was False, is True",
    ])  # fmt: skip


def test_a_field_that_the_version_before_did_not_have_is_no_change() -> None:
    """It did what the default does."""
    point = point_of()
    point.state["config"].pop("speed.attention")
    assert reconcile_config(CONFIG, point) == (CONFIG, [])
    changed = dataclasses.replace(CONFIG, speed=Speed(attention="mask"))
    assert reconcile_config(changed, point)[1] == ["speed.attention was 'auto', is 'mask'"]


def test_changes_of_the_recipe_are_told() -> None:
    recipe = dataclasses.replace(
        RECIPE, lr=0.2, decay="cosine", decay_milestones=("3 steps",), betas=(0.9, 0.98), max_lr=1.0
    )
    config = dataclasses.replace(CONFIG, recipe=recipe)
    assert reconcile_config(config, point_of()) == (config, [
        "recipe.lr was 0.1, is 0.2",
        "recipe.max_lr was None, is 1.0",
        "recipe.decay was 'linear', is 'cosine'",
        "recipe.decay_milestones was [], is ('3 steps',)",
        "recipe.betas was [0.9, 0.999], is (0.9, 0.98)",
    ])  # fmt: skip


NAMELESS = dataclasses.replace(RECIPE, reference_batch_size=None)


def test_without_a_reference_the_checkpoints_is_taken() -> None:
    """The one that the recipe named, or the batch that the run began with; not the batch that it came to."""
    config = dataclasses.replace(CONFIG, recipe=NAMELESS)
    assert reconcile_config(config, point_of())[0] == CONFIG
    rescaled = LRSchedule(make_plan(RECIPE, Topology(4, 16), 1000))
    assert reconcile_config(config, point_of(lr_schedule=rescaled))[0] == CONFIG
    unscaled = dataclasses.replace(NAMELESS, scaling="none")
    began = dataclasses.replace(CONFIG, recipe=unscaled)
    lr_schedule = LRSchedule(make_plan(unscaled, Topology(3, 16), 1000))
    taken = dataclasses.replace(unscaled, reference_batch_size=48)
    assert reconcile_config(began, point_of(began, lr_schedule)) == (dataclasses.replace(CONFIG, recipe=taken), [])


def test_a_reference_that_is_taken_is_no_change() -> None:
    assert reconcile_config(dataclasses.replace(CONFIG, recipe=NAMELESS), point_of())[1] == []


def test_a_reference_that_is_given_is_kept() -> None:
    config = dataclasses.replace(CONFIG, recipe=dataclasses.replace(RECIPE, reference_batch_size=64))
    assert reconcile_config(config, point_of()) == (config, ["recipe.reference_batch_size was 32, is 64"])


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears when the module `planted` is imported."""
    canary = tmp_path / "canary"
    code = f"from pathlib import Path\nPath({str(canary)!r}).touch()\ndef curve(*_): return 0.001\n"
    (tmp_path / "planted.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield canary
    sys.modules.pop("planted", None)


@pytest.mark.parametrize("field", ["ramp", "decay"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_checkpoint_names_no_code_of_its_own(planted: Path, field: str, nested: bool) -> None:
    """Neither in its plan nor in an earlier one. Nothing is imported to find out."""
    evil = LRSchedule(dataclasses.replace(LR_SCHEDULE.plan, **{field: "planted:curve"}))
    lr_schedule = (
        LRSchedule(LR_SCHEDULE.plan, 32, LRSchedule(LR_SCHEDULE.plan, 32, evil, 64, 64), 128, 64) if nested else evil
    )
    with pytest.raises(UserError) as caught:
        reconcile_config(CONFIG, point_of(lr_schedule=lr_schedule))
    assert str(caught.value) == (
        "--resume: runs/x/checkpoints/step-00000004 follows planted:curve, which this run's recipe does not name"
    )
    assert not planted.exists() and "planted" not in sys.modules
    assert evil.lr_at(0 if field == "ramp" else 3000) == 0.001 and planted.exists()  # it would have been


def test_a_checkpoint_names_no_scaling_rule_of_its_own(planted: Path) -> None:
    """Where the batch is warmed up, the rule is called for each smaller step."""
    grown = Topology(2, 16, batch_warmup="10 steps", batch_start_size=8)
    plan = dataclasses.replace(make_plan(RECIPE, grown, 1000), scaling="planted:curve")
    with pytest.raises(UserError, match="follows planted:curve, which this run's recipe does not name"):
        reconcile_config(CONFIG, point_of(lr_schedule=LRSchedule(plan)))
    assert not planted.exists() and "planted" not in sys.modules
    named = dataclasses.replace(CONFIG, recipe=dataclasses.replace(RECIPE, scaling="planted:curve"))
    assert reconcile_config(named, point_of(named, LRSchedule(plan))) == (named, [])


def test_code_that_the_configuration_names_is_followed(planted: Path) -> None:
    recipe = dataclasses.replace(RECIPE, decay="planted:curve")
    config = dataclasses.replace(CONFIG, recipe=recipe)
    lr_schedule = LRSchedule(make_plan(recipe, Topology(2, 16), 1000))
    assert reconcile_config(config, point_of(config, lr_schedule)) == (config, [])


@pytest.mark.parametrize("harm", [
    lambda state: state.pop("lr_schedule"), lambda state: state["lr_schedule"].pop("plan"),
    lambda state: state.update(lr_schedule=3), lambda state: state["lr_schedule"]["plan"].update(later=1),
    lambda state: state["lr_schedule"].update(plan=[]),
], ids=["no schedule", "no plan", "a number", "a plan with more", "a list"])  # fmt: skip
def test_what_another_version_wrote_is_refused(harm: Callable[[dict], object]) -> None:
    point = point_of()
    harm(point.state)
    with pytest.raises(UserError, match="^--resume: runs/x/checkpoints/step-00000004 was written by another version: "):
        reconcile_config(CONFIG, point)


def test_names_of_older_versions_are_still_read(run: Path) -> None:
    """They called the schedule "course", and the position in the data "drawn"."""
    evaluated = {"step": 3, "samples": 96, "consumed_samples": 96, "tokens": 30}
    state = state_at(4, evaluated=evaluated)
    old = json.loads(json.dumps(state).replace("consumed_samples", "drawn"))
    old["course"] = old.pop("lr_schedule")
    save(run, 5, old | {"clock": old["clock"] | {"step": 5}})
    point = find_resume_point("auto", str(run))
    assert point.checkpoint == at(run, 5) and "drawn" not in json.dumps(point.state)
    assert point.state == state | {"clock": state["clock"] | {"step": 5}} and point.lr_schedule == LR_SCHEDULE
    assert reconcile_config(CONFIG, point) == (CONFIG, [])
    assert resume.initial_state(point, config_fields(CONFIG), "key", LR_SCHEDULE, "loss").evaluated == evaluated


@pytest.mark.parametrize("written", ["before", "since"])
def test_thresholds_that_older_versions_kept_beside_the_checkpoints_are_still_read(run: Path, written: str) -> None:
    """Only in evaluation.json of the run directory. What a checkpoint says itself counts, nothing too."""
    evaluated, best = clock_at(4).state_dict(), {"best_step": 3, "best_metrics": {"loss": 1.0}}
    state = state_at(5, evaluated=evaluated, **best)
    if written == "before":
        del state["evaluations"]["details"], state["evaluations"]["best_details"]
    records = [
        {"step": 3, "metrics": {"loss": 1.0}, "model_settings": {"thresholds": {"a": 0.3}}, "per_class": {"a": {}}},
        {"step": 4, "metrics": {"loss": 2.0}, "per_class": {"a": {"f1": 1.0}}, "examples": []},
    ]
    (run / "evaluation.json").write_text(json.dumps({"evaluations": records}))
    save(run, 5, state)
    point = find_resume_point("auto", str(run))
    found = resume.initial_state(point, config_fields(CONFIG), "key", LR_SCHEDULE, "loss")
    best = {"per_class": {"a": {}}, "model_settings": {"thresholds": {"a": 0.3}}} if written == "before" else {}
    last = {"per_class": {"a": {"f1": 1.0}}} if written == "before" else {}
    assert (found.best_step, found.best_details, found.details) == (3, best, last)


def test_other_data_is_refused() -> None:
    resume.check_same_data(ResumePoint(None, None), "anything")
    resume.check_same_data(point_of(), "key of the data")
    with pytest.raises(UserError) as caught:
        resume.check_same_data(point_of(), "key of other data")
    assert str(caught.value) == (
        "data: its content or the tokenizer is not what runs/x/checkpoints/step-00000004 was trained on, or a newer "
        "version orders the classes or holds out rows differently; give the same data, or start another run from "
        "it with --model"
    )


# What has been


@pytest.mark.parametrize(("task", "metric", "sign"), [
    ("mlm", "loss", 1), ("regression", "mse", 1), ("clm", "perplexity", 1), ("classification", "f1", -1),
    ("regression", "pearson", -1),
])  # fmt: skip
def test_the_run_state_knows_the_best(task: str, metric: str, sign: int) -> None:
    """The lowest of some metrics, the highest of others."""
    run_state = RunState({"task": task}, "", LR_SCHEDULE, metric)
    values = [sign * value for value in (2.0, 3.0, 2.0, 1.5)]
    improved = [
        run_state.add(clock_at(step), {metric: value, "other": -value}, {"model_settings": {"of": step}})
        for step, value in enumerate(values, 1)
    ]
    assert improved == [True, False, False, True]  # an equal one is no better
    assert (run_state.best_step, run_state.best_metrics) == (4, {metric: sign * 1.5, "other": sign * -1.5})
    assert run_state.add(clock_at(5), {metric: sign * 9.0}, {"model_settings": {"of": 5}}) is False
    assert (run_state.best_step, run_state.best_metrics[metric]) == (4, sign * 1.5)
    assert [found["model_settings"]["of"] for found in (run_state.best_details, run_state.details)] == [4, 5]
    assert (run_state.metrics, run_state.evaluated) == ({metric: sign * 9.0}, clock_at(5).state_dict())  # the last


def test_the_run_state_counts_evaluations_without_improvement() -> None:
    run_state = RunState({"task": "mlm"}, "", LR_SCHEDULE)
    counts = []
    for step, loss in enumerate((float("nan"), 3.0, 3.0, float("nan"), 2.0, float("inf"), 2.5), 1):
        run_state.add(clock_at(step), {"loss": loss}, {})
        counts.append(run_state.without_improvement)
    assert counts == [1, 0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("metric", ["loss", "f1"])
def test_what_is_no_number_is_not_the_best(metric: str) -> None:
    run_state = RunState({"task": "classification"}, "", LR_SCHEDULE, metric)
    for step, value in ((1, float("nan")), (2, 3.0), (3, float("nan")), (4, 2.0 if metric == "loss" else 4.0)):
        run_state.add(clock_at(step), {metric: value}, {})
    assert run_state.best_step == 4


def test_the_run_state_comes_back_from_a_checkpoint() -> None:
    before = RunState(config_fields(CONFIG), "key", LR_SCHEDULE)
    before.add(clock_at(3), {"loss": 1 / 3}, {"model_settings": {"null_threshold": 1 / 3}})
    state = json.loads(json.dumps(before.state(clock_at(4), world_size=2)))
    assert list(state) == ["clock", "lr_schedule", "config", "data", "world_size", "evaluations"]
    assert (
        state["clock"] == {"step": 4, "samples": 128, "consumed_samples": 128, "tokens": 40}
        and state["world_size"] == 2
    )
    point = ResumePoint(Path("x"), None, state=state)
    assert resume.initial_state(point, config_fields(CONFIG), "key", point.lr_schedule, "loss") == before
    fresh = resume.initial_state(ResumePoint(None, None), {}, "key", LR_SCHEDULE, "loss")
    assert fresh == RunState({}, "key", LR_SCHEDULE) and fresh.best_step is None


def test_by_another_metric_patience_begins_anew() -> None:
    before = RunState(config_fields(CONFIG), "key", LR_SCHEDULE)
    for step in (1, 2, 3):
        before.add(clock_at(step), {"loss": 1.0 + step, "accuracy": 0.5}, {})
    point = ResumePoint(Path("x"), None, state=before.state(clock_at(3), world_size=2))
    fields = config_fields(CONFIG)
    same, other = (resume.initial_state(point, fields, "key", LR_SCHEDULE, metric) for metric in ("loss", "accuracy"))
    assert (same.without_improvement, other.without_improvement) == (2, 0)
    assert (other.best_step, other.best_metrics) == (1, {"loss": 2.0, "accuracy": 0.5})
    assert other.add(clock_at(4), {"loss": 9.0, "accuracy": 0.6}, {})


def test_fields_are_what_json_gives_back() -> None:
    config = dataclasses.replace(CONFIG, recipe=dataclasses.replace(RECIPE, decay_milestones=("3 steps",)))
    fields = config_fields(config)
    assert json.loads(json.dumps(fields)) == fields
    assert (fields["seed"], fields["recipe.betas"], fields["recipe.decay_milestones"]) == (7, [0.9, 0.999], ["3 steps"])
    assert fields["data.train_files"] == [] and fields["time_limit"] is None


def test_what_is_not_as_it_was_for_the_log() -> None:
    """From 32 on 2 ranks to 64 on 4, after 4 steps of a ramp of 10: 5/10 of 0.1 before, 3/5 of 0.2 now."""
    lr_schedule = LRSchedule(make_plan(RECIPE, Topology(4, 16), 1000))
    facts = resume.describe_changes(point_of(), lr_schedule, world_size=4)
    assert facts == {
        "from": "runs/x/checkpoints/step-00000004",
        "world_size_before": 2,
        "world_size": 4,
        "global_batch_size_before": 32,
        "global_batch_size": 64,
        "lr_before": pytest.approx(0.05, rel=1e-12),
        "lr": pytest.approx(0.2 * (128 + 64) / 320, rel=1e-12),
    }
    assert re.fullmatch(r'\{"from": .*\}', json.dumps(facts))
