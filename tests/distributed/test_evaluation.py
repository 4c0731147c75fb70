"""Evaluation: every sample exactly once, and the same bits on any world size."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import run_ranks
from transformers import PreTrainedModel

from warmup.config import Config
from warmup.config.data import Data
from warmup.training.data.batching.micro_batch import MicroBatch
from warmup.training.data.prepare import Prepared, prepare_data
from warmup.training.data.samples import Samples
from warmup.training.distributed import launch
from warmup.training.models import build as model_build
from warmup.training.models.partial_forward import install_partial_forward
from warmup.training.run.evaluate import Evaluator
from warmup.training.tasks import Objective, create_task
from warmup.training.tasks.task import evaluation_batch

BATCH = 7  # which divides neither set
_LENGTHS = {"mlm": 24, "token-classification": 16}  # in windows


@pytest.fixture(params=["mlm", "classification", "regression", "token-classification"])
def config(request: pytest.FixtureRequest, documents: Path) -> Config:
    mlm = request.param == "mlm"
    files = {"train_files": (str(documents),)}
    if not mlm:
        train, validation = request.getfixturevalue(
            {"classification": "labelled", "regression": "numbered", "token-classification": "tagged"}[request.param]
        )
        files = {"train_files": (str(train),), "validation_files": (str(validation),)}
    data = Data(**files, max_length=_LENGTHS.get(request.param, 64), vocab_size=200)
    return Config(task=request.param, data=data, dropout=0.5, seed=6)


def _build(config: Config) -> tuple[Prepared, Objective, PreTrainedModel]:
    task = create_task(config)
    data = prepare_data(config, task)
    built, _ = model_build.build_model(task.model_spec(config, data.labels), data.tokenizer)
    for module in built.modules():  # or it would say much the same of all samples
        if isinstance(module, torch.nn.Linear):
            module.weight.data *= 5
    return data, task.objective(data.tokenizer, data.labels, data.train), built


def _evaluate(rank: int, world_size: int, config: Config, batch_size: int) -> tuple[int, dict, list[int], bool]:
    """(world size, metrics, the samples that this rank computed, whether the model is back in training)

    With the metrics, each sample's mean loss.
    """
    accelerator = launch.start_accelerator(world_size, None, 20, ())
    torch.set_num_threads(1)  # how many threads add up a product may change its last bits
    data, objective, built = _build(config)
    layout = install_partial_forward(built, create_task(config).head, packed=True, masked_only=True)
    own: list[int] = []

    def counted(samples: Samples, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
        own.extend(indices.tolist())
        return objective.collate(samples, indices, epochs, seed)

    evaluator = Evaluator(built.train(), replace(objective, collate=counted), layout, batch_size, accelerator)
    evaluation = evaluator.evaluate(data.validation)
    assert evaluation is not None
    found = evaluation.metrics | {"losses": evaluation.losses_S.tolist()}
    return accelerator.num_processes, found, own, built.training


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 1; ties share their mean: as many as are smaller, and half of those that are equal."""
    smaller, equal = (values[:, None] > values).sum(1), (values[:, None] == values).sum(1)
    return smaller + (equal + 1) / 2


