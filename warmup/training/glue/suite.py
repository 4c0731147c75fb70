"""Training and predicting every task with every seed: one task after the other, or one on each GPU."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TextIO

from warmup.training.glue import results
from warmup.training.glue.tasks import GlueTask

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "configs" / "finetune_glue.yaml"
STOPPED, USER_ERROR, FAILED = 75, 2, 1  # exit codes of launch/run.sh
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@dataclass
class Suite:
    """What is to be trained, and what runs."""

    folder: Path
    """The directory of all: data/, a sweep of seeds for each task, predictions/, submission/."""
    tasks: Sequence[GlueTask]
    model: str
    seeds: Sequence[int]
    options: Sequence[str]
    """Further ones of train.py, for all tasks."""
    launchers: Sequence[tuple[Sequence[str], Mapping[str, str]]]
    """Places to run at the same time: the words that start train.py there, and variables of the environment."""
    dry_run: bool = False
    """Print the commands of the trainings alone."""
    _ends: int = 0
    """The exit code for which nothing more is started; 0 for none."""
    _running: set[subprocess.Popen] = field(default_factory=set)

    def run(self) -> int:
        """Do what is not done yet. Call in the main thread. Returns the exit code: 0, or that of what went wrong."""
        for number in _SIGNALS:
            signal.signal(number, self._pass_on)
        free: SimpleQueue = SimpleQueue()
        for launcher in self.launchers:
            free.put(launcher)

        def run_next(task: GlueTask) -> int:
            launcher = free.get()
            try:
                return self._run_task(task, *launcher)
            finally:
                free.put(launcher)

        with ThreadPoolExecutor(len(self.launchers)) as threads:
            codes = list(threads.map(run_next, self._ordered()))
        return self._ends or (FAILED if any(codes) else 0)

    def _ordered(self) -> Sequence[GlueTask]:
        """The tasks in the order that they are begun: where several run at the same time, the longest first."""

        def size(task: GlueTask) -> int:
            path = self.folder / "data" / task.name / "train.jsonl"
            return path.stat().st_size if path.is_file() else 0

        return self.tasks if len(self.launchers) == 1 else sorted(self.tasks, key=size, reverse=True)

    def _run_task(self, task: GlueTask, start: Sequence[str], environment: Mapping[str, str]) -> int:
        """Train a task with all seeds, and predict what GLUE asks for. Returns the exit code."""
        with contextlib.ExitStack() as stack:
            log = None
            if len(self.launchers) > 1 and not self.dry_run:  # which would write all at once
                log = stack.enter_context(open(self.folder / f"{task.name}.log", "a", encoding="utf-8"))
                print(f"{task.folder}: {log.name}", flush=True)
            code = self._start([*start, *self._training(task)], environment, log)
            if code or self.dry_run:
                return code
            if not results.training_scores(self.folder, task, self.seeds):
                print(f"{task.folder}: no seeds were trained, as with --help", flush=True)
                return FAILED
            for arguments in self._predictions(task):
                if code := self._start([*start, *arguments], environment, log):
                    return code
        results.write_submissions(self.folder, task, results.best_seed(self.folder, task, self.seeds))
        return 0

    def _training(self, task: GlueTask) -> list[str]:
        """Options of train.py for all seeds of a task."""
        data, seeds = self.folder / "data" / task.name, ",".join(map(str, self.seeds))
        validation = data / f"validation{task.variants[0]}.jsonl"
        return [
            *("--config", str(RECIPE), "--task", task.task, "--model", self.model),
            *("--data.train_files", str(data / "train.jsonl"), "--data.validation_files", str(validation)),
            *(*self.options, "--seeds", seeds, "--run_dir", str(self.folder / task.name), "--resume", "auto"),
        ]

    def _predictions(self, task: GlueTask) -> Iterator[list[str]]:
        """Options of train.py for each prediction that is not made yet.

        All seeds predict the held-out sets that training did not evaluate, and the best one the test sets.
        """
        best = results.best_seed(self.folder, task, self.seeds)
        wanted = [(f"validation{variant}", seed) for variant in task.variants[1:] for seed in self.seeds]
        for part, seed in [*wanted, *((f"test{variant}", best) for variant in task.variants)]:
            rows = self.folder / "data" / task.name / f"{part}.jsonl"
            output = results.prediction_file(self.folder, task, part, seed)
            if rows.is_file() and not output.exists():
                output.parent.mkdir(exist_ok=True)
                model = str(self.folder / task.name / f"seed-{seed}")
                yield ["--predict", str(rows), "--model", model, "--output", str(output)]

    def _start(self, command: Sequence[str], environment: Mapping[str, str], log: TextIO | None) -> int:
        """Run a command to its end. Returns its exit code, or without starting it the one that ends the suite."""
        if self._ends:
            return self._ends
        with_parent = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        variables = {**os.environ, **environment, **({"WARMUP_DRY_RUN": "1"} if self.dry_run else {})}
        process = subprocess.Popen(
            [*with_parent, *command], env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        self._running.add(process)
        if self._ends == STOPPED:  # the signal came while it was started
            process.send_signal(signal.SIGTERM)
        code = process.wait()
        self._running.discard(process)
        if code in (STOPPED, USER_ERROR):  # what is wrong with the options of one is wrong with those of all
            self._ends = self._ends or code
        return code if code >= 0 else FAILED

    def _pass_on(self, number: int, frame: object) -> None:
        self._ends = STOPPED
        for process in list(self._running):
            process.send_signal(number)


def find_launchers(ranks: int) -> list[tuple[list[str], dict[str, str]]]:
    """Where tasks run: on each GPU that may be used, or where there is none on so many CPU ranks."""
    gpus = str(ROOT / "launch" / "gpus.sh")
    counted = subprocess.run(["bash", gpus, "--count"], capture_output=True, text=True, check=False)
    if counted.returncode:
        return [(["bash", str(ROOT / "launch" / "cpu.sh"), str(ranks)], {})]
    count = int(counted.stdout)
    names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")[:count]
    threads = os.environ.get("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    return [(["bash", gpus, "1"], {"CUDA_VISIBLE_DEVICES": name.strip(), "OMP_NUM_THREADS": threads}) for name in names]
