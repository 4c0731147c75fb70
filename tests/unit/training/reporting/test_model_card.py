"""The model card: what was trained on what and how, without the paths of the machine it was trained on."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from harness import ROOT
from huggingface_hub import ModelCard

from warmup import commandline
from warmup.commandline.words import read_options
from warmup.config import Config
from warmup.config.data import Data
from warmup.config.recipe import Recipe
from warmup.config.run import Batch, Launch, Log
from warmup.explain import explain_plan
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.training.reporting.model_card import TrainedModel, model_card
from warmup.training.reporting.published import start_command

RECIPE = Recipe(lr=1e-4, reference_batch_size=16, scaling="sqrt", warmup="10 steps", duration="100 steps")
BATCH = Batch(per_device=16, accumulation=2)
PLAN = make_plan(RECIPE, Topology(2, 16, 2), num_samples=1600)
DATA = SimpleNamespace(amount="1600 samples", validation=range(84))
RECIPE_FILE = str(ROOT / "configs" / "finetune_classification.yaml")


def card(config: Config, arguments: list[str] | tuple[str, ...] = (), metrics: dict | None = None) -> str:
    return model_card(
        TrainedModel(
            config=config,
            plan=PLAN,
            data=DATA,
            metrics=metrics or {"loss": 2.5},
            step=20,
            options=read_options(arguments, {*commandline.LISTS, "seeds"}),
            launcher=["bash", "launch/cpu.sh", "2"],
            hardware="2 x a fast one",
            parameters=4400000,
        )
    )


def header(text: str) -> dict:
    """As huggingface_hub reads it, which refuses what is malformed."""
    return ModelCard(text).data.to_dict()


def command(text: str) -> list[str]:
    return shlex.split(re.search(r"```bash\n(.*)\n```", text)[1])


@pytest.mark.parametrize(
    ("task", "name"),
    [("mlm", "fill-mask"), ("classification", "text-classification"), ("regression", "text-classification")],
)
def test_the_plan_and_the_metrics(task: str, name: str) -> None:
    metrics = {"loss": 2.5, "accuracy": 1 / 3, "targets": 90}
    text = card(Config(task=task, recipe=RECIPE, batch=BATCH), metrics=metrics)
    assert header(text)["pipeline_tag"] == name
    assert f'pipeline("{name}", model=' in text
    assert ('model="path/to/this/folder", function_to_apply="none")' in text) == (task == "regression")
    assert (
        "After step 20, on 84 samples with 90 targets:\n\n"
        "| metric | value |\n|---|---|\n| loss | 2.5 |\n| accuracy | 0.333333 |\n\n" in text
    )
    # 2 ranks x 2 x 16 = 64 at a reference of 16: k = 4, sqrt: 1e-4 * 2; 10 steps of 16 are 2.5 of 64, rounded up.
    assert "| global batch | 64 samples | 2 ranks x 2 micro-batches x 16 samples |\n" in text
    assert "| peak lr | 0.0002 | lr 0.0001 x sqrt(k) (sqrt scaling) |\n" in text
    assert "| warmup | 3 steps | 192 samples," in text
    assert "| duration | 25 steps | 1600 samples, 1 epoch |\n" in text
    assert "| hardware | 2 x a fast one |\n" in text and "| parameters | 4,400,000 |\n" in text
    assert len([line for line in text.splitlines() if line.count("|") == 4]) == 2 + len(explain_plan(PLAN))


@pytest.mark.parametrize(
    ("task", "name"),
    [("multiple-choice", "AutoModelForMultipleChoice"), ("question-answering", "AutoModelForQuestionAnswering")],
)
def test_a_task_without_a_pipeline_is_loaded_by_its_class(task: str, name: str) -> None:
    text = card(Config(task=task, recipe=RECIPE, batch=BATCH))
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, "card", "exec")
    assert f"from transformers import {name}, AutoTokenizer" in code and "pipeline" not in code
    assert ModelCard(text).data.pipeline_tag == task


def test_the_header_is_what_the_hub_reads() -> None:
    files = Data(
        train_files=("hub:nyu-mll/glue:sst2:train", "more.csv"), validation_files=("hub:nyu-mll/glue:sst2:dev",)
    )
    log = Log(push_to_hub="ada/sst2", language="en", license="apache-2.0")
    config = Config(task="classification", model="google-bert/bert-base-uncased", data=files, log=log)
    text = card(config, metrics={"loss": 0.5, "accuracy": 0.9, "matthews": 0.8, "targets": 84})
    data = ModelCard(text).data
    assert {key: value for key, value in data.to_dict().items() if key != "model-index"} == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "language": "en",
        "license": "apache-2.0",
        "base_model": "google-bert/bert-base-uncased",
        "datasets": ["nyu-mll/glue"],
        "metrics": ["accuracy", "matthews_correlation"],
        "tags": ["bert-warmup"],
    }
    assert data.model_name == "ada/sst2" and 'pipeline("text-classification", model="ada/sst2")' in text
    found = [(result.metric_type, result.metric_name, result.metric_value) for result in data.eval_results]
    matthews = ("matthews_correlation", "matthews", 0.8)
    assert found == [("loss", "loss", 0.5), ("accuracy", "accuracy", 0.9), matthews]  # a count is no metric
    first = data.eval_results[0]
    assert (first.task_type, first.dataset_type, first.dataset_name) == ("text-classification", *["nyu-mll/glue"] * 2)
    assert (first.dataset_config, first.dataset_split) == ("sst2", "dev")
    assert "| base model | `google-bert/bert-base-uncased` |\n" in text
    assert "| training data | `hub:nyu-mll/glue:sst2:train`, `more.csv`: 1600 samples |\n" in text
    assert "| validation data | `hub:nyu-mll/glue:sst2:dev`: 84 samples |\n" in text


def test_the_default_model_and_data() -> None:
    text = card(Config())
    assert header(text).keys() == {"library_name", "pipeline_tag", "tags", "metrics", "model-index"}
    (result,) = ModelCard(text).data.eval_results
    assert (result.dataset_type, result.dataset_name) == (
        "docstrings", "0.05 of the training rows, held out (docstrings)",
    )  # fmt: skip
    assert "| base model | a new BERT, tiny |\n" in text
    assert "| training data | docstrings of the installed Python packages: 1600 samples |\n" in text
    assert "| validation data | 0.05 of the training rows, held out: 84 samples |\n" in text
    assert re.search(
        r"\| versions \| python 3\.\d+\.\d+, torch \S+, accelerate \S+, transformers \S+, datasets \S+ \|\n", text
    )


def test_nothing_of_the_machine_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only names of files are kept, of relative paths too; a model's folder is not taken for a name on the hub."""
    secret = tmp_path / "secret"
    (secret / "bert").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    data = Data(
        train_files=(f"{secret}/a.csv", "secret/parts/*.csv"),
        cache_dir=f"{secret}/cache",
        tokenizer=f"{secret}/words/",
    )
    config = Config(model="secret/bert", run_dir=f"{secret}/run", data=data, launch=Launch(2, "cpu"))
    arguments = [
        "--config", RECIPE_FILE, "--run-dir", f"{secret}/run", "--launch.world_size", "2", "--launch.device", "cpu",
        "--data.train_files", f"{secret}/a.csv", "secret/parts/*.csv", "--model=secret/bert", "--resume", "auto",
        f'--data.validation_files=["{secret}/b.csv"]', f"--data.cache_dir={secret}/cache",
        "--recipe.duration", "3 epochs", "--run_dir=x",
    ]  # fmt: skip
    text = card(config, arguments)
    assert "secret" not in text and str(tmp_path) not in text and "base_model" not in text
    assert "| base model | `bert` |\n" in text and "| training data | `a.csv`, `*.csv`: 1600 samples |\n" in text
    assert command(text) == [
        "bash", "launch/cpu.sh", "2", "--config", "configs/finetune_classification.yaml", "--data.train_files", "a.csv",
        "*.csv", "--model", "bert", "--data.validation_files", "b.csv", "--recipe.duration", "3 epochs",
    ]  # fmt: skip
    read = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert (read["model"], read["data"]["train_files"], read["data"]["tokenizer"]) == (
        "bert",
        ["a.csv", "*.csv"],
        "words",
    )
    assert read["launch"]["world_size"] is None and read["launch"]["device"] is None


