"""A branch: another recipe from a checkpoint of a stable run on, which stays as it is byte for byte."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
from harness import LOGGED, Ended, assert_killed, assert_same_end, killed_after, train

from warmup.training.data import order

BATCH, PEAK, STABLE, AT, STEPS, DECAY = 24, 1e-3, 12, 10, 16, 8
"""Samples per step; rate; steps of the parent, step of the checkpoint, steps of the branch, those of its cooldown."""
COOLDOWN = (
    *("--recipe.decay", "wsd", "--recipe.cooldown", "1-sqrt", "--recipe.decay_length", f"{DECAY} steps"),
    *("--recipe.duration", f"{STEPS} steps"),
)


def content(folder: Path) -> str:
    """A hash of all names and bytes in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


@pytest.fixture(scope="module")
def stable(mlm: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """4 steps of warmup and 8 at the peak, on 2 ranks with 3 micro-batches each; checkpoints after every second."""
    run = train(
        2, tmp_path_factory.mktemp("stable") / "stable", *mlm, "--recipe.reference_batch_size", BATCH,
        "--batch.global_size", BATCH, "--batch.per_device", 4, "--recipe.warmup", "4 steps", "--recipe.decay",
        "constant", "--recipe.duration", f"{STABLE} steps", "--checkpoint.every", "2 steps", "--checkpoint.keep", 9,
        "--evaluation.every", "4 steps", "--log.samples", "true",
    )  # fmt: skip
    assert run.codes == [0, 0] and run.column("lr")[4:] == [PEAK] * 8, run.status
    return run


@pytest.fixture(scope="module")
def point(stable: Ended) -> Path:
    return stable.folder / "checkpoints" / f"step-{AT:08d}"


@pytest.fixture(scope="module")
def branch(stable: Ended, point: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The cooldown from step 10 on 2 ranks. What is not said is as in the parent's configuration."""
    before = content(stable.folder)
    run = train(2, tmp_path_factory.mktemp("branch") / "cooled", "--branch_from", point, *COOLDOWN)
    assert run.codes == [0, 0], run.status
    assert content(stable.folder) == before
    return run


def closed_form(samples: int, batch: int = BATCH) -> float:
    """The rate of the cooldown: the peak, then 1 - sqrt of the part of the last 8 steps of 24 that is over."""
    peak, begin = PEAK * batch / BATCH, (STEPS - DECAY) * BATCH
    return peak * (1 - math.sqrt(max(samples - begin, 0) / (DECAY * BATCH)))


def test_its_steps_have_the_rates_and_samples_of_the_closed_form(stable: Ended, branch: Ended) -> None:
    assert branch.column("step") == list(range(AT + 1, STEPS + 1))
    assert branch.column("lr") == pytest.approx([closed_form(BATCH * step) for step in range(AT, STEPS)], rel=1e-12)
    assert branch.column("lr")[0] == PEAK / 2  # a quarter of the cooldown is over
    lines = [json.loads(line) for line in (branch.folder / "samples.jsonl").read_text().splitlines()]
    found = [pair for line in lines for pair in zip(line["positions"], line["ids"], strict=True)]
    size = json.loads((branch.folder / "plan.json").read_text())["num_samples"]
    ids, _ = order.step_samples(AT * BATCH, (STEPS - AT) * BATCH, size, 0)
    assert sorted(found) == list(enumerate(ids.tolist(), AT * BATCH))
    for name in ("loss", "grad_norm", "tokens"):  # the same weights, samples, masks and dropout
        assert branch.column(name)[0] == stable.column(name)[AT], name
    assert branch.column("loss")[1] != stable.column("loss")[AT + 1]


def test_what_it_says_of_itself(stable: Ended, branch: Ended, point: Path) -> None:
    first = branch.lines[0]
    assert (first["kind"], first["from"], first["step"]) == ("branched", str(point), AT)
    assert (first["lr_before"], first["lr"]) == (PEAK, pytest.approx(PEAK / 2))
    origin = {"checkpoint": str(point), "run": str(stable.folder), "step": AT, "samples": AT * BATCH}
    assert json.loads((branch.folder / "run.json").read_text())["branched_from"] == origin
    assert [line["step"] for line in branch.of_kind("eval")] == [12, 16]
    card = (branch.folder / "model" / "README.md").read_text()
    assert f"| branched from | `stable/checkpoints/step-{AT:08d}`, after 240 samples |" in card
    assert f"--config config.yaml --branch_from stable/checkpoints/step-{AT:08d}\n" in card
    assert str(stable.folder.parent) not in card
    report = (branch.folder / "report.html").read_text()
    assert f"branched off from {point}" in report and f"step {AT} (240 samples), {point}" in report
    assert f"{stable.folder}/config.yaml is the base of this run" in branch.stdout
    assert "recipe.decay was 'constant', is 'wsd'" in branch.stderr


@pytest.mark.parametrize("after", [None, AT + 1, AT + 3], ids=["a twin", "killed at once", "killed after a checkpoint"])
def test_the_same_branch_ends_with_the_same_bits(
    after: int | None, branch: Ended, stable: Ended, point: Path, tmp_path: Path
) -> None:
    before = content(stable.folder)
    run = train(2, tmp_path / "other", "--branch_from", point, *COOLDOWN, before=killed_after(after))
    if after is not None:
        assert_killed(run, after)
        checkpoints = sorted((run.folder / "checkpoints").glob("step-*"))
        assert [path.name[-2:] for path in checkpoints] == ([] if after == AT + 1 else ["12"])
        run = train(2, run.folder, "--resume", "auto")
    assert run.codes == [0, 0], (run.status, run.stderr[-2000:])
    assert_same_end(run.folder, branch.folder)
    for name in LOGGED:
        assert run.column(name) == branch.column(name), name
    assert len(run.of_kind("branched")) == 1 and run.of_kind("eval") == branch.of_kind("eval")
    records = [json.loads((folder / "run.json").read_text())["branched_from"] for folder in (run.folder, branch.folder)]
    assert records[0] == records[1]
    assert content(stable.folder) == before


def test_other_ranks(branch: Ended, point: Path, tmp_path: Path) -> None:
    """3 ranks with 2 micro-batches each."""
    run = train(3, tmp_path / "other", "--branch_from", point, *COOLDOWN)
    assert run.codes == [0, 0, 0], run.status
    for name in ("step", "samples", "consumed_samples", "tokens", "lr"):
        assert run.column(name) == branch.column(name), name
    for name in ("loss", "grad_norm"):
        assert run.column(name) == pytest.approx(branch.column(name), rel=1e-4), name
    losses = [[line["loss"] for line in ended.of_kind("eval")] for ended in (run, branch)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_another_batch(point: Path, tmp_path: Path) -> None:
    """12 samples a step: the recipe as it is planned for them, entered at the same position."""
    job = ("--branch_from", point, *COOLDOWN, "--batch.global_size", 12)
    run = train(2, tmp_path / "other", *job)
    assert run.codes == [0, 0], run.status
    positions = range(AT * BATCH, STEPS * BATCH, 12)
    assert run.column("samples") == [position + 12 for position in positions]
    assert run.column("lr") == pytest.approx([closed_form(position, 12) for position in positions], rel=1e-12)
    refused = train(1, tmp_path / "refused", *job, "--elastic.on_change", "error")
    assert refused.codes == [2] and "the global batch was 24 and would be 12" in refused.status["message"]
    assert not refused.folder.exists()


def test_what_is_refused(stable: Ended, point: Path, tmp_path: Path) -> None:
    before = content(stable.folder)
    job = ("--branch_from", point, *COOLDOWN)
    cases = {
        (*job, "--model", "mini"): "model: the checkpoint",
        (*job, "--data.vocab_size", 100): "data: its content or the tokenizer is not what",
        (*job, "--data.max_length", 20): "data: its content or the tokenizer is not what",
        (*job, "--run_dir", stable.folder): "which --branch_from leaves as it is; give another one",
        (*job, "--recipe.duration", "10 steps"): "recipe.duration: the branch would end after 240 samples, and",
        ("--branch_from", tmp_path / "nowhere"): "nowhere is neither a checkpoint nor a run directory",
        (*job, "--resume", point): "--branch_from: starts a run at a checkpoint; leave --resume out",
        (*job, "--seeds", "1,2"): "--branch_from: goes on with one run and its seed",
    }
    for arguments, message in cases.items():
        refused = train(1, tmp_path / "new", *arguments)
        assert refused.codes == [2], (arguments, refused.status)
        assert message in refused.status["message"] and "\n" not in refused.status["message"]
        assert not refused.folder.exists() and content(stable.folder) == before
