"""The suite's order of work, with a stand-in for training: what runs where, what is skipped, how failures end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_glue import write_glue

from warmup.training.glue import __main__, suite

STAND_IN = """
import json, os, sys, time
from pathlib import Path

given = dict(zip(sys.argv[1:], sys.argv[2:]))
log = Path(os.environ["SUITE_LOG"])


def note(text):
    with open(log, "a") as file:
        file.write(f"{text} {os.environ.get('GPU', '')}\\n")


if "--predict" in given:
    task = Path(given["--predict"]).parent.name
    note(f"predict {task} {Path(given['--predict']).stem} {Path(given['--model']).name}")
    rows = Path(given["--predict"]).read_text().splitlines()
    lines = ["row,label,value,error", *(f"{row},entailment,2.5," for row in range(1, len(rows) + 1))]
    Path(given["--output"]).write_text("\\n".join(lines) + "\\n")
    sys.exit(0)
folder = Path(given["--run_dir"])
note(f"begin {folder.name} {given['--task']} {given['--seeds']} {given.get('--recipe.lr')}")
time.sleep(float(os.environ.get("SUITE_SECONDS", 0)))
code = json.loads(os.environ.get("SUITE_CODES", "{}")).get(folder.name, 0)
if not code and "--print_config" not in sys.argv:
    folder.mkdir(exist_ok=True)
    names = ("accuracy", "f1", "matthews", "pearson", "spearman")
    metrics = {seed: dict.fromkeys(names, int(seed) / 10) for seed in given["--seeds"].split(",")}
    (folder / "seeds.json").write_text(json.dumps({"metrics": metrics}))
