"""The probe on real ranks: its trials are runs of train.py, and it leaves a folder or nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from harness import preload, run_ranks, train

from warmup.__main__ import main

PNG = b"\x89PNG\r\n\x1a\n"


def probe_rank(rank: int, argv: list[str], output: Path) -> int:
    """The command on one rank, with what it prints in files beside `output`."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        path = output.with_name(f"{output.name}.{name}" + (f".{rank}" if rank else ""))
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        setattr(sys, name, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115 - pytest put its own in their place
    return main(["probe", *argv, "--output", str(output)])


def probe(world_size: int, output: Path, *argv: str) -> tuple[list[int], str]:
    """The exit codes of all ranks, and the printed table."""
    preload()
    ranks = run_ranks(world_size, probe_rank, list(argv), output, timeout_s=180)
    assert all(rank.error is None for rank in ranks), [rank.error for rank in ranks]
    return [rank.value for rank in ranks], output.with_name(f"{output.name}.stdout").read_text()


def test_a_trial_is_a_run_and_a_rate_that_diverges_is_flagged(mlm: tuple[str, ...], tmp_path: Path) -> None:
    # Two pairs are one rung, in which each gets a quarter of the budget with either seed.
    given = (*mlm, "--batch.global_size", "32", "--batch.per_device", "16", "--dropout", "0")
    given += ("--budget", "96", "--rates", "1e-3,1e6", "--warmups", "10 steps", "--repeats", "2")
    folder = tmp_path / "probe"
    codes, printed = probe(2, folder, *given)
    assert codes == [0, 0]
    assert sorted(path.name for path in folder.iterdir()) == ["heatmap.png", "probe.json", "table.txt"]
    assert not list(tmp_path.glob("*.unfinished.json"))
    assert (folder / "heatmap.png").read_bytes().startswith(PNG)
    assert (folder / "table.txt").read_text() == printed
    found = json.loads((folder / "probe.json").read_text())

    assert [(trial["candidate"]["lr"], trial["seed"], trial["steps"]) for trial in found["trials"]] == [
        (1e-3, 0, 24), (1e-3, 1, 24), (1e6, 0, 24), (1e6, 1, 24),
    ]  # fmt: skip
    losses = [trial["loss"] for trial in found["trials"]]
    assert losses[2:] == [None, None] and all(trial["diverged"] for trial in found["trials"][2:])
    assert found["recommended"] == {"lr": 1e-3, "warmup": "10 steps"} and found["diverged_from"] == 1e6
    assert found["spent"] <= 96 and found["noise"] == pytest.approx(2 * abs(losses[0] - losses[1]) / 2**0.5, rel=1e-9)
    assert "recommended: --recipe.lr 0.001" in printed and "1e+09 times the recommended" in printed

    # The same as train.py: 24 of the run's 30 steps, of which a third is the warmup, and the rest at the peak.
    run = train(2, tmp_path / "run", *given[: given.index("--budget")], "--recipe.duration", "24 steps",
                "--recipe.warmup", "8 steps", "--recipe.decay", "constant")  # fmt: skip
    assert run.codes == [0, 0], run.stderr
    assert run.of_kind("eval")[-1]["loss"] == pytest.approx(losses[0], rel=1e-5)


def test_nonsense_is_refused_before_anything_is_written(mlm: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for number, (given, output, message) in enumerate(
        [
            (
                ("--budget", "50"),
                "new",
                "--budget: 50 steps are too few for 12 pairs and 3 repeats of the last; give 1440",
            ),
            (("--rates", "0"), "new", "--rates: 0.0 is not above 0"),
            (("--warmups", "soon"), "new", "--warmups: 'soon' is not a duration"),
            (("--warmups", "30 steps"), "new", "--warmups: 30 steps is not shorter than the run of 30 steps"),
            ((), "taken", f"--output: {tmp_path}/taken is occupied"),
        ]
    ):
        ranks = run_ranks(1, refused, [*mlm, *given, "--output", str(tmp_path / output)], tmp_path / f"log{number}")
        assert ranks[0].value == 2, ranks[0].error
        said = (tmp_path / f"log{number}").read_text()
        assert said.startswith(f"error: {message}") and said.count("\n") == 1, said
    assert not (tmp_path / "new").exists()


def refused(rank: int, argv: list[str], log: Path) -> int:
    """The exit code of the command, whose errors go to `log`."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - pytest put its own in its place
    return main(["probe", *argv])
