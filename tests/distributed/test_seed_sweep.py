"""A sweep of seeds: each run is the one that its seed alone would be, also where the sweep is stopped or killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import LOGGED, Ended, assert_same_end, train
from sharding_engines import zero

STEPS = 8


@pytest.fixture(scope="module")
def job(classification: tuple[str, ...]) -> tuple[object, ...]:
    """8 steps of 32 on 2 ranks, with a checkpoint every 2."""
    batch = ("--batch.per_device", 8, "--batch.accumulation", 2, "--checkpoint.every", "2 steps")
    return (*classification, *batch, "--recipe.duration", f"{STEPS} steps", "--recipe.warmup", "2 steps")


def counting(rank: int) -> None:
    """Note what there is of earlier runs each time that a model is made, and how often Accelerate is started."""
    import gc
    import threading

    from transformers import BertModel
    from transformers.models.bert.modeling_bert import BertLayer

    from warmup.training.distributed import launch
    from warmup.training.models import build as model_build

    build, start = model_build.build_model, launch.start_accelerator

    def noted(*args: object) -> object:
        models = sum(isinstance(what, BertModel | BertLayer) for what in gc.get_objects())
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith(("prefetcher", "trackers"))]
        print(f"rank {rank}: {models} models, {len(names)} threads", flush=True)
        return build(*args)

    def started(*args: object) -> object:
        print(f"rank {rank}: started", flush=True)
        return start(*args)

    model_build.build_model, launch.start_accelerator = noted, started


@pytest.fixture(scope="module")
def swept(job: tuple, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Seeds 3 and 1, in this order."""
    run = train(2, tmp_path_factory.mktemp("swept") / "run", *job, "--seeds", "3,1", before=counting)
    assert run.codes == [0, 0], (run.status, run.stderr[-2000:])
    return run


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_each_seed_is_the_run_that_it_alone_would_be(job: tuple, swept: Ended, tmp_path: Path) -> None:
    """Also the second one, before which there was another in the same processes."""
    alone = train(2, tmp_path / "alone", *job, "--seed", 1)
    assert alone.codes == [0, 0], alone.status
    first, second = swept.folder / "seed-3", swept.folder / "seed-1"
    assert_same_end(second, alone.folder)
    model = Path("model") / "model.safetensors"
    assert (first / model).read_bytes() != (second / model).read_bytes()
    ours = [line for line in lines(second) if line["kind"] == "train"]
    assert [[line[name] for name in LOGGED] for line in ours] == [
        [line[name] for name in LOGGED] for line in alone.of_kind("train")
    ]
    for name in ("config.yaml", "plan.json"):
        assert (second / name).read_text() == (alone.folder / name).read_text(), name
    assert result(second)["metrics"] == result(alone.folder)["metrics"]


def test_what_is_told_of_a_sweep(swept: Ended) -> None:
    metrics = {seed: result(swept.folder / f"seed-{seed}")["metrics"] for seed in (3, 1)}
    found = json.loads((swept.folder / "seeds.json").read_text())
    assert found["seeds"] == [3, 1] and found["metrics"] == {str(seed): metrics[seed] for seed in (3, 1)}
    one, other = metrics[3]["loss"], metrics[1]["loss"]
    assert one != other and found["mean"]["loss"] == pytest.approx((one + other) / 2, rel=1e-12)
    assert found["standard_deviation"]["loss"] == pytest.approx(abs(one - other) / 2**0.5, rel=1e-9)
    (head,) = (line.split() for line in swept.stdout.splitlines() if "metric" in line)
    (loss,) = (line.split() for line in swept.stdout.splitlines() if line.split()[0] == "loss")
    assert head == ["metric", "seed", "3", "seed", "1", "mean", "standard", "deviation"]
    assert loss == ["loss", *(f"{found['metrics'][seed]['loss']:.6g}" for seed in "31")] + [
        f"{found[name]['loss']:.6g}" for name in ("mean", "standard_deviation")
    ]
    assert swept.status == {
        "outcome": "done", "rank": swept.status["rank"],
        "message": f"2 seeds, compared in {swept.folder / 'seeds.json'}",
    }  # fmt: skip


