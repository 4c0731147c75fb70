"""What is trained in a comparison: model, samples and settings, the same for all contenders."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, BertConfig, BertTokenizerFast

from warmup.training.data import order
from warmup.training.data.prepare import prepare_data
from warmup.training.data.samples import IGNORE_INDEX, Samples
from warmup.training.data.tokenizers.train import train_wordpiece
from warmup.training.run import arguments
from warmup.training.tasks import create_task

VOCABULARY = 30522  # of bert-base-uncased, Devlin et al. 2018
CHECKED = 4  # steps whose losses are compared


@dataclass(frozen=True)
class Work:
    """One piece of work. model: a folder with new weights and a tokenizer. data: tokenised samples for the rivals;
    given: the first ones in our order, masked. argv: the same for train.py.
    """

    folder: Path
    task: str
    per_device: int
    ranks: int
    precision: str
    argv: tuple[str, ...]
    threads: int | None = None  # of a rank; None: the cores are shared out
    lr: float = 1e-4
    steps: int = 1_000_000  # of the schedule, which nobody gets to the end of

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def given(self) -> Path:
        return self.folder / "given"


def build(
    folder: Path, task: str, layers: int, width: int, per_device: int, ranks: int, precision: str, text: Path
) -> Work:
    """Prepare a piece of work in `folder`. text: a csv file with labels, or a txt file, for whole samples of 128."""
    folder.mkdir(parents=True)
    if task == "mlm":
        text = _one_line(text, folder)
    fields = {
        "config": Path(__file__).parents[1] / "defaults.yaml",
        "task": task,
        "model": folder / "model",
        "batch.per_device": per_device,
        "recipe.reference_batch_size": per_device * ranks,
        "recipe.lr": Work.lr,
        "recipe.duration": f"{Work.steps} steps",
        "recipe.warmup": "0 steps",
        "recipe.weight_decay": 0.0,
        "data.train_files": text,
        "data.validation_files": shutil.copy(text, folder / f"validation{text.suffix}"),  # not looked at
        "data.max_length": 128,
        "data.max_bad_rows": 100,
        "data.cache_dir": folder / "cache",
    }
    argv = tuple(str(part) for name, value in fields.items() for part in (f"--{name}", value))
    work = Work(folder, task, per_device, ranks, precision, argv)
    _save_new_model(work, layers, width, text)
    _save_samples(work)
    return work


def _one_line(text: Path, folder: Path) -> Path:
    """All text as one document, so that all windows of it but the last are full."""
    target = folder / "text.txt"
    target.write_text(" ".join(text.read_text(encoding="utf-8").split()) + "\n", encoding="utf-8")
    return target


def _save_new_model(work: Work, layers: int, width: int, text: Path) -> None:
    """New weights, and a tokenizer of the text. It has as many pieces as BERT's: those beyond the text's are unused."""
    lines = text.read_text(encoding="utf-8").splitlines()
    pieces = train_wordpiece(datasets.Dataset.from_dict({"text": lines}), VOCABULARY).get_vocab()
    pieces |= {f"[unused{number}]": number for number in range(len(pieces), VOCABULARY)}
    BertTokenizerFast(vocab=pieces).save_pretrained(work.model)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // (32 if width == 384 else 64),  # as MiniLM's 12 and as Turc et al.'s
        intermediate_size=4 * width,
        num_labels=2,
    )
    auto_class = AutoModelForMaskedLM if work.task == "mlm" else AutoModelForSequenceClassification
    torch.manual_seed(0)
    auto_class.from_config(config).save_pretrained(work.model)


def _save_samples(work: Work) -> None:
    """The training set as the rivals read it; and the samples of our first steps, masked as we do."""
    config, _ = arguments.parse(work.argv)
    task = create_task(config)
    prepared = prepare_data(config, task)
    samples = prepared.train
    assert isinstance(samples, Samples)
    everything = np.arange(len(samples))
    ids_BT, mask_BT, columns = samples.gather(everything)
    labels = columns["label"][:, None] if work.task == "classification" else None
    _table(ids_BT, mask_BT, labels).save_to_disk(str(work.data))

    indices, epochs = order.step_samples(0, CHECKED * work.per_device * work.ranks, len(samples), config.seed)
    objective = task.objective(prepared.tokenizer, prepared.labels, samples)
    batch = objective.collate(samples, indices, epochs, config.seed)
    ids_BT, mask_BT = batch.input_ids.numpy(), batch.inputs["attention_mask"].numpy().astype(bool)
    labels = batch.targets.numpy()[:, None]
    if task.head == "token":
        labels = np.full(ids_BT.shape, IGNORE_INDEX)
        labels.flat[batch.positions_N.numpy()] = batch.targets.numpy()
    _table(ids_BT, mask_BT, labels).save_to_disk(str(work.given))


def _table(ids_BT: np.ndarray, mask_BT: np.ndarray, labels: np.ndarray | None) -> datasets.Dataset:
    """As the example scripts have it: columns input_ids, attention_mask and labels, without padding."""
    columns = {"input_ids": [row[mask].tolist() for row, mask in zip(ids_BT, mask_BT, strict=True)]}
    columns["attention_mask"] = [[1] * len(row) for row in columns["input_ids"]]
    if labels is not None and labels.shape[1] == 1:
        columns["labels"] = labels[:, 0].tolist()
    elif labels is not None:
        columns["labels"] = [row[mask].tolist() for row, mask in zip(labels, mask_BT, strict=True)]
    return datasets.Dataset.from_dict(columns)
