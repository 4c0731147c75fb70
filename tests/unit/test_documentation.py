"""The README's Python runs as it stands there, and its plan table is what the command prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from callbacks import RECIPE, Module, bert, forget, samples
from harness import ROOT
from torch.optim.optimizer import register_optimizer_step_pre_hook

from warmup import Recipe, Topology, make_plan
from warmup.__main__ import main

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run_in_order() -> None:
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    blocks[0] = blocks[0].replace(
        'warmup="1000 steps", duration="10000 steps"', 'warmup="40 steps", duration="400 steps"'
    )
    exec(compile(blocks[0], "README.md", "exec"), names)
    plan = names["plan"]
    assert (plan.global_batch_size, plan.scale, plan.peak_lr) == (1024, 4.0, 2e-4)
    assert (plan.warmup_steps, plan.total_steps) == (10, 100)
    assert names["scheduler"].samples == plan.total_samples
    assert names["optimizer"].param_groups[0]["lr"] == 0.0  # after the last step the rate stays at the end
    exec(compile(blocks[1], "README.md", "exec"), names)
    assert names["clock"].step == 3


@pytest.mark.parametrize(("library", "old", "new"), [
    ("transformers", "lr_scheduler_type", 'use_cpu=True, report_to="none", lr_scheduler_type'),
    ("lightning", "world_size=2", "world_size=1"),
])  # fmt: skip
def test_a_callback_example_runs(library: str, old: str, new: str, tmp_path: Path, monkeypatch) -> None:
    """In one process on the CPU, with what it takes as given: a recipe, a model, a module, data."""
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if f"from {library}" in block)
    given = {"recipe": Recipe(**RECIPE), "model": bert(), "module": Module(), "data": samples()}
    names = given | {"Topology": Topology, "make_plan": make_plan}
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    block = block.replace(old, new).replace("devices=", 'accelerator="cpu", devices=')
    exec(compile(block, "README.md", "exec"), names)
    hook.remove()
    forget()
    # 16 samples a step, four times the reference: 96 samples are 6 steps, 24 are 2 of warmup (half a step rounds up)
    assert rates == pytest.approx([2e-2, 4e-2, 4e-2, 3e-2, 2e-2, 1e-2], rel=1e-12)


def test_the_plan_table_is_what_the_command_prints(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    command, table = re.search(
        r"```bash\npython -m warmup (plan .*?)\n```\n\n```\n(.*?)```", README, re.DOTALL
    ).groups()
    assert main(command.split()) == 0
    printed = capsys.readouterr().out.splitlines()
    for line, expected in zip(printed, table.splitlines(), strict=True):
        assert line.startswith(expected.removesuffix(" ..."))


def test_every_finding_of_the_linter_is_explained() -> None:
    sources = "".join((ROOT / "warmup" / name).read_text() for name in ("lint.py", "plan.py", "planning.py"))
    codes = set(re.findall(r'(?:Finding|PlanError)\(\s*"([a-z-]+)"', sources))
    assert len(codes) > 10
    assert [code for code in sorted(codes) if f"`{code}`" not in README] == []
