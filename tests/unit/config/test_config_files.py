"""Every file of configs/ says how it is used, and parses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from harness import ROOT

from warmup.lint import examine
from warmup.plan import Topology
from warmup.training.run.arguments import parse

CONFIGS = ROOT / "configs"
RECIPES = sorted(CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_parses_and_is_healthy(path: Path) -> None:
    config, _ = parse(["--config", str(path)])
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
    other, _ = parse(["--task", "classification"])  # a word about the job: no quickstart
    assert other.recipe.reference_batch_size is None
