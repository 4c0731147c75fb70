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

from warmup.config import Config
from warmup.config.tasks import CLASSIFIERS
from warmup.errors import UserError
from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import MicroBatch, padded_inputs, to_device
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.data.tokenizers.load import load_tokenizer, load_word_tokenizer
from warmup.training.distributed import collectives, exit_status
from warmup.training.distributed.watchdog import Watchdog
from warmup.training.models import build as model_build
from warmup.training.models.input_layout import InputLayout
from warmup.training.models.partial_forward import install_partial_forward
from warmup.training.predict import inputs, model_source, outputs
from warmup.training.predict.inputs import PredictionInputs
from warmup.training.tasks.answers import Predictor, build_predictor


def predict(config: Config, accelerator: Accelerator, files: Sequence[str], output: str | None) -> tuple[str, str]:
    """Write a prediction for each row of the files. Returns (outcome, message)."""
    began = time.perf_counter()
    where = model_source.model_folder(config.model)
    load = load_word_tokenizer if config.task == "token-classification" else load_tokenizer
    tokenizer = load(config.data.tokenizer or where, "data.tokenizer" if config.data.tokenizer else "model")
    labels = tuple(model_build.label_names(where)) if config.task in CLASSIFIERS else ()
    task = build_predictor(config.task, where, tokenizer, labels)
    target = collectives.on_main(
        accelerator, lambda: outputs.output_path(output, inputs.find_sources(files, config)[0].name, task)
    )
    network = _load(where, task, tokenizer, config).to(accelerator.device)
    reading = install_partial_forward(network, task.of_tokens, config.speed.packing, config.speed.masked_only)
    watch = Watchdog(config.launch.timeout, exit_status.fail)
    with tempfile.TemporaryDirectory(prefix="warmup-predict-") as scratch:
        read = collectives.on_each_machine(
            accelerator, lambda: inputs.read_inputs(files, config, tokenizer, task, Path(scratch))
        )
        asked = inputs.load_inputs(*read)
        if not asked.starts[-1]:
            raise UserError(f"--predict: each of the {len(asked.samples)} texts {task.unasked}")
        collectives.require_same({"rows or tokenizer": asked.key, "weights": _checksum(network)})
        watch.start()
        values = _compute(network, task, reading, asked, tokenizer, config.batch.evaluation, accelerator, watch)
        watch.stop()
        errors = collectives.on_main(accelerator, lambda: outputs.write_predictions(target, asked, task, values))
    message = f"{target}: {len(asked)} rows, {errors} of them errors, in {time.perf_counter() - began:.1f} s"
    if accelerator.is_main_process:
        print(f"predictions are in {message}", flush=True)
    collectives.barrier()
    return "done", message


def _load(where: str, task: Predictor, tokenizer: PreTrainedTokenizerBase, config: Config) -> PreTrainedModel:
    """The model. Raises UserError where it was never trained for the task."""
    length = config.data.max_length
    network, new = model_build.build_model(where, task.auto_class, tokenizer, length, None, task.labels, config.seed)
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
    task: Predictor,
    reading: InputLayout,
    asked: PredictionInputs,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    accelerator: Accelerator,
    watch: Watchdog,
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
        batch = lay_out(_batch(task, asked, groups[number], tokenizer), reading)
        inputs, rows = to_device(batch, accelerator.device)
        with accelerator.autocast():
            logits = network(**inputs).logits
        rows = rows.flatten()
        values[rows.where(rows != IGNORE_INDEX, count)] = task.read(logits.flatten(0, -2).float()).float()
    watch.mark("the sum of the predictions", len(groups), waits=True)
    return collectives.sum_over_ranks(values)[:count].cpu().numpy()


def _groups(asked: PredictionInputs, batch_size: int) -> list[np.ndarray]:
    """The samples of each micro-batch: those of like length, without those of which nothing is asked."""
    by_length = np.argsort(asked.samples.lengths, kind="stable")
    by_length = by_length[np.diff(asked.starts)[by_length] > 0]
    return [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]


def _batch(
    task: Predictor, asked: PredictionInputs, indices: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> MicroBatch:
    """A micro-batch whose targets are the rows of the table of values that the answers go to."""
    ids_BT, mask_BT, columns = asked.samples.take(indices)
    rows = asked.starts[indices]
    if task.of_tokens:
        asked_BT = columns["asked"] > 0
        rows = np.where(asked_BT, rows[:, None] + asked_BT.cumsum(1) - 1, IGNORE_INDEX)
    inputs = padded_inputs(ids_BT, mask_BT, tokenizer, columns.get("first"))
    return MicroBatch(inputs, torch.from_numpy(rows), len(indices), int(mask_BT.sum()))
