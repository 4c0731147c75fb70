"""Bad input: one line that says what is wrong, exit code 2, nothing half-written.

Each case in a rank that is forked from the test process, and one of each kind through launch/run.sh too. Rows of single
tasks are read in the test process itself.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from conftest import DEFAULTS
from harness import ROOT, Ended, train
from made_rows import config, prepared

from warmup.errors import UserError

JOB = ("--task", "classification", "--recipe.reference_batch_size", "32", "--data.vocab_size", "200", *DEFAULTS)
GOOD = "text,label\n" + "".join(f"some words {number},{number % 2}\n" for number in range(200))


def launch(*argv: object, folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """`launch/cpu.sh 1` in `folder`, after the shell command `before`."""
    env = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    command = ["bash", "-c", f'{before}\nexec bash "$0" "$@"', str(ROOT / "launch" / "cpu.sh"), "1", *map(str, argv)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def assert_refused(ended: subprocess.CompletedProcess[str] | Ended, message: str, folder: Path) -> None:
    """Exit code 2 and one line; no traceback, and neither a run directory nor a half-made cache."""
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert (ended.codes if isinstance(ended, Ended) else [ended.returncode]) == [2], ended.stderr
    assert len(errors) == 1 and message in errors[0], ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout and "Killed" not in ended.stderr
    assert not (folder / "run").exists()
    assert not list(Path(os.environ["WARMUP_CACHE"]).glob(".*.stage"))


CONFIGURATIONS = {
    "a typo": (["--recipe.warmpu", "6%"], "recipe.warmpu: no such field; did you mean recipe.warmup?"),
    "a unit that is none": (
        ["--recipe.warmup", "6 percent"],
        "recipe.warmup: '6 percent' has the unknown unit 'percent'",
    ),
    "a negative rate": (["--recipe.lr", "-1e-4"], "recipe.lr: -0.0001 is not above 0"),
    "an ill-typed value": (["--seed", "many"], "seed: 'many' is not a whole number"),
    "no reference batch": (["--recipe.reference_batch_size", "null"], "or recipe.scaling: none"),
    "two sizes of a batch": (["--batch.global_size", "32", "--batch.accumulation", "2"], "give one; the other follows"),
}
FILES = {
    "an empty file": ({"train.csv": ""}, "train.csv is empty"),
    "a header alone": ({"train.csv": "text,label\n"}, "train.csv holds no usable row"),
    "no label column": ({"train.csv": "text,mood\na b c,1\nd e f,0\n"}, "--data.label_column"),
    "one class": ({"train.csv": "text,label\n" + "a b c,1\n" * 9}, "all rows have the label '1'"),
    "an unseen label": ({"train.csv": GOOD, "val.csv": "text,label\na b,7\n"}, "the label '7' is in no training row"),
    "rows that are empty": ({"train.csv": GOOD + '"",1\n' * 3}, "train.csv:202: "),
    "a lone surrogate": ({"train.jsonl": '{"text": "a \\ud800 b", "label": 1}\n' * 3}, "train.jsonl:1: "),
    "not UTF-8": ({"train.csv": GOOD.encode() + b"caf\xe9 words,1\n" * 3}, "train.csv:202: "),
    "no file": ({}, "train.csv"),
    "cut off": ({"train.csv.gz": gzip.compress(GOOD.encode())[:-9]}, "train.csv.gz: damaged or cut off .gz data"),
    "no parquet": ({"train.parquet": GOOD}, "train.parquet: damaged, or no parquet file"),
    "no match": ({"*.tsv": None}, "data.train_files: no file matches *.tsv"),
    "no hub": (
        {"hub:nobody/nothing:train": None},
        "data.train_files: hub:nobody/nothing:train would have to be downloaded, and huggingface.co cannot be reached",
    ),
}
LAUNCHED = ("an ill-typed value", "rows that are empty")


def forked(*argv: object, folder: Path) -> Ended:
    """train.py on one rank, into a run directory in the folder that the test has gone to."""

    def without_script(rank: int) -> None:
        del os.environ["WARMUP_STATUS_FILE"]  # the rank says itself what a script would say for all of them

    return train(1, folder, *JOB, *argv, before=without_script)


def assert_refuses(case: str, arguments: tuple[object, ...], message: str, folder: Path) -> None:
    assert_refused(forked(*arguments, folder=Path("run")), message, folder)
    if case in LAUNCHED:
        assert_refused(launch(*JOB, *arguments, "--run_dir", "run", folder=folder), message, folder)


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_configuration_that_is_wrong(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, message = CONFIGURATIONS[case]
    (tmp_path / "train.csv").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert_refuses(case, ("--data.train_files", "train.csv", *arguments), message, tmp_path)


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_wrong(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, message = FILES[case]
    for name, content in files.items():
        if content is None:
            continue
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    name = next(iter(files), "train.csv")
    validation = ("--data.validation_files", "val.csv") if "val.csv" in files else ()
    monkeypatch.chdir(tmp_path)
    arguments = ("--data.train_files", name, *validation, "--data.max_bad_rows", 2)
    assert_refuses(case, arguments, message, tmp_path)


def test_bad_rows_within_the_limit_are_named_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(GOOD.encode() + b"caf\xe9 words,1\n" * 3)
    arguments = ("--data.train_files", "train.csv", "--recipe.duration", "2 steps", "--run_dir", "run")
    ended = launch(*JOB, *arguments, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "3 rows: train.csv:202: " in ended.stderr
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["num_samples"] == 190  # of 200, 5% held out


def test_a_model_folder_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.csv").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    arguments = ("--data.train_files", "train.csv")
    assert forked(*arguments, "--recipe.duration", "1 steps", folder=Path("first")).codes == [0]
    (tmp_path / "first" / "model" / "model.safetensors").unlink()
    for name, more, message in (
        ("run", ("--model", "first/model"), "model: the weights of first/model cannot be loaded"),
        ("run", ("--model", "./nowhere"), "model: no folder ./nowhere"),
        ("first", (), "run_dir: first is occupied"),
    ):
        assert_refused(forked(*arguments, *more, folder=Path(name)), message, tmp_path)
    ended = launch(*JOB, *arguments, "--run_dir", "train.csv/run", folder=tmp_path)
    assert_refused(ended, "run_dir: train.csv/run cannot be made", tmp_path)


def test_no_space_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may grow to 1 MB (ulimit -f counts KiB): the log fits, the model does not."""
    (tmp_path / "train.csv").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    arguments = ("--data.train_files", "train.csv", "--recipe.duration", "1 steps")
    assert forked(*arguments, folder=Path("first")).codes == [0]  # tokenised data is in the cache
    ended = launch(*JOB, *arguments, "--run_dir", "run", folder=tmp_path, before="ulimit -f 1024")
    assert ended.returncode == 2, ended.stderr
    assert "error: " in ended.stderr and "run" in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / ".model.stage").exists()