def _numbers_one_by_one(rank: int, config: Config) -> dict:
    """Regression's metrics by numpy's formulas, of the labels in the file, one sample at a time."""
    data, _, built = _build(config)
    built.eval()
    with open(config.data.validation_files[0], encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with torch.no_grad():
        found = [float(built(**data.tokenizer(row["text"], return_tensors="pt")).logits) for row in rows]
    found, true = np.array(found), np.array([float(row["label"]) for row in rows])
    mse = ((found - true) ** 2).mean()
    pearson, spearman = np.corrcoef(found, true)[0, 1], np.corrcoef(_ranks(found), _ranks(true))[0, 1]
    return {"loss": mse, "mse": mse, "pearson": pearson, "spearman": spearman, "targets": len(rows), "rows": len(rows)}


def _one_by_one(rank: int, config: Config) -> dict:
    """Loss and accuracy without padding, batches, the tasks' loss, or a head that is computed in part."""
    data, objective, built = _build(config)
    built.eval()
    losses, predicted, true, ends = [], [], [], [0]
    for number in range(len(data.validation)):
        batch = evaluation_batch(objective, data.validation, np.array([number]))
        with torch.no_grad():
            logits = built(**batch.inputs).logits.double().numpy()
        targets = batch.targets.numpy()
        logits = logits.reshape(-1, logits.shape[-1])[batch.positions_N.numpy()]
        assert -100 not in targets and len(targets) == batch.target_count
        for row, target in zip(logits, targets, strict=True):
            losses.append(np.log(np.exp(row - row.max()).sum()) + row.max() - row[target])
            predicted.append(row.argmax())
            true.append(target)
        ends.append(len(true))
    entities = _entities(predicted, true, ends, data.labels) if config.task == "token-classification" else {}
    predicted, true = np.array(predicted), np.array(true)
    found = {"loss": np.mean(losses), "accuracy": (predicted == true).mean(), "targets": len(losses)}
    if config.task == "classification":
        both, either = (predicted & true).sum(), predicted.sum() + true.sum()
        found |= {"f1": 2 * both / either, "matthews": np.corrcoef(predicted, true)[0, 1]}
    return found | entities | {"rows": len(data.validation)}


def _entities(predicted: list[int], true: list[int], ends: list[int], labels: tuple[str, ...]) -> dict:
    """seqeval's scores of tags sample by sample. `ends`: where each sample ends among all tags, after a 0."""
    from seqeval.metrics import f1_score, precision_score, recall_score

    tags = [[[labels[tag] for tag in side[a:b]] for a, b in pairwise(ends)] for side in (true, predicted)]
    return {"precision": precision_score(*tags), "recall": recall_score(*tags), "f1": f1_score(*tags)}


def test_the_same_bits_on_any_world_size(config: Config) -> None:
    (alone,) = run_ranks(1, _numbers_one_by_one if config.task == "regression" else _one_by_one, config)
    assert alone.error is None, alone.error
    wanted = alone.value
    found = []
    for world_size in (1, 2, 3):
        ranks = run_ranks(world_size, _evaluate, world_size, config, BATCH)
        assert [rank.error for rank in ranks] == [None] * world_size
        assert [rank.value[0] for rank in ranks] == [world_size] * world_size
        assert [rank.value[3] for rank in ranks] == [True] * world_size
        assert sorted(sum((rank.value[2] for rank in ranks), [])) == list(range(wanted["rows"]))  # each exactly once
        assert all(rank.value[2] for rank in ranks)
        found += [rank.value[1] for rank in ranks]
    assert all(metrics == found[0] for metrics in found)  # to the last bit, on every rank of every world size
    losses = found[0].pop("losses")
    assert len(losses) == wanted["rows"]
    if wanted["rows"] == wanted["targets"]:  # one in each sample
        assert np.mean(losses) == pytest.approx(found[0]["loss"], rel=1e-6)
    assert found[0]["targets"] == wanted["targets"]
    if config.task == "classification":
        assert found[0]["targets"] == wanted["rows"] == 100
        assert set(found[0]) == {"loss", "accuracy", "f1", "matthews", "targets"}
        assert found[0]["f1"] == pytest.approx(wanted["f1"], rel=1e-6)
        assert 0 != found[0]["matthews"] == pytest.approx(wanted["matthews"], rel=1e-5)
    elif config.task == "regression":
        assert wanted.pop("rows") == 100 and abs(wanted["pearson"]) > 0.01 < abs(wanted["spearman"])
        assert found[0] == pytest.approx(wanted, rel=1e-4)
        return
    elif config.task == "token-classification":
        assert found[0] == pytest.approx({name: value for name, value in wanted.items() if name != "rows"}, rel=1e-6)
        assert 0 < wanted["f1"] != wanted["recall"] and wanted["rows"] > 100  # sentences, in windows
    else:
        assert set(found[0]) == {"loss", "perplexity", "accuracy", "targets"}
        assert found[0]["perplexity"] == pytest.approx(np.exp(wanted["loss"]), rel=1e-6)
    assert found[0]["loss"] == pytest.approx(wanted["loss"], rel=1e-6)
    assert found[0]["accuracy"] == pytest.approx(wanted["accuracy"], abs=1e-12)


def test_more_ranks_than_batches_and_other_batches(config: Config) -> None:
    """Three ranks and a single batch: two ranks compute nothing, and all have the result."""
    ranks = run_ranks(3, _evaluate, 3, config, 1000)
    assert [rank.error for rank in ranks] == [None] * 3
    assert [bool(rank.value[2]) for rank in ranks] == [True, False, False]
    assert ranks[0].value[1] == ranks[1].value[1] == ranks[2].value[1]
    (small,) = run_ranks(1, _evaluate, 1, config, 3)
    ours, theirs = ranks[0].value[1], small.value[1]
    assert ours.pop("losses") == pytest.approx(theirs.pop("losses"), rel=1e-4)
    assert ours == pytest.approx(theirs, rel=1e-6)
