"""Prediction: a line for every row, the same on any number of ranks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from warmup.config import Config
from warmup.errors import UserError
from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.memory import explain_out_of_memory
from warmup.training.data.batching.micro_batch import MicroBatch, padded_inputs, to_device
from warmup.training.data.batching.prefetcher import build_ahead
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.distributed import collectives, exit_status
from warmup.training.distributed.watchdog import Watchdog
from warmup.training.files import name_in_errors
from warmup.training.models import build as model_build
from warmup.training.models.input_layout import InputLayout
from warmup.training.models.partial_forward import install_partial_forward
from warmup.training.predict import inputs, model_source, outputs
from warmup.training.predict.inputs import PredictionInputs
from warmup.training.reporting.progress import track
from warmup.training.tasks import Predictor, Task, create_task

_SCRATCH = "warmup-prediction-"


@dataclass(frozen=True)
class TrainedModel:
    """A model that predicts, and what its inputs and outputs are made with."""

    model: PreTrainedModel
    layout: InputLayout
    tokenizer: PreTrainedTokenizerBase
    predictor: Predictor


def predict(config: Config, accelerator: Accelerator, files: Sequence[str], output: str | None) -> tuple[str, str]:
    """Write a prediction for each row of some files. A collective call.

    Args:
        config: its model is the one that predicts, its task what it was trained for.
        accelerator: of this rank.
        files: as --predict names them.
        output: as --output names it.

    Returns:
        (outcome, message), as `exit_status.guard` takes them.

    Raises:
        UserError: the model or the files cannot be used, or the predictions cannot be written.
    """
    began = time.perf_counter()
    config = replace(config, model=model_source.model_folder(config.model))
    task = create_task(config)
    flag, tokenizer_name = (
        ("data.tokenizer", config.data.tokenizer) if config.data.tokenizer else ("model", config.model)
    )
    tokenizer = task.load_tokenizer(tokenizer_name, flag)
    labels = tuple(model_build.label_names(config.model)) if task.facts.has_classes else task.outputs
    predictor = task.predictor(tokenizer, labels, model_source.model_settings(config.model))
    first = inputs.find_sources(files, config)[0].name
    target = collectives.on_main(accelerator, lambda: outputs.output_path(output, first, predictor))
    model = _load(config, task, tokenizer, labels).to(accelerator.device)
    layout = install_partial_forward(model, task.head, config.speed.packing, config.speed.masked_only)
    trained = TrainedModel(model, layout, tokenizer, predictor)
    watchdog = Watchdog(config.launch.timeout, exit_status.fail)
    with scratch_folder() as scratch:

        def read() -> inputs.TokenizedRows:
            with name_in_errors(scratch):
                return inputs.read_inputs(files, config, tokenizer, predictor, scratch)

        tokenized = collectives.on_each_machine(accelerator, read)
        rows = inputs.load_inputs(tokenized)
        if not rows.target_starts[-1]:
            raise UserError(f"--predict: each of the {len(rows.row_starts) - 1} texts {predictor.no_target_message}")
        collectives.require_same({"rows or tokenizer": rows.key, "weights": _checksum(model)})
        watchdog.start()
        values = _compute(trained, rows, config.batch.evaluation, accelerator, watchdog)
        watchdog.stop()
        errors = collectives.on_main(accelerator, lambda: outputs.write_predictions(target, rows, predictor, values))
    message = f"{target}: {len(rows)} rows, {errors} of them errors, in {time.perf_counter() - began:.1f} s"
    if accelerator.is_main_process:
        print(f"predictions are in {message}", flush=True)
    collectives.barrier()
    return "done", message


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder in the temporary directory; it is removed on leaving, with those of predictions that were killed.

    A process holds a lock on its folder, which the kernel releases however it ends. The folder gets its final name when
    it is locked, so that no other process takes it for a leftover.
    """
    unlocked = Path(tempfile.mkdtemp(prefix="warmup-new-"))
    folder = unlocked.with_name(unlocked.name.replace("warmup-new-", _SCRATCH))
    handle = os.open(unlocked, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_leftovers(folder.parent)
        unlocked.rename(folder)
        yield folder
    finally:
        for path in (unlocked, folder):
            shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def _remove_leftovers(temporary: Path) -> None:
    for folder in temporary.glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):  # in use, or another user's
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _load(config: Config, task: Task, tokenizer: PreTrainedTokenizerBase, labels: tuple[str, ...]) -> PreTrainedModel:
    """The model. Raises UserError where it was never trained for the task."""
    model, new_weights = model_build.build_model(task.model_spec(config, labels), tokenizer)
    if new_weights:
        raise UserError(
            f"--model: {config.model} has no trained weights for task {config.task} ({', '.join(new_weights)} would be "
            "new); give a model that was trained for it, or its --task"
        )
    return model.eval()


