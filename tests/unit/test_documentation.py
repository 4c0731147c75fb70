"""The pages: their examples run, their commands parse, their links lead somewhere, and what they list is complete."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from callbacks import RECIPE, Module, bert, reset_accelerate, samples
from harness import ROOT
from made_runs import make_run
from torch.optim.optimizer import register_optimizer_step_pre_hook

from warmup import Recipe, Topology, commandline, make_plan
from warmup.__main__ import main
from warmup.config.tasks import TASKS
from warmup.training.probe.command import parse as parse_probe
from warmup.training.run import arguments

FOLDERS = ("configs", "launch", "tests", "warmup")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
}
README, SCHEDULE, LAUNCH = PAGES["README.md"], PAGES["warmup/README.md"], PAGES["launch/README.md"]
PROGRAMS = r"(?:\w+=\S+ +)*(?:bash|sbatch|python|accelerate launch)\b"
MOST_WORDS = 1800


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def code_spans(text: str) -> list[str]:
    """What stands between single backticks, on one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


# --- Python examples ---


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", SCHEDULE, re.DOTALL)


def test_the_python_examples_run_in_order() -> None:
    names: dict = {}
    blocks = python_blocks()
    assert len(blocks) == 5
    assert [page for page, text in PAGES.items() if "```python" in text] == ["warmup/README.md"]
    blocks[0] = blocks[0].replace(
        'warmup="1000 steps", duration="10000 steps"', 'warmup="40 steps", duration="400 steps"'
    )
    exec(compile(blocks[0], "warmup/README.md", "exec"), names)
    plan = names["plan"]
    assert (plan.global_batch_size, plan.scale, plan.peak_lr) == (1024, 4.0, 2e-4)
    assert (plan.warmup_steps, plan.total_steps) == (10, 100)
    assert names["scheduler"].samples == plan.total_samples
    assert names["optimizer"].param_groups[0]["lr"] == 0.0  # after the last step the rate stays at the end
    exec(compile(blocks[1], "warmup/README.md", "exec"), names)
    assert names["clock"].step == 3


@pytest.mark.parametrize(("library", "old", "new"), [
    ("transformers", "lr_scheduler_type", 'use_cpu=True, report_to="none", lr_scheduler_type'),
    ("lightning", "world_size=2", "world_size=1"),
])  # fmt: skip
def test_a_callback_example_runs(library: str, old: str, new: str, tmp_path: Path, monkeypatch) -> None:
    """In one process on the CPU, given what it leaves to the reader: a recipe, a model, a module, data."""
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in python_blocks() if f"from {library}" in block)
    given = {"recipe": Recipe(**RECIPE), "model": bert(), "module": Module(), "data": samples()}
    names = given | {"Topology": Topology, "make_plan": make_plan}
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    block = block.replace(old, new).replace("devices=", 'accelerator="cpu", devices=')
    exec(compile(block, "warmup/README.md", "exec"), names)
    hook.remove()
    reset_accelerate()
    # 16 samples a step, four times the reference: 96 samples are 6 steps, 24 are 2 of warmup (half a step rounds up)
    assert rates == pytest.approx([2e-2, 4e-2, 4e-2, 3e-2, 2e-2, 1e-2], rel=1e-12)


# --- commands ---


def commands() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every command in a bash block or in a line's `code`, without environment variables in front."""
    for page, text in PAGES.items():
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
        spans = code_spans(text)
        for command in (*lines, *spans):
            if re.match(PROGRAMS, command):
                words = shlex.split(command.replace(r"\|", "|"), comments=True)
                yield page, list(_without_variables(words))


def _without_variables(words: list[str]) -> Iterator[str]:
    started = False
    for word in words:
        started = started or "=" not in word
        if started:
            yield word


COMMANDS = list(commands())


def is_template(words: list[str]) -> bool:
    """Whether something in it stands for what the reader puts there: [options], N, ..."""
    return any(word.startswith("[") or word.endswith("]") or word in ("...", "N", "STAGE", "|") for word in words)


