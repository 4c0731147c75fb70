"""A stream on several ranks: the same training on any topology, resumed from any state, and stopped on all ranks."""

from __future__ import annotations

import csv
import gzip
import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY
from harness import (
    LOGGED,
    Ended,
    assert_killed,
    assert_same_end,
    assert_same_training,
    killed_after,
    train,
)

STEPS, BATCH = 20, 32
SHARDS = (70, 40, 60, 30)  # documents: about 240 samples an epoch, and the run takes 640


@pytest.fixture(scope="module")
def corpus(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four shards, each in another format; the last file is for validation."""
    texts = [json.loads(line)["text"] for line in documents.read_text().splitlines()]
    folder = tmp_path_factory.mktemp("corpus")
    names = ("a.jsonl", "b.txt.gz", "c.csv", "d.txt", "held_out.txt")
    files, start = [folder / name for name in names], 0
    for file, count in zip(files, (*SHARDS, 30), strict=True):
        part, start = texts[start : start + count], start + count
        if file.suffix == ".jsonl":
            file.write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
        elif file.suffix == ".csv":
            with open(file, "w", newline="") as table:
                csv.writer(table).writerows([["text"], *([text] for text in part)])
        else:
            content = "\n".join(part).encode()
            file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return files


@pytest.fixture(scope="module")
def job(corpus: list[Path]) -> tuple[object, ...]:
    """20 steps of 32, 2.6 epochs, with dropout; chunks of 45 documents."""
    return (
        "--task", "mlm", *TINY, "--data.max_length", 24, "--data.streaming", "true", "--data.shuffle_buffer", 45,
        "--data.train_files", *corpus[:4], "--data.validation_files", corpus[4], "--log.samples", "true",
        "--recipe.duration", f"{STEPS} steps", "--recipe.warmup", "5 steps", "--recipe.lr", "1e-3",
    )  # fmt: skip


@pytest.fixture(scope="module")
def cut(job: tuple) -> tuple[object, ...]:
    """The job on 2 ranks, with a checkpoint every 3 steps."""
    return (*job, "--batch.global_size", BATCH, "--batch.per_device", 8, "--checkpoint.every", "3 steps")


@pytest.fixture(scope="module")
def whole(cut: tuple, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    run = train(2, tmp_path_factory.mktemp("whole") / "run", *cut)
    assert run.codes == [0, 0] and run.column("step") == list(range(1, STEPS + 1)), (run.status, run.stderr[-2000:])
    return run


def samples(run: Path) -> dict[int, int]:
    """The id of the sample at each position of the stream; no position occurs twice."""
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    found = [pair for line in lines for pair in zip(line["positions"], line["ids"], strict=True)]
    assert len(found) == len(dict(found))
    return dict(found)


def test_a_batch_that_grows(cut: tuple, tmp_path: Path) -> None:
    """From 8 to 32 over 300 samples: on one rank, and on two that are killed on the way. Each sample once."""
    cut = (*cut, "--batch.warmup", "300 samples", "--batch.start_size", 8, "--resume", "auto")
    reference = train(1, tmp_path / "one", *cut)
    steps = json.loads((reference.folder / "plan.json").read_text())["total_steps"]
    assert steps > STEPS
    assert_killed(train(2, tmp_path / "two", *cut, before=killed_after(10)), 10)
    run = train(2, tmp_path / "two", *cut)
    assert_same_training(run, reference, steps=steps, rel=1e-5)
    assert samples(run.folder) == samples(reference.folder)
    assert sorted(samples(run.folder)) == list(range(run.column("samples")[-1]))


def test_the_same_training_on_any_topology(job: tuple, whole: Ended, tmp_path: Path) -> None:
    """1 x 4 and 4 x 1 beside the 2 x 2 of `whole` (world size x accumulation)."""
    found = samples(whole.folder)
    assert sorted(found) == list(range(STEPS * BATCH)) and max(Counter(found.values()).values()) == 1
    epochs = whole.column("epoch")
    assert epochs == sorted(epochs) and set(epochs) == {0, 1, 2}
    for world_size, accumulation in ((1, 4), (4, 1)):
        cuts = ("--batch.per_device", 8, "--batch.accumulation", accumulation)
        run = train(world_size, tmp_path / f"on{world_size}", *job, *cuts)
        assert_same_training(run, whole, steps=STEPS, rel=1e-5)
        assert samples(run.folder) == found


def state(run: Path) -> dict:
    newest = max((run / "checkpoints").glob("step-*"))
    return json.loads((newest / "state.json").read_text())


def test_a_branch_of_a_stream(whole: Ended, tmp_path: Path) -> None:
    """With the same recipe it ends as its parent did: it goes on in the middle of the stream."""
    (checkpoint, *_) = sorted((whole.folder / "checkpoints").glob("step-*"))
    begun = int(checkpoint.name[-2:])
    run = train(2, tmp_path / "branch", "--branch_from", checkpoint)
    assert run.codes == [0, 0] and 0 < begun < STEPS, (run.status, run.stderr[-2000:])
    assert_same_end(run.folder, whole.folder)
    for name in LOGGED:
        assert run.column(name) == whole.column(name)[begun:], name
    assert samples(run.folder) == {
        position: found for position, found in samples(whole.folder).items() if position >= begun * BATCH
    }


@pytest.mark.parametrize("step", [4, 10])
def test_killed_and_resumed(step: int, cut: tuple, whole: Ended, tmp_path: Path) -> None:
    """Equal to the last bit on 2 ranks; on 3, past the end of an epoch, the samples are the same."""
    killed = train(2, tmp_path / "run", *cut, before=killed_after(step))
    assert_killed(killed, step)
    position = state(killed.folder)
    assert (
        position["stream"]["row"] and position["stream"]["consumed_samples"] < position["clock"]["consumed_samples"]
    )  # within a chunk
    shutil.copytree(killed.folder, tmp_path / "other")

    def before(rank: int) -> None:
        from warmup.training.data.streaming.documents import StreamState

        from_dict = StreamState.from_dict

        def noted(state: dict) -> StreamState:
            state_file.write_text(json.dumps(state))
            return from_dict(state)

        StreamState.from_dict = noted

    state_file = tmp_path / "state.json"
    resumed = train(2, killed.folder, *cut, "--resume", "auto", before=before)
    assert json.loads(state_file.read_text()) == position["stream"]
    assert resumed.codes == [0, 0], (resumed.status, resumed.stderr[-2000:])
    assert_same_end(resumed.folder, whole.folder)
    for name in LOGGED:
        assert resumed.column(name) == whole.column(name), name
    assert samples(resumed.folder) == samples(whole.folder)
    if step == 10:
        other = train(3, tmp_path / "other", *cut, "--resume", "auto")
        assert other.codes == [0] * 3, (other.status, other.stderr[-2000:])
        assert samples(other.folder) == samples(whole.folder)
        assert other.column("tokens") == whole.column("tokens")
        assert other.column("loss")[:9] == whole.column("loss")[:9]


def broken(name: str, ranks: tuple[int, ...]) -> Callable[[int], None]:
    """For `before`: these ranks can no longer read a shard in the second epoch."""

    def before(rank: int) -> None:
        from warmup.training.data.streaming import documents

        rows_of, opened = documents.rows_of, []

        def rows(source: object, *rest: object, **more: object) -> object:
            opened.append(source.name)
            if rank in ranks and source.name.endswith(name) and opened.count(source.name) == 2:
                raise documents.UserError(f"{source.name} cannot be read: Stale file handle")
            return rows_of(source, *rest, **more)

        documents.rows_of = rows

    return before


@pytest.mark.parametrize("ranks", [(0, 1), (1,)], ids=["for all", "for one rank"])
def test_a_shard_that_cannot_be_read_stops_all_ranks(ranks: tuple, cut: tuple, corpus: list, tmp_path: Path) -> None:
    began = time.monotonic()
    run = train(2, tmp_path / "run", *cut, before=broken("c.csv", ranks))
    assert run.codes == [2, 2], (run.status, run.stderr[-2000:])
    assert time.monotonic() - began < 60
    reached = run.column("step")[-1]
    assert 6 <= reached < STEPS - 3
    good = tmp_path / "run" / "checkpoints" / f"step-{reached - reached % 3:08d}"
    message = f"{corpus[2]} cannot be read: Stale file handle; the last good checkpoint is {good}"
    assert (run.status["outcome"], run.status["message"]) == ("user error", message)
    assert not (tmp_path / "run" / "model").exists()


def test_lengths_in_tokens_and_the_test_mode(job: tuple, corpus: list, tmp_path: Path) -> None:
    """Unusable rows are named in the log; the plan holds the tokens per sample that convert lengths."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text(corpus[0].read_text() + '{"text": ""}\n')
    lengths = ("--recipe.duration", "4000 tokens", "--recipe.warmup", "1k tokens", "--checkpoint.every", "1500 tokens")
    given = (*job, "--data.train_files", bad, *lengths, "--batch.per_device", 16, "--elastic.rewarm", "10 tokens")
    run = train(2, tmp_path / "run", *given)
    assert run.codes == [0, 0], (run.status, run.stderr[-2000:])
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["num_samples"] is None and 12 < plan["tokens_per_sample"] < 24
    assert plan["duration_samples"] == math.ceil(4000 / plan["tokens_per_sample"])
    assert run.column("tokens")[-1] == pytest.approx(4000, rel=0.15)
    (line,) = run.of_kind("left out")
    assert line["rows"] == [f"{bad}:71: 'text' is blank"]
    saved = [line["step"] for line in run.of_kind("checkpoint")]
    tokens = dict(zip(run.column("step"), run.column("tokens"), strict=True))
    assert saved[:2] == [min(step for step in tokens if tokens[step] >= due) for due in (1500, 3000)]
    tried = train(2, tmp_path / "tried", *given, "--test")
    assert tried.codes == [0, 0] and "PASS  5 steps" in tried.stdout, (tried.status, tried.stdout)
    epochs = train(1, tmp_path / "epochs", *given, "--recipe.duration", "2 epochs")
    assert epochs.codes == [2] and not (tmp_path / "epochs").exists()
    assert epochs.status["message"].startswith('recipe.duration: "2 epochs" needs the number of training samples')
    assert "it is not known for a stream: use steps, samples or tokens" in epochs.status["message"]
