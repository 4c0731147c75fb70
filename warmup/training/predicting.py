"""Prediction: an answer to every row, the same on any number of ranks."""

from __future__ import annotations

import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from warmup.config import CLASSIFIERS, Config
from warmup.training import answers, asking, batches, model, outcome, ranks, trained, writing
from warmup.training.answers import Answers
from warmup.training.asking import Asked
from warmup.training.batches import IGNORED, MicroBatch
from warmup.training.hang import HangWatch
from warmup.training.outcome import UserError
from warmup.training.reading import Reading, read_only_where_asked
from warmup.training.sentences import load_tokenizer_of_words


def predict(config: Config, accelerator: Accelerator, files: Sequence[str], output: str | None) -> tuple[str, str]:
    """Write a prediction for each row of the files. Returns (outcome, message)."""
    began = time.perf_counter()
    where = trained.folder(config.model)
    load = load_tokenizer_of_words if config.task == "token-classification" else model.load_tokenizer
    tokenizer = load(config.data.tokenizer or where, "data.tokenizer" if config.data.tokenizer else "model")
    labels = tuple(model.label_names(where)) if config.task in CLASSIFIERS else ()
    task = answers.build(config.task, where, tokenizer, labels)
    target = ranks.on_main(accelerator, lambda: writing.place(output, asking.find(files, config)[0].name, task))
    network = _load(where, task, tokenizer, config).to(accelerator.device)
    reading = read_only_where_asked(network, task.of_tokens, config.speed.packing, config.speed.masked_only)
    watch = HangWatch(config.launch.timeout, outcome.fail)
    with tempfile.TemporaryDirectory(prefix="warmup-predict-") as scratch:
        read = ranks.on_each_machine(accelerator, lambda: asking.read(files, config, tokenizer, task, Path(scratch)))
        asked = asking.load(*read)
        if not asked.starts[-1]:
            raise UserError(f"--predict: each of the {len(asked.samples)} texts {task.unasked}")
        ranks.require_same({"rows or tokenizer": asked.key, "weights": _checksum(network)})
        watch.start()
        values = _compute(network, task, reading, asked, tokenizer, config.batch.evaluation, accelerator, watch)
        watch.stop()
        errors = ranks.on_main(accelerator, lambda: writing.write(target, asked, task, values))
    message = f"{target}: {len(asked)} rows, {errors} of them errors, in {time.perf_counter() - began:.1f} s"
    if accelerator.is_main_process:
        print(f"predictions are in {message}", flush=True)
    ranks.stop()
    return "done", message


def _load(where: str, task: Answers, tokenizer: PreTrainedTokenizerBase, config: Config) -> PreTrainedModel:
    """The model. Raises UserError where it was never trained for the task."""
    length = config.data.max_length
    network, new = model.build(where, task.auto_class, tokenizer, length, None, task.labels, config.seed)
    if new:
        raise UserError(
            f"--model: {where} has no trained weights for task {config.task} ({', '.join(new)} would be new); give a "
            "model that was trained for it, or its --task"
        )
    return network.eval()


def _checksum(network: PreTrainedModel) -> int:
    value = 0
    for tensor in network.state_dict().values():
        value = zlib.crc32(tensor.cpu().contiguous().numpy(), value)
    return value


@torch.inference_mode()
def _compute(
    network: PreTrainedModel,
    task: Answers,
    reading: Reading,
    asked: Asked,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    accelerator: Accelerator,
    watch: HangWatch,
) -> np.ndarray:
    """What is kept of all asked places, (places, width), sample by sample. A collective call.

    As in evaluation, micro-batches are the same for any world size, and a sum over ranks, each of which leaves what is
    the others' 0, makes the table whole without rounding.
    """
    groups = _groups(asked, batch_size)
    count = int(asked.starts[-1])
    values = torch.zeros(count + 1, task.width, device=accelerator.device)  # the last one for what is not asked
    mine = range(accelerator.process_index, len(groups), accelerator.num_processes)
    for number in tqdm(mine, desc="predicting", disable=not accelerator.is_main_process):
        watch.mark("the predictions", number)
        batch = batches.lay_out(_batch(task, asked, groups[number], tokenizer), reading)
        inputs, rows = batches.on_device(batch, accelerator.device)
        with accelerator.autocast():
            logits = network(**inputs).logits
        rows = rows.flatten()
        values[rows.where(rows != IGNORED, count)] = task.read(logits.flatten(0, -2).float()).float()
    watch.mark("the sum of the predictions", len(groups), waits=True)
    return ranks.total(values)[:count].cpu().numpy()


def _groups(asked: Asked, batch_size: int) -> list[np.ndarray]:
    """The samples of each micro-batch: those of like length, without those of which nothing is asked."""
    by_length = np.argsort(asked.samples.lengths, kind="stable")
    by_length = by_length[np.diff(asked.starts)[by_length] > 0]
    return [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]


def _batch(task: Answers, asked: Asked, indices: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> MicroBatch:
    """A micro-batch whose targets are the rows of the table of values that the answers go to."""
    ids_BT, mask_BT, columns = asked.samples.take(indices)
    rows = asked.starts[indices]
    if task.of_tokens:
        asked_BT = columns["asked"] > 0
        rows = np.where(asked_BT, rows[:, None] + asked_BT.cumsum(1) - 1, IGNORED)
    inputs = batches.padded_inputs(ids_BT, mask_BT, tokenizer, columns.get("first"))
    return MicroBatch(inputs, torch.from_numpy(rows), len(indices), int(mask_BT.sum()))