note(f"end {folder.name}")
sys.exit(code)
"""


class Work:
    """Runs the suite with a stand-in for train.py, in a folder with GLUE's files."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
        self.folder, self.log, self.monkeypatch, self.capsys = folder, folder / "log", monkeypatch, capsys
        write_glue(folder / "glue")
        (folder / "train.py").write_text(STAND_IN)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("SUITE_LOG", str(self.log))

    def run(self, *argv: str, places: tuple[str, ...] = ("",), **env: object) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        start = [sys.executable, str(self.folder / "train.py")]
        with self.monkeypatch.context() as patch:
            patch.setattr(suite, "find_launchers", lambda ranks: [(start, {"GPU": gpu}) for gpu in places])
            for name, value in env.items():
                patch.setenv(name, value if isinstance(value, str) else json.dumps(value))
            code = __main__.main(["glue", "--model", "bert", *argv])
        return code, *self.capsys.readouterr()

    def notes(self) -> list[str]:
        """What the stand-in noted since the last call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line.strip() for line in lines]


@pytest.fixture
def work(tmp_path: Path, monkeypatch, capsys) -> Iterator[Work]:
    handlers = {number: signal.getsignal(number) for number in suite._SIGNALS}
    yield Work(tmp_path, monkeypatch, capsys)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_one_task_after_the_other(work: Work) -> None:
    """Each with all seeds, then its predictions by the best one; with the same command only what is not done."""
    argv = ("--seeds", "1,2", "--tasks", "rte,mnli", "--run_dir", "out", "--recipe.lr", "3e-5")
    code, out, err = work.run(*argv)
    assert code == 0, err
    first = [
        "begin mnli classification 1,2 3e-5",
        "end mnli",
        "predict mnli validation_mismatched seed-1",
        "predict mnli validation_mismatched seed-2",
        "predict mnli test_matched seed-2",
        "predict mnli test_mismatched seed-2",
        "begin rte classification 1,2 3e-5",
        "end rte",
        "predict rte test seed-2",
    ]
    assert work.notes() == first
    assert "| RTE | accuracy | 10.0 | 20.0 | 15.0 | 7.1 |" in out and out.endswith("\n\nin out/glue.md\n")
    assert sorted(path.name for path in (work.folder / "out" / "submission").iterdir()) == [
        "MNLI-m.tsv", "MNLI-mm.tsv", "RTE.tsv",
    ]  # fmt: skip
    assert work.run(*argv)[:2] == (0, out)
    assert work.notes() == [line for line in first if not line.startswith("predict")]
    code, out, _ = work.run("--seeds", "1,2,3", "--tasks", "rte", "--run_dir", "out")
    assert code == 0 and "| RTE | accuracy | 10.0 | 20.0 | 30.0 | 20.0 | 10.0 |" in out
    assert work.notes()[-1] == "predict rte test seed-3"


def test_a_task_on_each_gpu(work: Work) -> None:
    """The one with the most data begins first, and the next one where a place is free."""
    argv = ("--tasks", "cola,stsb,rte", "--seeds", "1", "--run_dir", "out")
    code, out, err = work.run(*argv, places=("0", "1"), SUITE_SECONDS="1")
    assert code == 0, err
    notes = work.notes()
    begun = [line.split() for line in notes if line.startswith("begin")]
    assert [(words[1], words[2]) for words in begun[:2]] in (
        [("stsb", "regression"), ("rte", "classification")],
        [("rte", "classification"), ("stsb", "regression")],
    )
    assert {words[-1] for words in begun[:2]} == {"0", "1"} and begun[2][1] == "cola"
    assert not any(line.startswith("end") for line in notes[:2])  # both were running
    assert "STS-B: out/stsb.log" in out and "average of 3" in out


def test_a_task_that_fails_does_not_keep_the_others(work: Work) -> None:
    argv = ("--tasks", "cola,rte", "--seeds", "1", "--run_dir", "out")
    code, out, _ = work.run(*argv, SUITE_CODES={"cola": 1})
    assert code == 1 and "| RTE |" in out and "| CoLA |" not in out
    assert [line for line in work.notes() if line.startswith("begin")] == [
        "begin cola classification 1 None", "begin rte classification 1 None",
    ]  # fmt: skip


def test_a_training_that_only_prints(work: Work) -> None:
    code, out, _ = work.run("--tasks", "rte", "--seeds", "1", "--run_dir", "out", "--print_config")
    assert code == 1 and "RTE: no seeds were trained" in out and not (work.folder / "out" / "predictions").exists()


def test_gpus_share_the_cores(monkeypatch) -> None:
    """As many places as the scripts count GPUs, by the names that CUDA knows them by."""
    answer = subprocess.CompletedProcess([], 0, stdout="2\n")
    monkeypatch.setattr(suite.subprocess, "run", lambda *args, **kwargs: answer)
    monkeypatch.setattr(suite.os, "cpu_count", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5a, 3,-1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    places = suite.find_launchers(2)
    assert [place[0][-2:] for place in places] == [[str(suite.ROOT / "launch" / "gpus.sh"), "1"]] * 2
    assert [place[1] for place in places] == [
        {"CUDA_VISIBLE_DEVICES": name, "OMP_NUM_THREADS": "4"} for name in ("GPU-5a", "3")
    ]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [place[1]["CUDA_VISIBLE_DEVICES"] for place in suite.find_launchers(2)] == ["0", "1"]
    answer.returncode = 2
    assert suite.find_launchers(3) == [(["bash", str(suite.ROOT / "launch" / "cpu.sh"), "3"], {})]


def test_options_that_are_wrong_end_it(work: Work) -> None:
    code, out, _ = work.run("--tasks", "cola,rte", "--seeds", "1", "--run_dir", "out", SUITE_CODES={"cola": 2})
    assert code == 2 and [line for line in work.notes() if line.startswith("begin")] == [
        "begin cola classification 1 None"
    ]


def test_a_signal_stops_it(work: Work) -> None:
    """It is passed on, nothing more is started, and the exit code says that it can go on."""

    def stop() -> None:
        deadline = time.monotonic() + 30
        while not work.log.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    code, _, err = work.run("--tasks", "cola,rte", "--seeds", "1", "--run_dir", "out", SUITE_SECONDS="20")
    thread.join()
    assert code == 75 and "stopped: the same command goes on" in err
    assert work.notes() == ["begin cola classification 1 None"]


def test_what_is_refused(work: Work) -> None:
    (work.folder / "taken").mkdir()
    (work.folder / "taken" / "file").touch()
    assert work.run("--tasks", "rte", "--seeds", "1", "--run_dir", "out")[0] == 0
    work.notes()
    cases = {
        ("--tasks", "squad"): "--tasks: 'squad' is none of cola, sst2,",
        ("--seeds", "1,1"): "--seeds: '1,1', but it takes different numbers such as 1,2,3",
        ("--seeds", "one"): "--seeds: 'one', but it takes",
        ("--resume", "never"): "--resume: the suite gives it to each run; leave it out",
        ("--data.train-files", "x.csv"): "--data.train_files: the suite gives it to each run; leave it out",
        ("--run_dir", "taken"): "run_dir: taken is occupied, and not by this suite; give another one",
        ("--run_dir", "out", "--model", "other"): "run_dir: out is of the model 'bert', not 'other'; give another one",
    }
    for argv, message in cases.items():
        code, out, err = work.run(*argv)
        assert (code, out) == (2, "") and err.startswith(f"error: {message}"), (argv, err)
        assert err.count("\n") == 1 and work.notes() == []
