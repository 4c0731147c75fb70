"""The command behind launch/glue.sh, whose --help explains it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from warmup.commandline.words import read_options, split_values
from warmup.errors import UserError
from warmup.training.files import write_json
from warmup.training.glue import convert, results, suite
from warmup.training.glue.tasks import TASKS, GlueTask, choose

_LISTS = ("seeds", "tasks")
_OF_THE_SUITE = ("resume", "seed", "task", "predict", "data.train_files", "data.validation_files")


@dataclass(frozen=True)
class Command:
    """What was typed."""

    source: str
    """"hub", or the absolute path of the folder of GLUE's folders."""
    model: str
    seeds: list[int]
    tasks: tuple[GlueTask, ...]
    folder: Path
    ranks: int
    dry_run: bool
    options: list[str]
    """Those for train.py."""


def main(argv: Sequence[str]) -> int:
    """Run the suite. Returns the exit code, as launch/run.sh has them."""
    try:
        return run(parse(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return suite.USER_ERROR


def parse(argv: Sequence[str]) -> Command:
    """Raises UserError where the arguments cannot be used, as far as that is not for train.py to say."""
    source = argv[0] if argv else "--"
    if source != "hub" and not Path(source).expanduser().is_dir():
        what = "the first argument" if source.startswith("-") else source
        raise UserError(f"{what} is neither hub nor the folder of GLUE's folders, CoLA, MNLI and so on")
    own: dict[str, list[str]] = {}
    rest: list[str] = []
    for name, values in read_options(argv[1:], _LISTS):
        if name in _OF_THE_SUITE:
            raise UserError(f"--{name}: the suite gives it to each run; leave it out")
        if name in ("model", "seeds", "tasks", "run_dir", "ranks", "dry_run"):
            own[name] = split_values(values)
        else:
            rest += (f"--{name}", *values)
    if len(own.get("model", ())) != 1:
        raise UserError("--model: name the model to fine-tune")
    model = own["model"][0]
    default = f"runs/glue-{'-'.join(Path(model).parts[-2:]).strip('/-')}"
    return Command(
        source=source if source == "hub" else str(Path(source).expanduser().resolve()),
        model=model,
        seeds=_numbers("seeds", own.get("seeds", ["1", "2", "3"]), "different numbers such as 1,2,3"),
        tasks=choose(own.get("tasks", [*TASKS])),
        folder=Path(*own.get("run_dir", [default])).expanduser(),
        ranks=max(_numbers("ranks", own.get("ranks", ["2"]), "a number of CPU ranks")[0], 1),
        dry_run="dry_run" in own or bool(os.environ.get("WARMUP_DRY_RUN")),
        options=rest,
    )


def _numbers(name: str, values: Sequence[str], expected: str) -> list[int]:
    if not values or any(not value.isdecimal() for value in values) or len(set(values)) < len(values):
        raise UserError(f"--{name}: {','.join(values)!r}, but it takes {expected}")
    return [int(value) for value in values]


def run(command: Command) -> int:
    """Convert the data, train and predict what is not done yet, and print the table. Returns the exit code."""
    job = suite.Suite(
        folder=command.folder,
        tasks=command.tasks,
        model=command.model,
        seeds=command.seeds,
        options=command.options,
        launchers=suite.find_launchers(command.ranks),
        dry_run=command.dry_run,
    )
    if command.dry_run:
        return job.run()
    _enter(command.folder, {"source": command.source, "model": command.model})
    for task in command.tasks:
        for note in convert.convert(task, command.source, command.folder / "data" / task.name):
            print(f"{task.folder}: {note}", flush=True)
    code = job.run()
    table = results.write_table(command.folder, command.tasks, command.model, command.seeds)
    print(f"{table}\n\nin {command.folder / 'glue.md'}", flush=True)
    if code == suite.STOPPED:
        print("stopped: the same command goes on", file=sys.stderr)
    return code


def _enter(folder: Path, settings: dict[str, str]) -> None:
    """Make the directory of the suite, or go on in it. Raises UserError if it is of something else."""
    record = folder / "suite.json"
    if record.is_file():
        before = json.loads(record.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if before.get(name) != value:
                raise UserError(
                    f"run_dir: {folder} is of the {name} {before.get(name)!r}, not {value!r}; give another one"
                )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"run_dir: {folder} is occupied, and not by this suite; give another one")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(record, settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
