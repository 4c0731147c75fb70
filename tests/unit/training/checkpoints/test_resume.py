"""Going on: from which checkpoint, in which directory, and whether this run may."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from warmup.clock import StepClock
from warmup.config import Config
from warmup.config.data import Data
from warmup.config.recipe import Recipe
from warmup.config.run import Batch, Checkpoint, Elastic, Launch, Log
from warmup.elastic import LRSchedule
from warmup.errors import UserError
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import resume, run_directory
from warmup.training.checkpoints.resume import find_resume_point, reconcile_config
from warmup.training.checkpoints.state import ResumePoint, RunState, config_fields

RECIPE = Recipe("sgd", 0.1, 32, warmup="10 steps", duration="100 steps")
CONFIG = Config(recipe=RECIPE, dropout=0.1, seed=7)
COURSE = LRSchedule(make_plan(RECIPE, Topology(2, 16), 1000))


@pytest.fixture(autouse=True)
def freed() -> Iterator[None]:
    """Give back what a test has claimed."""
    yield
    while run_directory._held:
        run_directory._held.pop().release()


def clock_at(step: int) -> StepClock:
    made = StepClock(32, 1000)
    for _ in range(step):
        made.advance(tokens=10)
    return made


def state_at(step: int, config: Config = CONFIG, course: LRSchedule = COURSE, **given: object) -> dict:
    history = RunState(config_fields(config), "key of the data", course, **given)
    return history.state(clock_at(step), world_size=2)


def save(run: Path, step: int, state: dict) -> Path:
    def fill(stage: Path) -> None:
        for name in (checkpoint_format.MODEL, checkpoint_format.OPTIMIZER):
            (stage / name).write_bytes(b"weights")
        (stage / checkpoint_format.STATE).write_text(json.dumps(state))

    checkpoint_format.write(checkpoint_format.checkpoint_path(run, step), fill)
    return checkpoint_format.checkpoint_path(run, step)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with checkpoints of steps 2, 3 and 4, and a log."""
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (2, 3, 4):
        save(folder, step, state_at(step))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"drawn": 32 * step}) + "\n" for step in (1, 2, 3, 4)))
    return folder


def at(run: Path, step: int) -> Path:
    return checkpoint_format.checkpoint_path(run, step)


def harm(folder: Path) -> str:
    """Damage a checkpoint; what is then said of it."""
    (folder / checkpoint_format.MODEL).write_bytes(b"weighty")
    return f"{folder}: model.safetensors is not what was written (its SHA-256 differs)"


def refusal(wanted: str | None, run_dir: Path | str | None) -> str:
    with pytest.raises(UserError) as caught:
        find_resume_point(wanted, None if run_dir is None else str(run_dir))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# From nothing


@pytest.mark.parametrize("wanted", [None, "never"])
def test_a_fresh_start(wanted: str | None, tmp_path: Path, run: Path) -> None:
    assert find_resume_point(wanted, None) == ResumePoint(None, None)
    missing = str(tmp_path / "missing")
    assert find_resume_point(wanted, missing) == ResumePoint(None, missing) and not Path(missing).exists()
    text = f"run_dir: {run} is occupied; give another one, remove it, or go on with it: --resume auto"
    assert refusal(wanted, run) == text
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
    origin = find_resume_point("auto", str(run))
    assert (origin.checkpoint, origin.run_dir, origin.notes, origin.abandoned) == (at(run, 4), str(run), (), ())
    assert origin.state == state_at(4) and origin.course == COURSE
    assert len(run_directory._held) == 1


def test_auto_passes_over_what_is_broken_and_says_so(run: Path) -> None:
    words = [harm(at(run, 4)), harm(at(run, 3))]
    origin = find_resume_point("auto", str(run))
    assert origin.checkpoint == at(run, 2) and origin.state["clock"]["step"] == 2
    assert origin.notes == (
        *(f"passed over: {reason}" for reason in words),
        "set aside as discarded-step-00000004",
        "set aside as discarded-step-00000003",
    )
    assert origin.abandoned == (at(run, 4), at(run, 3))
    assert (at(run, 4) / checkpoint_format.MODEL).is_file()  # not before the directory is entered


def test_where_all_are_broken_auto_begins_anew(run: Path) -> None:
    words = [harm(at(run, step)) for step in (4, 3, 2)]
    origin = find_resume_point("auto", str(run))
    assert (origin.checkpoint, origin.run_dir, origin.state) == (None, str(run), {})
    assert origin.notes[:4] == (
        *(f"passed over: {reason}" for reason in words),
        f"no checkpoint in {run} to go on from: starting afresh",
    )
    assert origin.abandoned == (at(run, 4), at(run, 3), at(run, 2))


# From a path


