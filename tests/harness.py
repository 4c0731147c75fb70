"""Real gloo ranks for tests: forked from the test process, in which the libraries are imported already.

Starting two ranks so takes seconds where a launcher takes ten. One test per launcher goes through the real one.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 120
LOGGED = (
    "step",
    "samples",
    "consumed_samples",
    "tokens",
    "lr",
    "loss",
    "grad_norm",
)  # of a training line, all but its times


@dataclass
class Rank:
    """How a rank ended: what its function returned, or the text of its exception, or the signal that killed it."""

    value: Any = None
    error: str | None = None
    exit_code: int | None = None


@dataclass
class Ended:
    """How a training run ended."""

    codes: list[int]
    status: dict = field(default_factory=dict)
    lines: list[dict] = field(default_factory=list)
    folder: Path | None = None
    stdout: str = ""
    stderr: str = ""

    def of_kind(self, kind: str) -> list[dict]:
        return [line for line in self.lines if line["kind"] == kind]

    def column(self, name: str) -> list[float]:
        return [line[name] for line in self.of_kind("train")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Ranks:
    """Ranks that run in the background: to be sent signals, and waited for."""

    processes: list[multiprocessing.Process]
    pipes: list[Any]

    def running(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def send(self, number: int) -> None:
        """A signal for all of them."""
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    def wait(self, timeout_s: float = TIMEOUT_S) -> list[Rank]:
        """How they ended. Fails on a hang."""
        deadline = time.monotonic() + timeout_s
        ranks = [_receive(process, pipe, deadline) for process, pipe in zip(self.processes, self.pipes, strict=True)]
        hung = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for process in self.processes:
            process.kill()
            process.join()
        assert not hung, f"ranks {hung} did not end within {timeout_s} s"
        return ranks


def run_ranks(
    world_size: int, work: Callable[..., Any], *args: Any, timeout_s: float = TIMEOUT_S, env: dict | None = None
) -> list[Rank]:
    """Call `work(rank, *args)` in so many forked processes with a launcher's environment. Fails on a hang."""
    return start_ranks(world_size, work, *args, env=env).wait(timeout_s)


