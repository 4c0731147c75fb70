"""Dependencies point one way: pure files <- scheduler, clock <- training <- train.py; and <- callbacks."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT

PACKAGE = ROOT / "warmup"
PURE = (
    "errors", "duration", "shapes", "scaling", "batch_schedule", "config", "plan", "planning", "explain", "lint",
    "elastic", "presets", "noise_scale", "terminal",
)  # fmt: skip
COMMAND = ("commandline", "plan_command", "__main__")
REPORT = ("report",)
TORCH = ("scheduler", "clock")
THIRD_PARTY = {
    "commandline": {"yaml", "jsonargparse"},
    "commandline.yaml_files": {"yaml"},
    "plan_command": {"jsonargparse"},
    "plan_command.plot": {"matplotlib"},
    "report": {"matplotlib", "numpy", "pandas", "jinja2", "markupsafe", "yaml"},
    "scheduler": {"torch"},
    "clock": {"torch"},
}


TRAINING = (
    "files", "hub", "distributed", "models", "data", "tasks", "engines", "checkpoints", "reporting", "predict", "run",
    "probe", "glue",
)  # fmt: skip
"""Parts of warmup/training: each imports only itself and those before it."""


def files(folder: Path) -> dict[str, Path]:
    """All modules below a folder by their dotted names."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it, `from package import name` as package.name too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def module_of(name: str) -> str:
    """The part of the core, such as `config`, that an imported module of the package belongs to."""
    return name.split(".")[1]


MODULES = files(PACKAGE)
CORE = {
    name: path for name, path in MODULES.items() if "." in name and module_of(name) not in ("training", "callbacks")
}


def test_these_are_all_the_files_of_the_core() -> None:
    assert {module_of(name) for name in CORE} == {*PURE, *COMMAND, *REPORT, *TORCH}


@pytest.mark.parametrize("name", CORE)
def test_a_file_of_the_core_imports_only_what_its_layer_may(name: str) -> None:
    modules, own = imports(CORE[name]), module_of(name)
    ours = {module_of(module) for module in modules if module.startswith("warmup.")}
    others = {module.split(".")[0] for module in modules if not module.startswith("warmup")}
    names = set(importlib.import_module("warmup").__all__)
    above = {*PURE, *REPORT, "commandline", "plan_command"}
    # Data is counted where the plan needs it, by the code that training reads it with; a probe trains.
    allowed = {"report": {*PURE, *REPORT}, "__main__": {*above, "training"}, "plan_command": {*above, "training"}}
    assert ours - names <= allowed.get(own, {*PURE, "commandline"} if own in COMMAND else set(PURE))
    third_party = others - set(sys.stdlib_module_names)
    if own in REPORT:
        assert third_party <= THIRD_PARTY[own]
    else:
        assert third_party == THIRD_PARTY.get(name.removeprefix("warmup."), set())


def test_a_run_is_seen_without_torch() -> None:
    code = "import sys, warmup.report.command; print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (answer.stdout, answer.stderr) == ("[]\n", "")


def test_a_callback_needs_its_own_library_and_the_schedule() -> None:
    needed = {"__init__": {"torch"}, "transformers": {"torch", "transformers"}, "lightning": {"lightning"}}
    found = {path.stem: imports(path) for path in (PACKAGE / "callbacks").glob("*.py")}
    others = {name: {module.split(".")[0] for module in found[name]} - {"warmup"} for name in found}
    assert {name: modules - set(sys.stdlib_module_names) for name, modules in others.items()} == needed
    ours = {module_of(module) for modules in found.values() for module in modules if module.startswith("warmup.")}
    assert ours <= {"callbacks", "clock", "errors", "plan", "scheduler"}


def test_folders_of_training_import_only_folders_before_them() -> None:
    wrong = []
    for name, path in MODULES.items():
        parts = name.split(".")
        if parts[:2] != ["warmup", "training"] or len(parts) < 3:
            continue
        place = TRAINING.index(parts[2])
        for module in imports(path):
            other = module.split(".")
            if other[:2] == ["warmup", "training"] and len(other) > 2 and TRAINING.index(other[2]) > place:
                wrong.append(f"{name} imports {module}")
            assert other[0] not in ("train", "tests") and module != "warmup.callbacks", (name, module)
    assert wrong == []


def _files_of(modules: set[str]) -> set[str]:
    """Without packages of which only other files are imported."""
    return {name for name in modules if not any(other.startswith(f"{name}.") for other in modules)}


def test_no_two_files_import_each_other() -> None:
    """Not even through others. (The package itself imports its public names when they are used.)"""
    inner = MODULES.keys() - {"warmup"}
    graph = {name: _files_of(imports(MODULES[name]) & inner) for name in inner}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name] - {name}):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_pure_files_and_the_package_itself_do_not_import_torch() -> None:
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


def test_the_script_reads_its_arguments_before_it_imports_torch() -> None:
    code = "import sys, train; print(sorted({'torch', 'transformers', 'accelerate', 'datasets'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (answer.stdout, answer.stderr) == ("[]\n", "")


def test_the_probe_reads_its_arguments_before_it_imports_torch() -> None:
    code = (
        "import sys; from warmup.training.probe.command import parse; parse([]); "
        "print(sorted({'torch', 'transformers', 'accelerate', 'datasets'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (answer.stdout, answer.stderr) == ("[]\n", "")


def test_the_first_layer_needs_nothing_but_the_standard_library() -> None:
    """Importable where only Python is: -S leaves out site-packages."""
    names = [f"warmup.{name}" for name in PURE]
    code = f"import importlib; print([importlib.import_module(name).__name__ for name in {names}])"
    answer = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (answer.stdout, answer.stderr) == (f"{names}\n", "")


def test_the_public_names_are_what_the_package_says() -> None:
    import warmup

    for name in warmup.__all__:
        home = importlib.import_module(f"warmup.{warmup._MODULE_OF[name]}")
        assert getattr(warmup, name) is getattr(home, name), name  # also where a module has the same name
    assert sorted(warmup.__all__) == sorted(warmup._MODULE_OF)
    with pytest.raises(AttributeError, match="module 'warmup' has no attribute 'Schedule'"):
        warmup.Schedule  # noqa: B018