def test_nothing_of_a_seed_is_there_for_the_next(swept: Ended) -> None:
    """Neither its model nor its threads; and Accelerate is started once."""
    assert sum(line == "rank 0: started" for line in swept.stdout.splitlines()) == 1
    assert sum(line == "rank 0: 0 models, 0 threads" for line in swept.stdout.splitlines()) == 2, swept.stdout


def hit(seed: int, after: int, number: int, ranks: tuple[int, ...]) -> Callable[[int], None]:
    """For `before`: so many a signal for these ranks in the step after this one of that seed's run."""

    def before(rank: int) -> None:
        from warmup.training.run.train_step import TrainStep

        whole_step = TrainStep._step

        def step(self: TrainStep) -> object:
            if rank in ranks and self.prefetcher.seed == seed and self.clock.step == after:
                self.saver.wait()
                os.kill(os.getpid(), number)
            return whole_step(self)

        TrainStep._step = step

    return before


def test_stopped_and_killed(job: tuple, swept: Ended, tmp_path: Path) -> None:
    """Stopped in the first seed, killed in the second: the first is not trained again, and all is as if nothing was."""
    job, folder = (*job, "--seeds", 3, 1, "--resume", "auto"), tmp_path / "run"
    run = train(2, folder, *job, before=hit(3, 4, signal.SIGTERM, (1,)))
    assert run.codes == [0, 0] and run.status["outcome"] == "stopped", run.status
    again = f"go on with --resume auto --run_dir {folder} --seeds 3,1"
    assert run.status["message"] == f"seed 3 after step 5 of {STEPS}; {again}"
    assert not (folder / "seed-1").exists()

    run = train(2, folder, *job, before=hit(1, 4, signal.SIGKILL, (0, 1)))
    assert run.codes == [-signal.SIGKILL] * 2
    assert list(json.loads((folder / "seeds.json").read_text())["metrics"]) == ["3"]
    first = {path: path.stat().st_mtime_ns for path in (folder / "seed-3").rglob("*")}
    assert [line["step"] for line in lines(folder / "seed-3") if line["kind"] == "resumed"] == [5]

    run = train(2, folder, *job)
    assert run.codes == [0, 0], run.status
    assert {path: path.stat().st_mtime_ns for path in (folder / "seed-3").rglob("*")} == first
    assert [line["step"] for line in lines(folder / "seed-1") if line["kind"] == "resumed"] == [4]
    for seed in ("seed-3", "seed-1"):
        assert_same_end(folder / seed, swept.folder / seed)
    assert (folder / "seeds.json").read_text() == (swept.folder / "seeds.json").read_text()


def test_a_failure_names_its_seed(job: tuple, tmp_path: Path) -> None:
    """Here the second of three, on one rank."""

    def before(rank: int) -> None:
        from warmup.training.run.evaluate import Evaluator

        calls = []

        def fails(*args: object) -> object:
            calls.append(1)
            if len(calls) == 2:
                raise ZeroDivisionError("out of luck")
            return whole(*args)

        whole, Evaluator.evaluate = Evaluator.evaluate, fails

    run = train(1, tmp_path / "run", *job, "--recipe.duration", "2 steps", "--seeds", "5,7,9", before=before)
    assert run.codes == [1]
    assert run.status["message"] == "seed 7: rank 0: ZeroDivisionError: out of luck"
    assert not (tmp_path / "run" / "seed-9").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_engines_of_deepspeed_one_after_the_other(stage: int, job: tuple, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    swept = train(2, tmp_path / "swept", *job, "--seeds", "3,1", env=zero(stage))
    alone = train(2, tmp_path / "alone", *job, "--seed", 1, env=zero(stage))
    assert swept.codes == alone.codes == [0, 0], (swept.status, alone.status)
    assert_same_end(swept.folder / "seed-1", alone.folder)