def test_files_of_one_name_keep_their_folders(tmp_path: Path) -> None:
    text = card(Config(), ["--data.train_files", f"{tmp_path}/one/a.csv", f"{tmp_path}/two/a.csv"])
    assert command(text)[3:] == ["--data.train_files", "one/a.csv", "two/a.csv"]


def test_a_run_of_a_file_of_its_own_is_repeated_by_its_configuration() -> None:
    text = card(Config(), ["--config", "/home/ada/own.yaml", "--seed", "3"])
    assert command(text) == ["bash", "launch/cpu.sh", "2", "--config", "config.yaml"] and "home" not in text


def test_one_of_several_seeds() -> None:
    assert command(card(Config(seed=7), ["--seeds", "3,7"]))[3:] == ["--seed", "7"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("one process", "cpu", "no", 1), "bash launch/cpu.sh 1"),
        (("DistributedDataParallel", "cuda", "bf16", 8), "bash launch/gpus.sh 8"),
        (("DeepSpeed, ZeRO stage 2", "cuda", "bf16", 8), "bash launch/deepspeed.sh 2 8"),
        (("DeepSpeed, ZeRO stage 3", "cpu", "no", 2), "bash launch/deepspeed.sh 3 --cpu 2"),
        (
            ("DistributedDataParallel", "cuda", "fp16", 4),
            "accelerate launch --config_file configs/accelerate/multi_gpu.yaml --num_processes 4 "
            "--mixed_precision fp16 train.py",
        ),
        (
            ("FSDP2", "cuda", "bf16", 4),
            "accelerate launch --config_file configs/accelerate/fsdp2.yaml --num_processes 4 "
            "--mixed_precision bf16 train.py",
        ),
    ],
)
def test_the_launcher_with_its_ranks(given: tuple, words: str) -> None:
    assert " ".join(start_command(*given)) == words
    assert all((ROOT / word).is_file() for word in words.split() if word.endswith((".sh", ".yaml")))