def test_a_traceback_where_it_is_asked_for(tmp_path: Path) -> None:
    ended = launch(*JOB, "--data.train_files", "train.csv", "--traceback", folder=tmp_path)
    assert ended.returncode == 2
    assert "Traceback" in ended.stderr and "UserError" in ended.stderr


CONTEXT = "The café in Köln \U0001f600 opened in 1999 near the river."
GOOD_ROWS: dict[str, list[dict[str, Any]]] = {
    "multi-label": [{"text": f"some words {number}", "joy": number % 2, "fear": 0} for number in range(20)],
    "multiple-choice": [
        {
            "question": f"which {number}",
            "choices": {"text": ["one", "two"], "label": ["A", "B"]},
            "answer": "AB"[number % 2],
        }
        for number in range(20)
    ],
    "question-answering": [
        {"context": CONTEXT, "question": f"when {number}", "answers": {"text": ["1999"], "answer_start": [29]}}
        for number in range(20)
    ],
}
BAD_ROWS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a label that is neither 0 nor 1": ("multi-label", {"joy": 2}, "'joy' holds '2', which is neither 0 nor 1"),
    "a label that is missing": ("multi-label", {"fear": None}, "'fear' holds 'None', which is neither 0 nor 1"),
    "no choices": ("multiple-choice", {"choices": {"text": [], "label": []}}, "has no choices, and two are needed"),
    "one choice": (
        "multiple-choice",
        {"choices": {"text": ["one"], "label": ["A"]}},
        "has 1 choice, and two are needed",
    ),
    "no list of choices": ("multiple-choice", {"choices": None}, "'choices' is missing"),
    "an answer that is no choice": (
        "multiple-choice",
        {"answer": "C"},
        "'answer' holds 'C', which is none of the choices",
    ),
    "an answer outside its context": (
        "question-answering",
        {"answers": {"text": ["1999"], "answer_start": [99]}},
        "the answer '1999' is not at character 99 of 'context', which has 49; it is at 29",
    ),
    "an offset in UTF-16": (
        "question-answering",
        {"answers": {"text": ["1999"], "answer_start": [30]}},
        "the answer '1999' is not at character 30 of 'context', where '999 ' stands; it is at 29",
    ),
    "an empty context": ("question-answering", {"context": ""}, "'context' is blank"),
    "an empty question": ("question-answering", {"question": " "}, "'question' is blank"),
    "no answers": ("question-answering", {"answers": None}, "'answers' is missing"),
}


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_of_a_task_that_are_wrong_are_named_and_left_out(case: str, kind: str, tmp_path: Path) -> None:
    task, changes, reason = BAD_ROWS[case]
    file, rows = tmp_path / f"rows.{kind}", [*GOOD_ROWS[task], GOOD_ROWS[task][0] | changes]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = {"label_columns": ("joy", "fear")} if task == "multi-label" else {}
    data = prepared(config(str(file), task=task, max_length=64, max_bad_rows=1, **columns))
    (named,) = data.bad_rows
    assert named.startswith(f"{file}:{'row ' if kind == 'parquet' else ''}21: {reason}") and "\n" not in named
    assert len(data.train) + len(data.validation) == 20
    with pytest.raises(UserError, match="1 bad rows so far, and --data.max_bad_rows allows 0"):
        prepared(config(str(file), task=task, max_length=64, max_bad_rows=0, **columns))