def _checksum(model: PreTrainedModel) -> int:
    value = 0
    for tensor in model.state_dict().values():
        value = zlib.crc32(tensor.cpu().contiguous().numpy(), value)
    return value


@torch.inference_mode()
def _compute(
    trained: TrainedModel, rows: PredictionInputs, batch_size: int, accelerator: Accelerator, watchdog: Watchdog
) -> np.ndarray:
    """What is kept of the logits at all target positions, (targets, width), sequence by sequence. A collective call.

    As in evaluation, micro-batches are the same for any world size, and a sum over ranks, each of which leaves the rows
    of the others 0, makes the table whole without rounding.

    Args:
        trained: the model and what belongs to it.
        rows: what is to be predicted.
        batch_size: sequences of a micro-batch.
        accelerator: of this rank.
        watchdog: is told where this rank is.
    """
    groups = _groups(rows, batch_size)
    count = int(rows.target_starts[-1])
    # One more row than there are targets, for what is computed in vain.
    values = torch.zeros(count + 1, trained.predictor.width, device=accelerator.device)
    own = range(accelerator.process_index, len(groups), accelerator.num_processes)
    batches = build_ahead(
        [groups[number] for number in own],
        lambda indices: lay_out(_batch(trained.tokenizer, rows, indices), trained.layout),
        accelerator.device,
    )
    for number in track(own, "predicting", accelerator.is_main_process):
        watchdog.heartbeat("the predictions", number)
        batch = next(batches)
        model_inputs, targets = to_device(batch, accelerator.device)
        with accelerator.autocast(), explain_out_of_memory(batch, "batch.evaluation"):
            logits = trained.model(**model_inputs).logits
        table_rows = targets.values.where(targets.values != IGNORE_INDEX, count)
        values[table_rows] = trained.predictor.postprocess(logits.flatten(0, -2).float()).float()
    watchdog.heartbeat("the sum of the predictions", len(groups), waits=True)
    return collectives.sum_over_ranks(values)[:count].cpu().numpy()


def _groups(rows: PredictionInputs, batch_size: int) -> list[np.ndarray]:
    """The sequences of each micro-batch: those of similar length, without those that have no target."""
    by_length = np.argsort(rows.samples.lengths, kind="stable")
    by_length = by_length[np.diff(rows.target_starts)[by_length] > 0]
    return [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]


def _batch(tokenizer: PreTrainedTokenizerBase, rows: PredictionInputs, indices: np.ndarray) -> MicroBatch:
    """A micro-batch whose targets are rows of the table of values: where the outputs at these positions go."""
    ids_BT, mask_BT, columns = rows.samples.gather(indices)
    targets_BT = columns["token_targets"] > 0
    sequences_N, _ = targets_BT.nonzero()
    table_rows_BT = rows.target_starts[indices][:, None] + targets_BT.cumsum(1) - 1
    return MicroBatch(
        inputs=padded_inputs(ids_BT, mask_BT, tokenizer, columns.get("second_start")),
        positions_N=torch.from_numpy(np.flatnonzero(targets_BT)),
        targets=torch.from_numpy(table_rows_BT[targets_BT]),
        sample_ids_N=torch.from_numpy(sequences_N),
        sample_count=len(indices),
        target_count=len(sequences_N),
        token_count=int(mask_BT.sum()),
    )
