"""Dependencies point one way: pure files <- scheduler, clock <- training <- train.py; and <- callbacks."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "warmup"
PURE = ("duration", "shapes", "scaling", "config", "plan", "elastic", "lint", "presets")
COMMAND = ("commandline", "__main__")
OURS = sorted(path.stem for path in PACKAGE.glob("*.py"))
THIRD_PARTY = {
    "commandline": {"yaml", "jsonargparse"},
    "__main__": {"matplotlib"},
    "scheduler": {"torch"},
    "clock": {"torch"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it, with `from package import module` as package.module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found |= {node.module} if node.module != "warmup" else {f"warmup.{alias.name}" for alias in node.names}
            if node.module and node.module.startswith("warmup."):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_these_are_all_the_files():
    assert set(OURS) == {"__init__", *PURE, *COMMAND, "scheduler", "clock"}


@pytest.mark.parametrize("name", [*PURE, *COMMAND, "scheduler", "clock"])
def test_a_file_imports_only_what_its_layer_may(name):
    modules = imports(PACKAGE / f"{name}.py")
    ours = {module.split(".")[1] for module in modules if module.startswith("warmup.")}
    others = {module.split(".")[0] for module in modules if not module.startswith("warmup.")}
    allowed = {*PURE, "commandline"} if name in COMMAND else set(PURE)
    assert ours <= allowed
    assert others - set(sys.stdlib_module_names) == THIRD_PARTY.get(name, set())


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_nothing_outside_training_knows_training_or_callbacks(path):
    upper = ("warmup.training", "warmup.callbacks", "train", "tests")
    assert not [module for module in imports(path) if module.startswith(upper)]


def test_a_callback_needs_its_own_library_and_the_schedule():
    needed = {"__init__": {"torch"}, "transformers": {"torch", "transformers"}, "lightning": {"lightning"}}
    files = {path.stem: imports(path) for path in (PACKAGE / "callbacks").glob("*.py")}
    others = {name: {module.split(".")[0] for module in files[name]} - {"warmup"} for name in files}
    assert {name: found - set(sys.stdlib_module_names) for name, found in others.items()} == needed
    ours = {module.split(".")[1] for found in files.values() for module in found if module.startswith("warmup.")}
    assert ours == {"callbacks", "clock", "plan", "scheduler"}


def test_training_does_not_know_the_script():
    files = sorted((PACKAGE / "training").rglob("*.py"))
    assert len(files) > 5
    for path in files:
        known = {module.split(".")[0] for module in imports(path)}
        assert not known & {"train", "tests"}, path.name
    assert "warmup" in {module.split(".")[0] for module in imports(ROOT / "train.py")}


def test_pure_files_and_the_package_itself_do_not_import_torch():
    """Planning answers at once."""
    heavy = ("torch", "transformers", "accelerate", "datasets", "numpy", "matplotlib", "lightning")
    names = ["warmup", *(f"warmup.{name}" for name in (*PURE, *COMMAND))]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names}]; "
        "from warmup import PRESETS, Batch, Config, Finding, Plan, PlanError, Recipe, Topology, examine, make_plan; "
        f"print(sorted(set({heavy}) & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (answer.stdout, answer.stderr) == ("[]\n", "")


def test_the_first_layer_needs_nothing_but_the_standard_library():
    """Importable where only Python is: -S leaves out site-packages."""
    names = [f"warmup.{name}" for name in PURE]
    code = f"import importlib; print([importlib.import_module(name).__name__ for name in {names}])"
    answer = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (answer.stdout, answer.stderr) == (f"{names}\n", "")


def test_the_public_names_are_what_the_package_says():
    import warmup

    for name in warmup.__all__:
        home = importlib.import_module(f"warmup.{warmup._HOME_OF[name]}")
        assert getattr(warmup, name) is getattr(home, name), name  # also where a module has the same name
    assert sorted(warmup.__all__) == sorted(warmup._HOME_OF)
    with pytest.raises(AttributeError, match="module 'warmup' has no attribute 'Schedule'"):
        warmup.Schedule  # noqa: B018
