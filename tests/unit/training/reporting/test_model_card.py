"""The model card: what was trained on what and how, without the paths of the machine it was trained on."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from warmup import commandline
from warmup.commandline.words import read_options
from warmup.config import Config
from warmup.config.data import Data
from warmup.config.recipe import Recipe
from warmup.config.run import Batch
from warmup.explain import explain_plan
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.training.reporting.model_card import model_card

RECIPE = Recipe(lr=1e-4, reference_batch_size=16, scaling="sqrt", warmup="10 steps", duration="100 steps")
BATCH = Batch(per_device=16, accumulation=2)
PLAN = make_plan(RECIPE, Topology(2, 16, 2), num_samples=1600)
DATA = SimpleNamespace(amount="1600 samples", validation=range(84))


def card(config: Config, arguments: list[str] | tuple[str, ...] = (), metrics: dict | None = None) -> str:
    return model_card(config, PLAN, DATA, metrics or {"loss": 2.5}, 20, read_options(arguments, commandline.LISTS))


def header(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize(
    ("task", "name"),
    [("mlm", "fill-mask"), ("classification", "text-classification"), ("regression", "text-classification")],
)
def test_the_plan_and_the_metrics(task: str, name: str) -> None:
    text = card(Config(task=task, recipe=RECIPE, batch=BATCH), metrics={"loss": 2.5, "accuracy": 1 / 3})
    assert text.startswith(f"---\nlibrary_name: transformers\npipeline_tag: {name}\n---\n")
    assert f'pipeline("{name}", model=' in text
    assert ('model="path/to/this/folder", function_to_apply="none")' in text) == (task == "regression")
    assert (
        "After step 20, on 84 samples:\n\n| metric | value |\n|---|---|\n| loss | 2.5 |\n| accuracy | 0.333333 |\n"
        in text
    )
    # 2 ranks x 2 x 16 = 64 at a reference of 16: k = 4, sqrt: 1e-4 * 2; 10 steps of 16 are 2.5 of 64, rounded up.
    assert "| global batch | 64 samples | 2 ranks x 2 micro-batches x 16 samples |\n" in text
    assert "| peak lr | 0.0002 | lr 0.0001 x sqrt(k) (sqrt scaling) |\n" in text
    assert "| warmup | 3 steps | 192 samples," in text
    assert "| duration | 25 steps | 1600 samples, 1 epoch |\n" in text
    assert len([line for line in text.splitlines() if line.count("|") == 4]) == 2 + len(explain_plan(PLAN))


def test_names_on_the_hub_are_metadata() -> None:
    files = Data(
        train_files=("hub:nyu-mll/glue:sst2:train", "more.csv"), validation_files=("hub:nyu-mll/glue:sst2:dev",)
    )
    text = card(Config(task="classification", model="google-bert/bert-base-uncased", data=files))
    assert header(text) == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "base_model": "google-bert/bert-base-uncased",
        "datasets": ["nyu-mll/glue"],
    }
    assert "| base model | `google-bert/bert-base-uncased` |\n" in text
    assert "| training data | `hub:nyu-mll/glue:sst2:train`, `more.csv`: 1600 samples |\n" in text
    assert "| validation data | `hub:nyu-mll/glue:sst2:dev`: 84 samples |\n" in text


def test_the_default_model_and_data() -> None:
    text = card(Config())
    assert header(text).keys() == {"library_name", "pipeline_tag"}
    assert "| base model | a new BERT, tiny |\n" in text
    assert "| training data | docstrings of the installed Python packages: 1600 samples |\n" in text
    assert "| validation data | 0.05 of the training rows, held out: 84 samples |\n" in text
    assert re.search(
        r"\| versions \| python 3\.\d+\.\d+, torch \S+, accelerate \S+, transformers \S+, datasets \S+ \|\n", text
    )


def test_nothing_of_the_machine_is_published(tmp_path: Path) -> None:
    """Only names of files are kept; a model's folder is not taken for a name on the hub."""
    secret = tmp_path / "secret"
    (secret / "bert").mkdir(parents=True)
    data = Data(
        train_files=(f"{secret}/a.csv", f"{secret}/parts/*.csv"),
        cache_dir=f"{secret}/cache",
        tokenizer=f"{secret}/words/",
    )
    config = Config(model=f"{secret}/bert", run_dir=f"{secret}/run", data=data)
    arguments = [
        "--config", f"{secret}/my own.yaml", "--run-dir", f"{secret}/run",
        "--data.train_files", f"{secret}/a.csv", f"{secret}/parts/*.csv", f"--model={secret}/bert", "--resume", "auto",
        f'--data.validation_files=["{secret}/b.csv"]',
        "--recipe.duration", "3 epochs", "--run_dir=x",
    ]  # fmt: skip
    text = card(config, arguments)
    assert "secret" not in text and str(tmp_path) not in text and "base_model" not in text
    assert "| base model | `bert` |\n" in text and "| training data | `a.csv`, `*.csv`: 1600 samples |\n" in text
    (command,) = re.findall(r"```bash\n(.*)\n```", text)
    assert shlex.split(command) == [
        "accelerate", "launch", "train.py", "--config", "my own.yaml", "--data.train_files", "a.csv", "*.csv",
        "--model", "bert", "--data.validation_files", '["b.csv"]', "--recipe.duration", "3 epochs",
    ]  # fmt: skip


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
    assert "\n````bash\naccelerate launch train.py --data.text_column 'a\n```\n# no'\n````\n" in text
