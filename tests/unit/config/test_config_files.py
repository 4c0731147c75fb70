"""Every file of configs/ says how it is used, and parses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from harness import ROOT

from warmup.config import Config
from warmup.config.tasks import TASKS
from warmup.lint import examine
from warmup.plan import Topology
from warmup.training.run.arguments import parse

CONFIGS = ROOT / "configs"
RECIPES = sorted(CONFIGS.glob("*.yaml"))
PARENT_OF = {"cooldown.yaml": "quickstart_stable.yaml"}
"""A file for branches says only what changes; this is the one that its comment branches from."""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_parses_and_is_healthy(path: Path) -> None:
    before = [PARENT_OF[path.name]] if path.name in PARENT_OF else []
    config, _ = parse([word for name in [*before, path.name] for word in ("--config", str(CONFIGS / name))])
    for world_size in (1, 2, 4):
        plan, findings = examine(config.recipe, Topology.from_batch(config.batch, world_size), 100_000)
        assert findings == []
        assert plan.warmup_steps >= 1


@pytest.mark.parametrize("path", [*RECIPES, *CONFIGS.glob("accelerate/*.yaml")], ids=lambda path: path.name)
def test_a_file_begins_with_its_command(path: Path) -> None:
    comment = path.read_text().split("\n\n")[0]
    assert comment.startswith("# ") and "launch" in comment and path.name in comment


def test_cpu_launch_files_start_as_many_ranks_as_they_say() -> None:
    """MULTI_GPU with use_cpu is what starts several CPU ranks."""
    for ranks in (2, 4):
        content = yaml.safe_load((CONFIGS / "accelerate" / f"cpu_{ranks}.yaml").read_text())
        assert (content["distributed_type"], content["use_cpu"], content["num_processes"]) == ("MULTI_GPU", True, ranks)


def test_the_default_job_is_the_quickstarts() -> None:
    ours, _ = parse([])
    theirs, _ = parse(["--config", str(CONFIGS / "quickstart_pretrain.yaml")])
    assert ours == theirs
    assert (ours.model, ours.data.max_length, ours.data.vocab_size, ours.recipe.duration) == (
        "tiny",
        32,
        2000,
        "4000 steps",
    )


RECIPE_OF = [
    ((), "quickstart_pretrain"),
    (("--recipe.duration", "40 steps"), "quickstart_pretrain"),
    (("--task", "mlm", "--data.train_files", "a.txt"), "pretrain_mlm"),
    (("data.train_files=a.txt",), "pretrain_mlm"),
    (("--task", "clm"), "pretrain_clm"),
    (("--task", "classification"), "quickstart_finetune"),
    (("--task=classification", "--data.train-files", "a.csv", "--model", "x"), "finetune_classification"),
    (("--task", "regression", "--data.train_files", "a.csv"), "finetune_classification"),
    (("--task", "token-classification", "--data.train_files", "a.conll"), "finetune_tokens"),
]


@pytest.mark.parametrize(("given", "name"), RECIPE_OF)
def test_the_tasks_recipe_is_the_base_of_what_is_given(given: tuple[str, ...], name: str) -> None:
    config, options = parse(given)
    assert config == parse(["--config", str(CONFIGS / f"{name}.yaml"), *given])[0]
    (base,) = options.base
    assert base.name == "config" and (CONFIGS / f"{name}.yaml").samefile(base.values[0])


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_recipe(task: str) -> None:
    assert (CONFIGS / TASKS[task].recipe).is_file()


def test_a_config_has_no_base(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("seed: 3")
    config, options = parse(["--config", str(path), "--task", "classification"])
    assert config == Config(seed=3, task="classification") and options.base == []


def test_an_accumulation_takes_the_place_of_the_global_batch_of_the_base() -> None:
    batch = parse(["--batch.accumulation", "3"])[0].batch
    assert (batch.per_device, batch.accumulation, batch.global_size) == (16, 3, None)


def test_the_base_of_a_branch_is_its_parents_configuration(tmp_path: Path) -> None:
    """Under a --config too; of the run itself once it is there. It is not pushed over the parent's model."""
    for name, rate in (("parent", "1e-3"), ("begun", "2e-3")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(
            f"seed: 4\nlaunch: {{world_size: 2}}\nrecipe: {{lr: {rate}}}\nlog: {{push_to_hub: ada/bert}}\n"
        )
    cooldown = ["--config", str(CONFIGS / "cooldown.yaml")]
    for parent in (tmp_path / "parent", tmp_path / "parent" / "checkpoints" / "step-00000010"):
        branch = ["--branch_from", str(parent)]
        config, options = parse([*branch, *cooldown, "--run_dir", str(tmp_path / "new"), "--resume", "auto"])
        assert (config.seed, config.recipe.lr, config.recipe.decay, config.recipe.cooldown) == (
            4,
            1e-3,
            "wsd",
            "1-sqrt",
        )
        assert (config.launch.world_size, config.log.push_to_hub) == (None, None)
        assert options.base[0].values == (str(tmp_path / "parent" / "config.yaml"),)
        config, _ = parse([*branch, "--run_dir", str(tmp_path / "begun"), "--resume", "auto"])
        assert (config.recipe.lr, config.recipe.decay) == (2e-3, "linear")
    assert parse(["--branch_from", str(tmp_path / "nowhere")])[0].recipe.duration == "4000 steps"


def test_the_base_of_a_resumed_run_is_its_own_configuration(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("task: classification\nseed: 4\nlaunch: {world_size: 2}\n")
    for given in (
        ["--run_dir", str(tmp_path / "run"), "--resume", "auto"],
        ["--resume", str(tmp_path / "run")],
        ["--resume", str(tmp_path / "run" / "checkpoints" / "step-00000010")],
    ):
        config, _ = parse([*given, "--recipe.lr", "1e-3"])
        assert config.launch.world_size is None
        assert (config.task, config.seed, config.recipe.lr, config.recipe.duration) == (
            "classification",
            4,
            1e-3,
            "3 epochs",
        )
    assert parse(["--run_dir", str(tmp_path / "new"), "--resume", "auto"])[0].task == "mlm"