def test_the_configuration_reproduces_the_run(tmp_path: Path) -> None:
    config = Config(
        recipe=RECIPE, batch=BATCH, data=Data(train_files=("a.csv",), cache_dir="/tmp/cache"), run_dir="x", seed=3
    )
    (written,) = re.findall(r"```yaml\n(.*?)```", card(config), re.DOTALL)
    path = tmp_path / "config.yaml"
    path.write_text(written)
    read, _ = commandline.parse(commandline.parser("", ""), ["--config", str(path)])
    assert read == Config(recipe=RECIPE, batch=BATCH, data=Data(train_files=("a.csv",)), seed=3)


def test_names_cannot_end_a_table_a_code_block_or_the_header() -> None:
    data = Data(train_files=("a|b`c`\n| x | y |.csv", "hub:a: b\n---\n:c:train"))
    text = card(Config(task="classification", model="a: b\n---\n", data=data), ["--data.text_column", "a\n```\n# no"])
    assert header(text)["base_model"] == "a: b\n---\n" and header(text)["datasets"] == ["a"]
    (row,) = [line for line in text.splitlines() if line.startswith("| training data |")]
    assert row.startswith("| training data | `` a\\|b`c` \\| x \\| y \\|.csv ``, `hub:a: b --- :c:train`: ")
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert "\n````bash\nbash launch/cpu.sh 2 --data.text_column 'a\n```\n# no'\n````\n" in text


def test_the_scores_of_each_class_and_the_picture_of_the_loss() -> None:
    config = Config(task="classification", recipe=RECIPE, batch=BATCH, data=Data(train_files=("a.csv",)))
    scores = {"precision": 0.25, "recall": 0.5, "f1": 1 / 3}
    names = {"<b>|x": 5, "rare": 1, **{f"class {number}": 10 + number for number in range(60)}}
    per_class = {name: scores | {"support": support} for name, support in names.items()}
    trained = TrainedModel(
        config, PLAN, DATA, {"loss": 2.5}, 20, [], ["bash"], "x", 1, per_class=per_class, picture="loss.png"
    )
    text = model_card(trained)
    assert "| `class 59` | 0.250 | 0.500 | 0.333 | 69 |" in text and "`rare`" not in text
    assert "And 12 more that are labels less often." in text
    assert "![Training and held-out loss over steps](loss.png)" in text
    few = model_card(replace(trained, per_class={"<b>|x": per_class["<b>|x"]}, picture=""))
    assert "| `<b>\\|x` | 0.250 | 0.500 | 0.333 | 5 |" in few and "more that" not in few and "![" not in few
