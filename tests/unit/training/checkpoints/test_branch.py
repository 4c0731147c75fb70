"""Branches: where they begin, in which directory, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from made_checkpoints import CONFIG, at, everything, harm, save, state_at

from warmup.config.recipe import Recipe
from warmup.errors import UserError
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.training.checkpoints import branch, resume, run_directory
from warmup.training.checkpoints.resume import find_resume_point
from warmup.training.checkpoints.state import ResumePoint


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A run directory with checkpoints of steps 2, 3 and 4, the third with evaluations, and a log."""
    folder = tmp_path / "parent"
    folder.mkdir()
    for step in (2, 3, 4):
        evaluated = {"best_step": 3, "best_metrics": {"loss": 1.0}, "without_improvement": 2, "pending": True}
        save(folder, step, state_at(step, **evaluated if step > 2 else {}))
    (folder / "metrics.jsonl").write_text("{}\n")
    return folder


def find(parent: Path, new: Path | None, requested: str | None = None) -> ResumePoint:
    return find_resume_point(requested, None if new is None else str(new), str(parent))


def refusal(parent: Path, new: Path, requested: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        find(parent, new, requested)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def entered(point: ResumePoint) -> Path:
    """Its directory, which no process holds any more."""
    folder = run_directory.enter(point.run_dir, "mlm", point)
    run_directory.release(folder)
    return folder


def test_a_branch_begins_at_the_newest_valid_checkpoint_or_at_the_one_named(parent: Path, tmp_path: Path) -> None:
    before = everything(parent)
    new = tmp_path / "new"
    point = find(parent, new)
    assert (point.checkpoint, point.run_dir, point.branches, point.flag) == (
        at(parent, 4), str(new), True, "--branch_from",
    )  # fmt: skip
    assert point.origin == {"checkpoint": str(at(parent, 4)), "run": str(parent), "step": 4, "samples": 128}
    assert find(at(parent, 2), new).origin["step"] == 2 and find(parent, None).run_dir is None
    assert not new.exists() and everything(parent) == before
    reason = harm(at(parent, 4))
    point = find(parent, new)
    assert (point.checkpoint, point.notes) == (at(parent, 3), (f"skipped: {reason}",))
    moved = Path(shutil.copytree(at(parent, 3), tmp_path / "alone"))
    assert find(moved, new).origin == {"checkpoint": str(moved), "run": None, "step": 3, "samples": 96}


def test_its_directory_says_where_it_came_from_and_the_parent_stays_as_it_is(parent: Path, tmp_path: Path) -> None:
    before = everything(parent)
    point = find(parent, tmp_path / "new")
    folder = entered(point)
    assert branch.read_origin(folder) == point.origin
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == ["metrics.jsonl", "run.json"]
    assert everything(parent) == before and not (parent / ".lock").exists()
    run_directory.abandon(folder)
    assert not run_directory.is_occupied(folder)


def test_its_evaluations_are_its_own(parent: Path, tmp_path: Path) -> None:
    """None was made yet, no patience is lost, and the next one is due an interval after its start."""
    point = find(parent, tmp_path / "new")
    state = resume.initial_state(point, {}, "key", point.lr_schedule, "loss")
    assert (state.best_step, state.best_metrics, state.without_improvement, state.pending) == (None, {}, 0, False)
    assert state.evaluated == point.state["clock"] and state.metrics == {}


@pytest.mark.parametrize("left", ["run.json", "metrics.jsonl"], ids=["before its log", "with its log"])
def test_killed_before_its_first_checkpoint_it_branches_off_again(left: str, parent: Path, tmp_path: Path) -> None:
    """From the same checkpoint, though the parent has a newer one by now, and with an empty log."""
    first = find(at(parent, 3), tmp_path / "new")
    folder = entered(first)
    if left == "run.json":
        (folder / "metrics.jsonl").unlink()
    else:
        (folder / "metrics.jsonl").write_text(json.dumps({"kind": "branched", "consumed_samples": 96}) + "\n")
    again = find_resume_point("auto", str(folder))
    assert (again.checkpoint, again.origin, again.branches) == (first.checkpoint, first.origin, True)
    assert again.notes == (f"no checkpoint in {folder} yet: it branches off again",)
    entered(again)
    assert branch.read_origin(folder) == first.origin
    assert not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text()


def test_it_goes_on_from_its_own_checkpoints(parent: Path, tmp_path: Path) -> None:
    """Also when it is named as a branch again, and by the path of a checkpoint into another directory."""
    first = find(at(parent, 3), tmp_path / "new")
    folder = entered(first)
    save(folder, 5, state_at(5))
    other = str(tmp_path / "other")
    for requested, new, named in (
        ("auto", folder, None),
        ("auto", folder, parent),
        ("auto", folder, at(parent, 3)),
        (str(at(folder, 5)), other, None),
    ):
        point = find_resume_point(requested, str(new), named and str(named))
        assert (point.checkpoint, point.branches, point.flag) == (at(folder, 5), False, "--resume")
        assert point.origin == first.origin
        run_directory.release(folder)


@pytest.mark.parametrize("of_branch", [False, True], ids=["a run", "a branch"])
@pytest.mark.parametrize("adopted", [False, True], ids=["before the copy", "after the copy"])
def test_from_another_runs_checkpoint_and_killed_before_its_first_it_goes_on_from_the_same_one(
    of_branch: bool, adopted: bool, parent: Path, tmp_path: Path
) -> None:
    """Neither from where a branch branched off, nor from the best checkpoint that was copied, nor afresh."""
    path = at(parent, 4)
    if of_branch:
        folder = entered(find(at(parent, 2), tmp_path / "branch"))
        for step in (3, 4):
            save(folder, step, state_at(step, best_step=3, best_metrics={"loss": 1.0}))
        path = at(folder, 4)
    first = find_resume_point(str(path), str(tmp_path / "new"))
    folder = entered(first)
    assert at(folder, 3).is_dir()
    if not adopted:
        shutil.rmtree(folder / "checkpoints")
        (folder / "metrics.jsonl").unlink()
    again = find_resume_point("auto", str(folder))
    assert (again.checkpoint, again.origin, again.branches, again.state) == (path, first.origin, False, first.state)
    assert bool(again.origin) == of_branch
    assert again.notes == (f"no valid checkpoint of its own in {folder}: it goes on from {path} again",)
    entered(again)
    assert at(folder, 3).is_dir()  # the best one up to where it goes on
    save(folder, 5, state_at(5))
    own = find_resume_point("auto", str(folder))
    assert (own.checkpoint, own.record) == (at(folder, 5), first.record)


@pytest.mark.parametrize("requested", ["auto", "the run"])
@pytest.mark.parametrize("adopted", ["step 3", "none", "torn"])
def test_where_its_own_checkpoint_is_torn_it_goes_on_from_the_other_runs_again(
    requested: str, adopted: str, parent: Path, tmp_path: Path
) -> None:
    """Not from the best one, which was copied and is of before it began."""
    folder = entered(find_resume_point(str(at(parent, 4)), str(tmp_path / "new")))
    (folder / "metrics.jsonl").write_text("".join(f'{{"consumed_samples": {32 * step}}}\n' for step in (4, 5)))
    reasons = [harm(save(folder, step, state_at(step))) for step in (6, 5)]
    if adopted == "none":
        shutil.rmtree(at(folder, 3))
    if adopted == "torn":
        reasons.append(harm(at(folder, 3)))
    (folder / "result.json").write_text("{}")  # as of a run that was stopped
    if requested == "the run" and adopted != "step 3":  # which is asked for its newest
        with pytest.raises(UserError, match="^--resume: no valid checkpoint in "):
            find_resume_point(str(folder), None)
        return
    for _ in range(2):
        point = find_resume_point("auto" if requested == "auto" else str(folder), str(folder))
        again = f"no valid checkpoint of its own in {folder}: it goes on from {at(parent, 4)} again"
        assert (point.checkpoint, point.state["clock"]["step"]) == (at(parent, 4), 4)
        assert point.notes == (*(f"skipped: {reason}" for reason in reasons), again)
        entered(point)
        assert (folder / "metrics.jsonl").read_text() == '{"consumed_samples": 128}\n'
        run_directory.release(folder)
    save(folder, 5, state_at(5))
    assert find_resume_point("auto", str(folder)).checkpoint == at(folder, 5)


@pytest.mark.parametrize("how", ["a branch", "a run that goes on"])
@pytest.mark.parametrize("gone", [True, False])
def test_where_the_checkpoint_that_it_began_with_is_gone_it_says_so(
    how: str, gone: bool, parent: Path, tmp_path: Path
) -> None:
    """That was pruned by the other run, for one."""
    new, skipped = tmp_path / "new", ""
    entered(find(at(parent, 4), new) if how == "a branch" else find_resume_point(str(at(parent, 4)), str(new)))
    if how == "a run that goes on":
        skipped = f" (skipped: {harm(save(new, 5, state_at(5)))})"
    reason = f"{at(parent, 4)} is gone"
    if gone:
        shutil.rmtree(at(parent, 4))
    else:
        reason = harm(at(parent, 4))
    with pytest.raises(UserError) as caught:
        find_resume_point("auto", str(new))
    assert str(caught.value) == (
        f"run_dir: {new} has no valid checkpoint of its own{skipped}, and its run.json names one that it began with: "
        f"{reason}; put that back, or remove {new}, or give another --run_dir"
    )


def test_what_is_refused(parent: Path, tmp_path: Path) -> None:
    before = everything(tmp_path)
    occupied = tmp_path / "occupied"
    shutil.copytree(parent, occupied)
    (tmp_path / "empty").mkdir()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "seeds.json").write_text("{}")
    new, state = tmp_path / "new", at(parent, 4) / "state.json"
    text = "run_dir: {} is in " + f"{parent}, which --branch_from leaves as it is; give another one"
    for own in (parent, parent / "cooled"):
        for named in (parent, at(parent, 2)):
            assert refusal(named, own) == refusal(named, own, "auto") == text.format(own)
    assert refusal(parent, occupied).startswith(f"run_dir: {occupied} is occupied; give another one")
    text = f"run_dir: {occupied} holds another run than a branch from {parent}; give another one"
    assert refusal(parent, occupied, "auto") == text
    text = f"--branch_from: {tmp_path}/nowhere is neither a checkpoint nor a run directory"
    assert refusal(tmp_path / "nowhere", new) == text
    assert refusal(tmp_path / "empty", new).startswith(f"--branch_from: {tmp_path}/empty: ")
    assert refusal(tmp_path / "sweep", new).startswith(f"--branch_from: {tmp_path}/sweep holds a sweep of seeds")
    state.write_text(state.read_text().replace('"step": 4', '"step": 5'))
    assert refusal(at(parent, 4), new).startswith(f"--branch_from: {at(parent, 4)}: state.json is not what was written")
    for step in (2, 3):
        harm(at(parent, step))
    assert refusal(parent, new).startswith(f"--branch_from: no valid checkpoint in {parent} (skipped: ")
    assert not new.exists() and before.keys() <= everything(tmp_path).keys()


def test_a_branch_that_would_be_over(parent: Path, tmp_path: Path) -> None:
    point = find(parent, tmp_path / "new")
    recipe = Recipe("sgd", 0.1, 32, duration="4 steps")
    with pytest.raises(UserError) as caught:
        branch.check_goes_on(point, make_plan(recipe, Topology(2, 16), 1000))
    assert str(caught.value) == (
        f"recipe.duration: the branch would end after 128 samples, and {at(parent, 4)} is at 128; give a longer one, "
        "or branch from an earlier checkpoint"
    )
    branch.check_goes_on(point, make_plan(Recipe("sgd", 0.1, 32, duration="129 samples"), Topology(2, 16), 1000))


def test_what_must_be_the_parents(parent: Path, tmp_path: Path) -> None:
    point = find(parent, tmp_path / "new")
    with pytest.raises(UserError, match=r"^model: the checkpoint .*4 was made with 'tiny', this run has 'mini'; give"):
        resume.reconcile_config(type(CONFIG)(recipe=CONFIG.recipe, dropout=0.1, seed=7, model="mini"), point)
    with pytest.raises(UserError, match="^data: its content or the tokenizer is not what .*4 was trained on"):
        resume.check_same_data(point, "another key")
