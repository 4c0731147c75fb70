"""Real text, real weights, real sizes. Long; skipped where the text or the weights are not at hand.

WARMUP_TEST_DATA: a folder with wikitext2.txt (a part of WikiText-2, Merity et al. 2016, one paragraph per line),
sst2_train.csv and sst2_validation.csv (SST-2, Socher et al. 2013; columns sentence, label).
WARMUP_TEST_BERT: a folder with a small pretrained BERT and its tokenizer.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from conftest import DEFAULTS
from harness import ROOT, train

DATA = Path(os.environ.get("WARMUP_TEST_DATA", ROOT.parent / "shared" / "data"))
BERT = os.environ.get("WARMUP_TEST_BERT", "")
pytestmark = pytest.mark.slow


def _need(*paths: Path) -> None:
    for path in paths:
        if not path.exists():
            pytest.skip(f"{path} is not here")


def unigram_perplexity(config_file: Path) -> float:
    """Of the training set's token frequencies (add-one), for the held-out targets that the model is to predict."""
    from warmup.training.data.prepare import prepare_data
    from warmup.training.run import arguments
    from warmup.training.tasks import create_task
    from warmup.training.tasks.task import evaluation_batch

    config, _ = arguments.parse(["--config", str(config_file)])
    task = create_task(config)
    data = prepare_data(config, task)
    ids_BT, mask_BT, _ = data.train.gather(np.arange(len(data.train)))
    regular = mask_BT & ~np.isin(ids_BT, data.tokenizer.all_special_ids)
    counts = np.bincount(ids_BT[regular], minlength=len(data.tokenizer)) + 1
    objective = task.objective(data.tokenizer, data.labels, data.train)
    targets = evaluation_batch(objective, data.validation, np.arange(len(data.validation))).targets.numpy()
    return float(np.exp(-np.log(counts[targets] / counts.sum()).mean()))


@pytest.mark.parametrize(
    ("task_name", "text", "batch", "limit"),
    [("classification", "sst2_train.csv", 32, 0.10), ("mlm", "wikitext2.txt", 64, 0.03)],
)
def test_padding_is_rare(task_name: str, text: str, batch: int, limit: float) -> None:
    """Over 100 steps of samples of at most 128 tokens, on 2 ranks."""
    from warmup.config.recipe import Recipe
    from warmup.plan import Topology
    from warmup.planning import make_plan
    from warmup.training.data.batching.prefetcher import BatchPrefetcher
    from warmup.training.data.prepare import prepare_data
    from warmup.training.models.input_layout import InputLayout
    from warmup.training.run import arguments
    from warmup.training.tasks import create_task

    _need(DATA / text)
    argv = [*DEFAULTS, "--task", task_name, "--data.train_files", str(DATA / text), "--data.max_bad_rows", "1000"]
    config, _ = arguments.parse(argv)
    task = create_task(config)
    data = prepare_data(config, task)
    collate = task.objective(data.tokenizer, data.labels, data.train).collate
    layout = InputLayout(head=task.head, logits="positions", rows=True, packed=True)
    plan = make_plan(Recipe(reference_batch_size=batch, duration="100 steps"), Topology(2, batch // 2))
    ranks = [BatchPrefetcher(data.train, collate, layout, 0, plan, rank, 2) for rank in range(2)]
    batches = [rank.build(batch * step, batch) for step in range(100) for rank in ranks]
    tokens, computed = (
        sum(each.total(attrgetter(count)) for each in batches) for count in ("token_count", "padded_tokens")
    )
    print(f"{task_name}: padding {1 - tokens / computed:.4f}")
    assert 1 - tokens / computed < limit


@pytest.mark.timeout(1200)
def test_wikitext_perplexity_is_at_most_half_the_unigrams(tmp_path: Path) -> None:
    text = DATA / "wikitext2.txt"
    _need(text)
    quickstart = ("--config", ROOT / "configs" / "quickstart_pretrain.yaml")
    ended = train(2, tmp_path / "run", *quickstart, "--data.train_files", text, timeout_s=1100)
    assert ended.codes == [0, 0], ended.status
    unigram = unigram_perplexity(tmp_path / "run" / "config.yaml")
    ours = ended.of_kind("eval")[-1]["perplexity"]
    print(f"perplexity {ours:.1f}, the unigram's {unigram:.1f}")
    assert ended.column("step")[-1] == 4000
    assert ours <= unigram / 2


@pytest.mark.timeout(1500)
def test_sst2_accuracy_of_a_pretrained_folder(tmp_path: Path) -> None:
    """One epoch on two ranks at a global batch of 32: at least 0.84 on SST-2's 872 validation sentences."""
    files = DATA / "sst2_train.csv", DATA / "sst2_validation.csv"
    _need(*files)
    if not BERT:
        pytest.skip("WARMUP_TEST_BERT is not set")
    recipe = ("--recipe.lr", "1e-4", "--recipe.duration", "1 epochs", "--batch.per_device", 16)
    job = ("--config", ROOT / "configs" / "finetune_classification.yaml", "--model", BERT, *recipe)
    data = ("--data.train_files", files[0], "--data.validation_files", files[1])
    ended = train(2, tmp_path / "run", *job, *data, timeout_s=1400)
    assert ended.codes == [0, 0], ended.status
    assert ended.of_kind("eval")[-1]["targets"] == 872
    assert ended.of_kind("eval")[-1]["accuracy"] >= 0.84


@pytest.mark.timeout(1500)
def test_the_quickstart(tmp_path: Path) -> None:
    """As the README says it: pretraining pays, and all that it promises is there."""
    env = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", VIRTUAL_ENV=sys.prefix)
    command = ["bash", str(ROOT / "launch" / "quickstart.sh"), "--log.every", "100"]
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1400)
    assert ended.returncode == 0, ended.stderr[-3000:]
    (folder,) = (tmp_path / "runs").glob("quickstart-*")
    accuracy = {
        stage: json.loads((folder / stage / "result.json").read_text())["metrics"]["accuracy"]
        for stage in ("pretrain", "finetune", "from_scratch")
    }
    print(ended.stdout, accuracy)
    assert accuracy["finetune"] > accuracy["from_scratch"] > 1 / 7
    for stage in accuracy:
        names = {path.name for path in (folder / stage).iterdir()}
        assert {"config.yaml", "plan.json", "metrics.jsonl", "result.json", "report.html", "model"} <= names
    held_out = json.loads((folder / "finetune" / "result.json").read_text())["metrics"]["targets"]
    assert held_out >= 1000 and "95% interval" in ended.stdout
    assert (folder / "report.html").is_file() and f"{folder.relative_to(tmp_path)}/report.html" in ended.stdout
    assert re.search(r"with(out)? .*pretraining", ended.stdout)