def test_a_checkpoint_of_a_run_goes_on_in_that_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came later is not of its past."""
    origin = find_resume_point(str(at(run, 3)), None)
    assert (origin.checkpoint, origin.run_dir, origin.abandoned) == (at(run, 3), str(run), (at(run, 4),))
    assert origin.notes == ("set aside as discarded-step-00000004",) and origin.state == state_at(3)
    assert len(run_directory._held) == 1


def test_the_same_run_in_other_words(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    origin = find_resume_point("run/../run/checkpoints/step-00000003", "./run")
    assert (origin.run_dir, [path.name for path in origin.abandoned]) == ("./run", ["step-00000004"])
    assert len(run_directory._held) == 1


def test_a_home_is_expanded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(run.parent))
    assert find_resume_point("~/run/checkpoints/step-00000003", None).checkpoint == at(run, 3)


def test_a_checkpoint_goes_on_in_another_directory(run: Path, tmp_path: Path) -> None:
    """Which leaves its run as it is, and free."""
    before = everything(run)
    for given in (at(run, 3), run):
        origin = find_resume_point(str(given), str(tmp_path / "new"))
        assert origin.checkpoint == (at(run, 3) if given == at(run, 3) else at(run, 4))
        assert (origin.run_dir, origin.notes, origin.abandoned) == (str(tmp_path / "new"), (), ())
    assert everything(run) == before and run_directory._held == []
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").touch()
    assert refusal(str(at(run, 3)), tmp_path / "new").startswith(f"run_dir: {tmp_path}/new is occupied")


def test_a_run_directory_stands_for_its_newest(run: Path) -> None:
    words = harm(at(run, 4))
    origin = find_resume_point(str(run), None)
    assert (origin.checkpoint, origin.run_dir, origin.abandoned) == (at(run, 3), str(run), (at(run, 4),))
    assert origin.notes == (f"passed over: {words}", "set aside as discarded-step-00000004")


def test_a_run_directory_without_a_valid_one_is_refused(run: Path, tmp_path: Path) -> None:
    """Whoever names it does not want a fresh start."""
    words = "; ".join(f"passed over: {harm(at(run, step))}" for step in (4, 3, 2))
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


@pytest.mark.parametrize("place", ["copy", "checkpoints-of-mine/step-00000003"])
def test_a_checkpoint_away_from_its_run_takes_no_folder_above_it(run: Path, tmp_path: Path, place: str) -> None:
    """Two levels up is no run directory: nothing there is to be locked, cut or written over."""
    home = tmp_path / "home"
    folder = home / "backup" / place
    folder.parent.mkdir(parents=True)
    at(run, 3).rename(folder)
    (home / "metrics").write_text("mine")
    (home / "backup" / "metrics").write_text("mine")
    before = everything(home)
    try:
        origin = find_resume_point(str(folder), None)
    except UserError as error:
        assert "--run_dir" in str(error)
    else:
        assert (origin.checkpoint, origin.run_dir, origin.abandoned) == (folder, None, ())
    assert everything(home) == before and run_directory._held == []
    origin = find_resume_point(str(folder), str(tmp_path / "new"))
    assert (origin.checkpoint, origin.run_dir) == (folder, str(tmp_path / "new"))


def test_a_discarded_checkpoint_abandons_only_what_is_later(run: Path) -> None:
    """It is of step 3, whatever it is called."""
    aside = checkpoint_format.set_aside(at(run, 3))
    origin = find_resume_point(str(aside), None)
    assert (origin.checkpoint, origin.state["clock"]["step"]) == (aside, 3)
    assert at(run, 4) in origin.abandoned and at(run, 2) not in origin.abandoned


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
        for wanted, run_dir in (("auto", run), (str(run), None), (str(at(run, 3)), None), (str(at(run, 3)), run)):
            text = f"run_dir: {run} is in use by another run; wait for it, or give another one"
            assert refusal(wanted, run_dir) == text
        other.stdin.close()
    assert find_resume_point("auto", str(run)).checkpoint == at(run, 4)


def test_what_is_found_can_be_entered(run: Path) -> None:
    origin = find_resume_point(str(at(run, 3)), None)
    assert run_directory.enter(origin.run_dir, "mlm", origin) == run
    names = ["discarded-step-00000004", "step-00000002", "step-00000003"]
    assert sorted(os.listdir(run / "checkpoints")) == names
    assert [json.loads(line)["drawn"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [32, 64, 96]


# Whether it fits


def origin_of(config: Config = CONFIG, course: LRSchedule = COURSE, step: int = 4, **state: object) -> ResumePoint:
    """As found on a disk."""
    content = json.loads(json.dumps(state_at(step, config, course) | state))
    return ResumePoint(Path("runs/x/checkpoints/step-00000004"), "runs/x", state=content)


def test_a_fresh_start_fits_always() -> None:
    assert reconcile_config(CONFIG, ResumePoint(None, None)) == (CONFIG, [])


def test_the_same_configuration_fits() -> None:
    assert reconcile_config(CONFIG, origin_of()) == (CONFIG, [])


@pytest.mark.parametrize(("name", "now", "was"), [
    ("task", "classification", "mlm"), ("model", "mini", "tiny"), ("dropout", None, 0.1), ("dropout", 0.2, 0.1),
    ("seed", 8, 7), ("recipe.optimizer", "adamw", "sgd"), ("recipe.momentum", 0.5, 0.9), ("data.mask_rate", 0.2, 0.15),
])  # fmt: skip
def test_what_a_checkpoint_does_not_fit_another_value_of(name: str, now: object, was: object) -> None:
    part, _, leaf = name.rpartition(".")
    changed = dataclasses.replace(getattr(CONFIG, part), **{leaf: now}) if part else now
    config = dataclasses.replace(CONFIG, **{part or leaf: changed})
    with pytest.raises(UserError) as caught:
        reconcile_config(config, origin_of())
    assert str(caught.value) == (
        f"{name}: the checkpoint runs/x/checkpoints/step-00000004 was made with {was!r}, this run has {now!r}; give "
        "the same, or start another run"
    )


def test_all_else_may_change() -> None:
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
    assert reconcile_config(config, origin_of()) == (config, [])


def test_changes_of_the_recipe_are_told() -> None:
    recipe = dataclasses.replace(
        RECIPE, lr=0.2, decay="cosine", decay_milestones=("3 steps",), betas=(0.9, 0.98), max_lr=1.0
    )
    config = dataclasses.replace(CONFIG, recipe=recipe)
    assert reconcile_config(config, origin_of()) == (config, [
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
    assert reconcile_config(config, origin_of())[0] == CONFIG
    rescaled = LRSchedule(make_plan(RECIPE, Topology(4, 16), 1000))
    assert reconcile_config(config, origin_of(course=rescaled))[0] == CONFIG
    unscaled = dataclasses.replace(NAMELESS, scaling="none")
    began = dataclasses.replace(CONFIG, recipe=unscaled)
    course = LRSchedule(make_plan(unscaled, Topology(3, 16), 1000))
    taken = dataclasses.replace(unscaled, reference_batch_size=48)
    assert reconcile_config(began, origin_of(began, course)) == (dataclasses.replace(CONFIG, recipe=taken), [])


def test_a_reference_that_is_taken_is_no_change() -> None:
    assert reconcile_config(dataclasses.replace(CONFIG, recipe=NAMELESS), origin_of())[1] == []


def test_a_reference_that_is_given_is_kept() -> None:
    config = dataclasses.replace(CONFIG, recipe=dataclasses.replace(RECIPE, reference_batch_size=64))
    assert reconcile_config(config, origin_of()) == (config, ["recipe.reference_batch_size was 32, is 64"])


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
    evil = LRSchedule(dataclasses.replace(COURSE.plan, **{field: "planted:curve"}))
    course = LRSchedule(COURSE.plan, 32, LRSchedule(COURSE.plan, 32, evil, 64, 64), 128, 64) if nested else evil
    with pytest.raises(UserError) as caught:
        reconcile_config(CONFIG, origin_of(course=course))
    assert str(caught.value) == (
        "--resume: runs/x/checkpoints/step-00000004 follows planted:curve, which this run's recipe does not name"
    )
    assert not planted.exists() and "planted" not in sys.modules
    assert evil.lr_at(0 if field == "ramp" else 3000) == 0.001 and planted.exists()  # it would have been


def test_code_that_the_configuration_names_is_followed(planted: Path) -> None:
    recipe = dataclasses.replace(RECIPE, decay="planted:curve")
    config = dataclasses.replace(CONFIG, recipe=recipe)
    course = LRSchedule(make_plan(recipe, Topology(2, 16), 1000))
    assert reconcile_config(config, origin_of(config, course)) == (config, [])


@pytest.mark.parametrize("harm", [
    lambda state: state.pop("course"), lambda state: state["course"].pop("plan"), lambda state: state.update(course=3),
    lambda state: state["course"]["plan"].update(later=1), lambda state: state["course"].update(plan=[]),
], ids=["no course", "no plan", "a number", "a plan with more", "a list"])  # fmt: skip
def test_what_another_version_wrote_is_refused(harm: Callable[[dict], object]) -> None:
    origin = origin_of()
    harm(origin.state)
    with pytest.raises(UserError, match="^--resume: runs/x/checkpoints/step-00000004 was written by another version: "):
        reconcile_config(CONFIG, origin)


def test_other_data_is_refused() -> None:
    resume.check_same_data(ResumePoint(None, None), "anything")
    resume.check_same_data(origin_of(), "key of the data")
    with pytest.raises(UserError) as caught:
        resume.check_same_data(origin_of(), "key of other data")
    assert str(caught.value) == (
        "data: its content or the tokenizer is not what runs/x/checkpoints/step-00000004 was trained on; give the same "
        "data, or start another run from it with --model"
    )


# What has been


@pytest.mark.parametrize(("metric", "sign"), [("loss", 1), ("mse", 1), ("perplexity", 1), ("f1", -1), ("pearson", -1)])
def test_a_history_knows_the_best(metric: str, sign: int) -> None:
    """The lowest of some metrics, the highest of others."""
    history = RunState({}, "", COURSE, metric)
    values = [sign * value for value in (2.0, 3.0, 2.0, 1.5)]
    found = [history.add(clock_at(step), {metric: value, "other": -value}) for step, value in enumerate(values, 1)]
    assert found == [True, False, False, True]  # an equal one is no better
    assert (history.best_step, history.best_metrics) == (4, {metric: sign * 1.5, "other": sign * -1.5})
    assert history.add(clock_at(5), {metric: sign * 9.0}) is False
    assert (history.best_step, history.best_metrics[metric]) == (4, sign * 1.5)
    assert (history.metrics, history.evaluated) == ({metric: sign * 9.0}, clock_at(5).state_dict())  # the last


def test_a_history_counts_evaluations_without_improvement() -> None:
    history = RunState({}, "", COURSE)
    counts = []
    for step, loss in enumerate((float("nan"), 3.0, 3.0, float("nan"), 2.0, float("inf"), 2.5), 1):
        history.add(clock_at(step), {"loss": loss})
        counts.append(history.without_improvement)
    assert counts == [1, 0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("metric", ["loss", "f1"])
def test_what_is_no_number_is_not_the_best(metric: str) -> None:
    history = RunState({}, "", COURSE, metric)
    for step, value in ((1, float("nan")), (2, 3.0), (3, float("nan")), (4, 2.0 if metric == "loss" else 4.0)):
        history.add(clock_at(step), {metric: value})
    assert history.best_step == 4


def test_a_history_comes_back_from_a_checkpoint() -> None:
    before = RunState(config_fields(CONFIG), "key", COURSE)
    before.add(clock_at(3), {"loss": 1 / 3})
    state = json.loads(json.dumps(before.state(clock_at(4), world_size=2)))
    assert list(state) == ["clock", "course", "config", "data", "world_size", "evaluations"]
    assert state["clock"] == {"step": 4, "samples": 128, "drawn": 128, "tokens": 40} and state["world_size"] == 2
    origin = ResumePoint(Path("x"), None, state=state)
    assert resume.initial_state(origin, config_fields(CONFIG), "key", origin.course, "loss") == before
    fresh = resume.initial_state(ResumePoint(None, None), {}, "key", COURSE, "loss")
    assert fresh == RunState({}, "key", COURSE) and fresh.best_step is None


def test_by_another_metric_patience_begins_anew() -> None:
    before = RunState(config_fields(CONFIG), "key", COURSE)
    for step in (1, 2, 3):
        before.add(clock_at(step), {"loss": 1.0 + step, "accuracy": 0.5})
    origin = ResumePoint(Path("x"), None, state=before.state(clock_at(3), world_size=2))
    same, other = (resume.initial_state(origin, {}, "key", COURSE, metric) for metric in ("loss", "accuracy"))
    assert (same.without_improvement, other.without_improvement) == (2, 0)
    assert (other.best_step, other.best_metrics) == (1, {"loss": 2.0, "accuracy": 0.5})
    assert other.add(clock_at(4), {"loss": 9.0, "accuracy": 0.6})


def test_fields_are_what_json_gives_back() -> None:
    config = dataclasses.replace(CONFIG, recipe=dataclasses.replace(RECIPE, decay_milestones=("3 steps",)))
    fields = config_fields(config)
    assert json.loads(json.dumps(fields)) == fields
    assert (fields["seed"], fields["recipe.betas"], fields["recipe.decay_milestones"]) == (7, [0.9, 0.999], ["3 steps"])
    assert fields["data.train_files"] == [] and fields["time_limit"] is None


def test_what_is_not_as_it_was_for_the_log() -> None:
    """From 32 on 2 ranks to 64 on 4, after 4 steps of a ramp of 10: 5/10 of 0.1 before, 3/5 of 0.2 now."""
    course = LRSchedule(make_plan(RECIPE, Topology(4, 16), 1000))
    facts = resume.describe_changes(origin_of(), course, world_size=4)
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