def train_arguments(words: list[str]) -> list[str] | None:
    """What train.py is given by a command; None where it is not started."""
    if "train.py" in words:
        return words[words.index("train.py") + 1 :]
    script = next((Path(word).stem for word in words if word.startswith("launch/")), None)
    if script not in ("cpu", "gpus", "elastic", "deepspeed", "machines", "quickstart", "slurm"):
        return None
    rest = words[2:]
    while rest and (not rest[0].startswith("--") or rest[0] in ("--machines", "--rank", "--main", "--cpu", "--gpus")):
        rest = rest[2 if rest[0].startswith("--") else 1 :]
    return rest


def ids(cases: list[tuple[str, list[str]]]) -> list[str]:
    return [f"{page}: {' '.join(words)}"[:120] for page, words in cases]


def test_there_are_commands_on_the_pages() -> None:
    assert len(COMMANDS) > 40
    assert {page for page, _ in COMMANDS} >= {"README.md", "configs/README.md", "launch/README.md", "tests/README.md"}


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=ids(COMMANDS))
def test_the_files_of_the_project_that_a_command_names_are_there(page: str, words: list[str]) -> None:
    ours = [word for word in words if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w/]+\.(sh|py|yaml)|train\.py", word)]
    assert [word for word in ours if not (ROOT / word).is_file()] == []


STARTED = [
    (page, given)
    for page, words in COMMANDS
    if not is_template(words) and (given := train_arguments(words)) is not None
]