def start_ranks(world_size: int, work: Callable[..., Any], *args: Any, env: dict | None = None) -> Ranks:
    """As `run_ranks`, without waiting for them."""
    context = multiprocessing.get_context("fork")
    port = free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(world_size)]
    processes = [
        context.Process(target=_child, args=(rank, world_size, port, env or {}, pipes[rank][1], work, args))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()
    return Ranks(processes, [receiver for receiver, _ in pipes])


def _receive(process: multiprocessing.Process, pipe: Any, deadline: float) -> Rank:
    result = Rank()
    try:
        if pipe.poll(max(deadline - time.monotonic(), 0)):
            result.value, result.error = pipe.recv()
    except EOFError:
        pass
    process.join(max(deadline - time.monotonic(), 0.1))
    result.exit_code = process.exitcode
    return result


def _child(rank: int, world_size: int, port: int, env: dict, pipe: Any, work: Callable, args: tuple) -> None:
    import torch

    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo",
        OMP_NUM_THREADS="1",
        **env,
    )
    torch.set_num_threads(1)
    # A thread for each rank, on any machine: how many add up a product may change its last bits.
    os.sched_getaffinity = lambda pid: set(range(world_size))
    try:
        pipe.send((work(rank, *args), None))
        code = 0
    except BaseException as error:
        pipe.send((None, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
        code = 1
    pipe.close()
    os._exit(code)


def gloo(rank: int) -> None:
    """Join the process group; for work that does not go through Accelerate."""
    from datetime import timedelta

    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(seconds=10))


def train(world_size: int, folder: Path, *argv: object, timeout_s: float = TIMEOUT_S, **kwargs: Any) -> Ended:
    """Run train.py on so many ranks into `folder`; further arguments as those of `start_training`."""
    return ended(start_training(world_size, folder, *argv, **kwargs), folder, timeout_s)


def start_training(
    world_size: int,
    folder: Path,
    *argv: object,
    per_rank: Sequence[Sequence[object]] = (),
    before: Callable[[int], None] = lambda rank: None,
    env: dict | None = None,
) -> Ranks:
    """train.py on so many ranks, in the background. `per_rank` adds arguments of single ranks; `before(rank)` is
    called in each of them first, to put something else in the place of what is to fail.
    """
    preload()
    _status(folder).unlink(missing_ok=True)
    arguments = ["--run_dir", str(folder), "--launch.timeout", "20", *map(str, argv)]
    env = {"WARMUP_STATUS_FILE": str(_status(folder)), **(env or {})}
    return start_ranks(world_size, _train_rank, arguments, per_rank, folder, before, env=env)


def ended(ranks: Ranks, folder: Path, timeout_s: float = TIMEOUT_S) -> Ended:
    """How a training in the background ended. Waits for it."""
    codes = [rank.value if rank.exit_code == 0 else rank.exit_code for rank in ranks.wait(timeout_s)]
    status, metrics = _status(folder), folder / "metrics.jsonl"
    return Ended(
        codes=codes,
        status=json.loads(status.read_text()) if status.exists() else {},
        lines=[json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else [],
        folder=folder,
        stdout=_read(folder.with_name(folder.name + ".stdout")),
        stderr=_read(folder.with_name(folder.name + ".stderr")),
    )


def killed_after(step: int | None) -> Callable[[int], None]:
    """For `before`: all ranks are killed at the beginning of the step after this one, once what is being written is
    there; None: they are not.
    """

    def before(rank: int) -> None:
        from warmup.training.run.train_step import TrainStep

        whole_step = TrainStep._step

        def killed(self: TrainStep) -> object:
            if self.clock.step == step:
                self.saver.wait()
                os.kill(os.getpid(), signal.SIGKILL)
            return whole_step(self)

        TrainStep._step = killed

    return before


def change_losses(change: Callable[[Any], Any]) -> None:
    """In this process, put `change(loss)` in the place of the loss of each training pass; evaluation keeps its own."""
    from dataclasses import replace

    from warmup.training.run.train_step import TrainStep

    init = TrainStep.__init__

    def with_changed_losses(self: TrainStep, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        loss_sum = self.objective.training_loss_sum
        self.objective = replace(self.objective, training_loss_sum=lambda *given: change(loss_sum(*given)))

    TrainStep.__init__ = with_changed_losses


def scale_losses(factor: Callable[[], float]) -> None:
    """In this process, multiply the loss of each training pass by what `factor` returns when it is computed."""
    change_losses(lambda loss: loss * factor())


def assert_killed(run: Ended, step: int) -> None:
    """All ranks, after this step."""
    assert run.codes == [-signal.SIGKILL] * len(run.codes), (run.status, run.stderr[-2000:])
    assert run.column("step")[-1] == step


def assert_same_training(run: Ended, reference: Ended, steps: int, rel: float) -> None:
    """The same numbers in every line of the log, and in the evaluation at its end."""
    import pytest

    assert run.codes == [0] * len(run.codes), (run.status, run.stderr[-2000:])
    assert len(reference.column("step")) == len(run.column("step")) == steps
    for field_ in LOGGED:
        assert run.column(field_) == pytest.approx(reference.column(field_), rel=rel), field_
    ours, theirs = (ended.of_kind("eval")[-1]["loss"] for ended in (run, reference))
    assert ours == pytest.approx(theirs, rel=1e-4)


def assert_same_end(run: Path, reference: Path) -> None:
    """The exported weights and the last checkpoint's optimizer state, byte for byte."""
    newest = max((reference / "checkpoints").glob("step-*")).relative_to(reference)
    for file in (Path("model/model.safetensors"), newest / "model.safetensors", newest / "optimizer.safetensors"):
        assert (run / file).read_bytes() == (reference / file).read_bytes(), file


def assert_each_sample_once(run: Path, seed: int = 0) -> None:
    """samples.jsonl holds each position of the data stream once, up to where the run is, with the sample there."""
    from warmup.training.data import order

    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    found = [pair for line in lines for pair in zip(line["positions"], line["ids"], strict=True)]
    size = json.loads((run / "plan.json").read_text())["num_samples"]
    ids, _ = order.step_samples(0, lines[-1]["consumed_samples"], size, seed)
    assert sorted(found) == list(enumerate(ids.tolist()))


def assert_went_through(run: Ended, reference: Ended) -> None:
    """To the last bit the same as a run without an interruption: weights, state, log and samples."""
    assert run.codes == [0] * len(run.codes), run.status
    assert_same_end(run.folder, reference.folder)
    for name in LOGGED:
        assert run.column(name) == reference.column(name), name
    assert len(run.of_kind("eval")) == 1
    assert_each_sample_once(run.folder)


def _status(folder: Path) -> Path:
    return folder.with_name(folder.name + ".status")


def preload() -> None:
    """Import what training imports, once: forked ranks have it then."""
    import torchmetrics.functional  # noqa: F401
    import transformers.models.bert.modeling_bert  # noqa: F401
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401

    import train  # noqa: F401
    from warmup.training.predict import predict  # noqa: F401
    from warmup.training.run import assembly, seed_sweep, setup, smoke_test  # noqa: F401

    # transformers imports DeepSpeed where a model is saved, which would take a third of the time of a short run.
    before = os.environ.get("DS_ACCELERATOR")
    os.environ["DS_ACCELERATOR"] = "cpu"  # as train.py does on CPU ranks; read once, when it is imported
    with contextlib.suppress(ImportError):
        import deepspeed  # noqa: F401
    os.environ.pop("DS_ACCELERATOR") if before is None else os.environ.update(DS_ACCELERATOR=before)


def _train_rank(
    rank: int,
    arguments: list[str],
    per_rank: Sequence[Sequence[object]],
    folder: Path,
    before: Callable[[int], None],
) -> int:
    import train as script

    extra = [str(argument) for argument in (per_rank[rank] if per_rank else ())]
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        path = folder.with_name(f"{folder.name}.{name}" + (f".{rank}" if rank else ""))
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        setattr(sys, name, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115 - pytest put its own in their place
    before(rank)
    return script.main([*arguments, *extra])


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
