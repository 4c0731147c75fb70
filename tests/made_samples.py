"""Tokenized samples without files, the objectives of tasks, and the targets of a batch in other shapes, for tests."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from warmup.config import Config
from warmup.config.data import Data
from warmup.config.recipe import Recipe
from warmup.training.data.batching.micro_batch import MicroBatch, Targets, ignore_value
from warmup.training.data.samples import Samples
from warmup.training.models.input_layout import InputLayout
from warmup.training.tasks import Objective, create_task

PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = 200


def samples(rows: list[list[int]], whole_rows: bool = False, **columns: list) -> Samples:
    """Samples of sequences with these token ids and these further columns."""
    table = datasets.Dataset.from_dict({"ids": rows, "length": [len(row) for row in rows], **columns})
    table = table.cast_column("ids", datasets.List(datasets.Value("int32")))
    return Samples.of(table, whole_rows)


def random_samples(count: int, longest: int = 60) -> Samples:
    random = np.random.default_rng(0)
    bodies = [random.integers(5, VOCABULARY, random.integers(1, longest)) for _ in range(count)]
    return samples([[CLS, *body.tolist(), SEP] for body in bodies])


def objective(
    task: str,
    tokenizer: PreTrainedTokenizerBase | None,
    labels: Sequence[str] = (),
    train: Samples | None = None,
    recipe: Recipe | None = None,
) -> Objective:
    """The objective of a task for these labels."""
    return create_task(Config(task=task, recipe=recipe or Recipe())).objective(tokenizer, labels, train)


def mlm(tokenizer: PreTrainedTokenizerBase, rate: float = 0.15) -> Objective:
    return create_task(Config(task="mlm", data=Data(mask_rate=rate))).objective(tokenizer, (), None)


def collate(objective: Objective, rows: Samples, indices: object, epoch: int = 0, seed: int = 1) -> MicroBatch:
    indices = np.asarray(indices, np.int64)
    return objective.collate(rows, indices, np.full_like(indices, epoch), seed)


def dense_targets(batch: MicroBatch, shape: Sequence[int] | None = None) -> torch.Tensor:
    """The targets of a collated batch at their positions, (B, T): IGNORE_INDEX, or NaN among numbers, elsewhere.

    Args:
        batch: as collated; no position may have two targets.
        shape: of the result, by default that of the token ids.
    """
    dense = batch.targets.new_full(tuple(shape or batch.input_ids.shape), ignore_value(batch.targets))
    assert len(batch.positions_N.unique()) == len(batch.positions_N)
    dense.view(-1)[batch.positions_N] = batch.targets
    return dense


def targets_of(batch: MicroBatch) -> Targets:
    """What the logits of a batch are compared with."""
    return Targets(batch.targets, batch.sample_ids_N, batch.sample_count)


def targets_by_row(values: torch.Tensor) -> Targets:
    """Targets (N,), or (B, T) of which each row is a sample."""
    sample_ids_B = torch.arange(len(values))
    return Targets(values.flatten(), sample_ids_B.repeat_interleave(values[0].numel()), len(values))


TOKEN_LAYOUTS = {
    "as transformers has it": InputLayout(),
    "positions in the head": InputLayout(logits="positions", positions_in="head"),
    "one per row": InputLayout(logits="positions", rows=True),
    "packed": InputLayout(logits="positions", rows=True, packed=True),
    "packed, all logits": InputLayout(rows=True, packed=True),
    "packed, causal": InputLayout(logits="positions", positions_in="head", rows=True, packed=True, causal=True),
    "one per row, static": InputLayout(logits="positions", rows=True, static_max_length=16),
    "packed, static": InputLayout(logits="positions", rows=True, packed=True, static_max_length=16),
    "varlen": InputLayout(logits="positions", rows=True, packed=True, varlen=True),
    "varlen, static": InputLayout(logits="positions", rows=True, packed=True, varlen=True, static_max_length=16),
}
"""Layouts for models whose head reads every token; the static ones for samples of up to 16 tokens."""


def token_ids_of_logits(batch: MicroBatch, layout: InputLayout) -> torch.Tensor:
    """The token ids at the positions that a model gives logits for, in the shape of its logits without the classes."""
    if layout.logits == "all":
        return batch.input_ids
    if "positions" in batch.inputs:
        return batch.input_ids.flatten()[batch.inputs["positions"]][None]
    read_N = batch.input_ids.gather(1, batch.inputs["read_positions"]).flatten()
    index_N = batch.inputs.get("gather_index")
    return (read_N if index_N is None else read_N[index_N])[:, None]