@pytest.mark.parametrize(("page", "given"), STARTED, ids=ids(STARTED))
def test_train_takes_the_arguments(page: str, given: list[str], monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(ROOT)
    if "--predict" in given:  # the run that made the model is not there
        monkeypatch.setattr("warmup.training.predict.model_source.config_defaults", lambda model: {})
    try:
        arguments.parse(given)
    except SystemExit as ended:  # of --print_config
        assert ended.code == 0 and "recipe:" in capsys.readouterr().out


LAUNCHED = [(page, words) for page, words in COMMANDS if words[:2] == ["accelerate", "launch"]]


@pytest.mark.parametrize(("page", "words"), LAUNCHED, ids=ids(LAUNCHED))
def test_accelerate_takes_the_arguments(page: str, words: list[str], monkeypatch) -> None:
    if "train.py" in words and not is_template(words):
        monkeypatch.chdir(ROOT)
        options = launch_command_parser().parse_args(words[2:])
        assert options.training_script == "train.py"
        assert options.config_file is None or Path(options.config_file).is_file()


WARMUP = [(page, words[3:]) for page, words in COMMANDS if words[:3] == ["python", "-m", "warmup"]]
PLANNED = [(page, words) for page, words in WARMUP if words[:1] == ["plan"]]
REPORTED = [(page, words) for page, words in WARMUP if words[:1] == ["report"] and len(words) > 1]


@pytest.mark.parametrize(("page", "words"), PLANNED, ids=ids(PLANNED))
def test_the_plan_command_runs(page: str, words: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    if "--plot" in words:
        picture = tmp_path / Path(words[words.index("--plot") + 1]).name
        words = [*words, "--plot", str(picture)]
    if "--noise-from" in words:
        (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "noise_scale": 480.0}\n')
        words = [*words, "--noise-from", str(tmp_path)]
    assert main(words) == 0
    assert "--plot" not in words or picture.stat().st_size > 1000


@pytest.mark.parametrize(("page", "words"), REPORTED, ids=ids(REPORTED))
def test_the_report_command_runs(page: str, words: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word in words:
        if word.startswith("runs/"):
            make_run(tmp_path / word)
    assert main(words) == 0
    assert len(list(tmp_path.rglob("report.html"))) == 1


PROBED = [
    (page, words[words.index("probe") + 1 :])
    for page, words in COMMANDS
    if "probe" in words and words[words.index("probe") - 2 :][:2] == ["-m", "warmup"] and not is_template(words)
]


@pytest.mark.parametrize(("page", "words"), PROBED, ids=ids(PROBED))
def test_the_probe_takes_the_arguments(page: str, words: list[str], monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    parse_probe(words)


def test_every_command_of_the_package_is_of_a_known_kind() -> None:
    kinds = {tuple(words[:1]) for _, words in WARMUP}
    assert kinds == {("plan",), ("report",), ("probe",)} and len(REPORTED) >= 2 and len(PROBED) >= 3


def test_the_notebook_example_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "mine")
    make_run(tmp_path / "runs" / "other")
    names: dict = {}
    (block,) = (block for block in python_blocks() if "import report" in block)
    exec(compile(block, "warmup/README.md", "exec"), names)
    assert len(names["run"].train) == 40 and (tmp_path / "report.html").is_file()


def test_the_plan_table_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(ROOT)
    command, table = re.search(
        r"```bash\npython -m warmup (plan .*?)\n```\n\n```\n(.*?)```", README, re.DOTALL
    ).groups()
    assert main([*command.split(), "--plot", str(tmp_path / "plan.svg")]) == 0
    printed = capsys.readouterr().out.splitlines()
    for line, expected in zip(printed, table.splitlines(), strict=True):
        assert line.startswith(expected.removesuffix(" ..."))


# --- links and names ---


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ +(.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(PAGES[page]))
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_files_and_fields_that_a_page_names_are_there(page: str) -> None:
    spans = code_spans(PAGES[page])
    roots = ((ROOT / page).parent, ROOT, ROOT / "warmup", ROOT / "warmup" / "training")
    files = [span for span in spans if re.fullmatch(r"[a-z_0-9]+(/[a-z_0-9]+)*/[a-z_0-9]+\.(py|sh|yaml|md|svg)", span)]
    assert [file for file in files if not any((root / file).is_file() for root in roots)] == []
    groups = "recipe|batch|data|speed|launch|checkpoint|evaluation|elastic|log"
    names = {match.replace("-", "_") for span in spans for match in re.findall(rf"\b(?:{groups})\.[a-z][a-z_-]+", span)}
    names = {name for name in names if not name.endswith((".py", ".sh", ".json"))}
    assert sorted(names - set(commandline.FIELDS)) == []


def test_the_first_page_is_one_page() -> None:
    assert len(README.split()) <= MOST_WORDS


def test_the_picture_is_small() -> None:
    (picture,) = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert (ROOT / picture).stat().st_size < 60_000


# --- what the pages list is all that there is ---


def test_every_finding_of_the_linter_is_explained() -> None:
    sources = "".join(
        (ROOT / "warmup" / name).read_text() for name in ("lint.py", "plan.py", "planning.py", "elastic.py")
    )
    codes = set(re.findall(r'(?:Finding|PlanError)\(\s*"([a-z-]+)"', sources))
    assert len(codes) > 10
    assert [code for code in sorted(codes) if f"`{code}`" not in SCHEDULE] == []


def test_every_task_recipe_and_launch_script_is_listed() -> None:
    rows = re.findall(
        r"^\| `([a-z][a-z-]*)` \|", PAGES["configs/README.md"].partition("## Data files")[0], re.MULTILINE
    )
    assert sorted(rows) == sorted(TASKS)
    recipes = [path.name for path in (ROOT / "configs").glob("*.yaml")]
    assert [name for name in recipes if name not in PAGES["configs/README.md"]] == []
    scripts = [path.name for path in (ROOT / "launch").iterdir() if path.suffix in (".sh", ".yaml")]
    elsewhere = {"quickstart.sh": README, "test.sh": PAGES["tests/README.md"]}
    assert [name for name in scripts if name not in elsewhere.get(name, LAUNCH)] == []


def test_every_environment_variable_is_listed() -> None:
    files = [*(ROOT / "launch").iterdir(), *(ROOT / "warmup").rglob("*.py")]
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
    names = {name for text in texts for name in re.findall(r"\bWARMUP_[A-Z_]+", text)}
    assert len(names) > 5
    assert [name for name in sorted(names) if f"`{name}" not in LAUNCH] == []


def test_every_folder_of_the_training_code_is_on_its_map() -> None:
    folders = [path.name for path in (ROOT / "warmup" / "training").iterdir() if (path / "__init__.py").is_file()]
    assert len(folders) > 5
    assert [name for name in folders if f"[{name}/]({name}/)" not in PAGES["warmup/training/README.md"]] == []
