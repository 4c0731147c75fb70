"""What a prediction takes from the run or the folder that `--model` names, and what is refused before any work."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import make_tokenizer
from transformers import BertConfig, GPT2Config

from warmup import commandline
from warmup.config import Config
from warmup.config.data import Data
from warmup.config.run import Batch, Launch, Speed
from warmup.errors import UserError
from warmup.training.predict import model_source, outputs
from warmup.training.run import arguments
from warmup.training.tasks import create_task

DATA = Data(
    train_files=("a.csv",), text_column="say", max_length=24, tokenizer="other", validation_fraction=0.5,
    column_names=("score", "say"), delimiter=";", quoting="none",
)  # fmt: skip
OF_RUN = Config(
    "regression", "mini", data=DATA, batch=Batch(evaluation=7), speed=Speed(packing=False), launch=Launch(world_size=8)
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory as one leaves it, without weights."""
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "metrics.jsonl").touch()
    (folder / "config.yaml").write_text(commandline.to_yaml(OF_RUN))
    return folder


def parse(*argv: object) -> Config:
    return arguments.parse(["--predict", "rows.csv", *map(str, argv)])[0]


def test_a_run_gives_what_its_model_was_trained_with_and_no_more(run: Path) -> None:
    """Not how its files were written: others may have a header, or no answers."""
    assert model_source.model_folder(str(run)) == str(run / "model")
    expected = replace(
        Config(model=str(run)),
        task="regression",
        data=Data(text_column="say", max_length=24),
        batch=Batch(evaluation=7),
        speed=Speed(packing=False),
    )
    assert parse("--model", run) == expected
    for folder in (run / "model", f"{run}/model/"):  # and where it is named by itself
        assert replace(parse("--model", folder), model=str(run)) == expected


def test_flags_and_files_override_the_run(run: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("data:\n  text_column: words\n  max_length: 99\n")
    config = parse("--config", tmp_path / "own.yaml", "--model", run, "--data.max_length", 50, "--task", "mlm")
    assert (config.task, config.data.text_column, config.data.max_length) == ("mlm", "words", 50)
    assert config.batch.evaluation == 7


def test_a_checkpoint_has_its_own_record(run: Path) -> None:
    """Wherever it lies."""
    checkpoint = run.parent / "kept"
    checkpoint.mkdir()
    fields = {name: value for name, value in commandline.leaves(asdict(OF_RUN))}
    (checkpoint / "state.json").write_text(json.dumps({"config": fields | {"data.max_length": 12}}))
    config = parse("--model", checkpoint)
    assert (config.task, config.data.text_column, config.data.max_length) == ("regression", "say", 12)


def test_a_run_without_a_model_names_its_newest_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "model").rmdir()
    message = f"--model: the run in {run} has not come to its end: there is no {run / 'model'}; "
    with pytest.raises(UserError, match=message + "nor a checkpoint$"):
        parse("--model", run)
    newest = run / "checkpoints" / "step-00000010"
    monkeypatch.setattr(model_source.checkpoint_format, "newest_valid", lambda folder: (newest, []))
    with pytest.raises(UserError, match=f"{message}its newest checkpoint is {newest}, which is a folder for --model"):
        parse("--model", run)


@pytest.mark.parametrize(("architecture", "options", "task"), [
    ("BertForSequenceClassification", {"num_labels": 3}, "classification"),
    ("RobertaForSequenceClassification", {"problem_type": "regression", "num_labels": 1}, "regression"),
    ("BertForSequenceClassification", {"num_labels": 1}, "regression"),
    ("BertForSequenceClassification", {"problem_type": "multi_label_classification"}, "multi-label"),
    ("BertForMaskedLM", {}, "mlm"),
    ("BertForPreTraining", {}, "mlm"),
    ("RobertaForTokenClassification", {"num_labels": 1}, "token-classification"),
])  # fmt: skip
def test_the_task_of_a_model_folder(architecture: str, options: dict, task: str, tmp_path: Path) -> None:
    """And it reads as much as it can."""
    BertConfig(architectures=[architecture], max_position_embeddings=77, **options).save_pretrained(tmp_path)
    config = parse("--model", tmp_path)
    assert (config.task, config.data.max_length, config.data.text_column) == (task, 77, None)


@pytest.mark.parametrize(("config", "message"), [
    (GPT2Config(architectures=["GPT2LMHeadModel"]), r'pipeline\("text-generation", model="'),
])  # fmt: skip
def test_models_without_predictions_here(config, message: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        parse("--model", tmp_path)


@pytest.mark.parametrize(("argv", "message"), [
    (("--predict", "x.csv"), "--predict: needs a trained --model: a run directory, .*; tiny is a new one"),
    (("--predict", "x.csv", "--model", "mini"), "; mini is a new one$"),
    (("--predict", "x.csv", "--model", "/no/where"), "model: no folder /no/where"),
    (("--predict", "x.csv", "--model", "m", "--test"), "--predict: does not train; leave --test out"),
    (("--predict", "x.csv", "--model", "m", "--resume", "auto"), "--predict: does not train; leave --resume out"),
    (("--predict", "x.csv", "--model", "m", "--as-world-size", "2"), "leave --as_world_size out"),
    (("--task", "mlm", "--output", "x.jsonl"), "--output: says where --predict writes; a run is written to --run_dir"),
])  # fmt: skip
def test_what_is_refused_at_once(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        arguments.parse(argv)


@pytest.mark.parametrize(("first", "name"), [
    ("some/where/reviews.csv", "reviews"),
    ("reviews.txt.gz", "reviews"),
    ("a.b.JSONL", "a.b"),
    ("a/saved/", "saved"),
    ("hub:stanfordnlp/imdb:test", "imdb-test"),
])  # fmt: skip
def test_the_output_is_named_after_the_first_file(first: str, name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    classes = create_task(Config(task="classification")).predictor(make_tokenizer(), ("a", "b"), {})
    assert outputs.output_path(None, first, classes) == Path(f"{name}.predictions.jsonl")
    (tmp_path / f"{name}.predictions.jsonl").symlink_to("nothing")
    with pytest.raises(UserError, match=f"--output: {name}.predictions.jsonl is there already"):
        outputs.output_path(None, first, classes)