SQUAD = json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": [{"question": "when", "answers": []}] * 9}]}]})
OF_TASKS: dict[str, tuple[str, str, str, tuple, str]] = {
    "SQuAD's file, cut off": ("question-answering", "squad.json", SQUAD[:-40], (), "squad.json:1: not valid JSON ("),
    "a question longer than the window": (
        "question-answering",
        "long.jsonl",
        json.dumps({"context": CONTEXT, "question": "when " * 99, "answers": []}) + "\n",
        ("--data.max_length", 64),
        "data.max_length: 64 leaves room for 0 tokens of the context beside the question 'when when",
    ),
    "no column of labels": (
        *("multi-label", "rows.csv", "text,joy\na b,1\nc d,0\n", ("--data.label_columns", "joy", "fear")),
        "rows.csv: no column 'fear'; name one with --data.label_columns (there are 'text', 'joy')",
    ),
    "rows without choices": (
        *("multiple-choice", "rows.jsonl", '{"question": "a", "choices": [], "answer": 0}\n', ()),
        "rows.jsonl holds no usable row",
    ),
}


@pytest.mark.parametrize("case", OF_TASKS)
def test_files_of_a_task_that_are_wrong(case: str, tmp_path: Path) -> None:
    task, name, content, options, message = OF_TASKS[case]
    (tmp_path / name).write_text(content * (9 if name == "long.jsonl" else 1), encoding="utf-8")
    job = ("--task", task, "--data.train_files", tmp_path / name, *options)
    ended = forked(*job, folder=tmp_path / "run")
    assert_refused(ended, message, tmp_path)
