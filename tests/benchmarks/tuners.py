"""Who fine-tunes: train.py, and transformers' Trainer with the preprocessing that its users know from run_qa, run_ner
and a classifier with several labels. Each is one process: `python tuners.py CONTENDER SET SEED FOLDER MODEL EPOCHS LR`.

It trains on the set's part in FOLDER and leaves in its own folder there the predictions for the held-out part, and in
`training.json` the seconds and the processor time of its training steps alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from tuning_sets import SETS, TuningSet  # noqa: E402

BATCH, WEIGHT_DECAY = 32, 0.01  # of the presets


@dataclass(frozen=True)
class Job:
    """One run of one contender."""

    contender: str
    work: str
    seed: int
    data: Path
    model: Path
    epochs: float
    lr: float

    @property
    def set(self) -> TuningSet:
        return SETS[self.work]

    @property
    def folder(self) -> Path:
        return self.data / f"{self.contender}-{self.seed}"

    @property
    def predictions(self) -> Path:
        return self.folder / f"predictions{self.set.predictions}"

    @property
    def reading(self) -> list[str]:
        """What train.py needs to read the set."""
        return [word.format(folder=self.data) for word in self.set.argv]

    def command(self) -> list[str]:
        """Of the process that does it."""
        words = (self.contender, self.work, self.seed, self.data, self.model, self.epochs, self.lr)
        return [sys.executable, __file__, *map(str, words)]


@contextmanager
def measured(job: Job) -> Iterator[None]:
    """Writes how long the block took, and the processor time of all threads."""
    wall, processor = time.perf_counter(), time.process_time()
    yield
    times = {"seconds": time.perf_counter() - wall, "processor": time.process_time() - processor}
    (job.folder / "training.json").write_text(json.dumps(times))


def ours(job: Job) -> None:
    """train.py with the preset, evaluated at the end alone, as the Trainer is."""
    import train
    from warmup.training.run.train_step import TrainStep

    steps = TrainStep.steps

    def in_time(train_step: TrainStep) -> Iterator[Any]:
        with measured(job):
            yield from steps(train_step)

    TrainStep.steps = in_time
    fields = {
        "config": ROOT / "configs" / f"{job.set.preset}.yaml",
        "model": job.model,
        "data.train_files": job.set.train_file(job.data),
        "data.validation_files": job.set.held_out_file(job.data),
        "data.cache_dir": job.folder / "cache",
        "recipe.lr": job.lr,
        "recipe.duration": f"{job.epochs:g} epochs",
        "batch.per_device": job.set.per_device,
        "evaluation.every": "null",
        "launch.device": "cpu",
        "seed": job.seed,
        "run_dir": job.folder / "run",
    }
    argv = [str(part) for name, value in fields.items() for part in (f"--{name}", value)]
    if code := train.main([*argv, *job.reading]):
        raise SystemExit(code)


def predict_ours(job: Job) -> None:
    """Predictions of a run of `ours`. They are not timed: its own evaluation is what the Trainer's prediction is."""
    asked = ["--predict", job.set.held_out_file(job.data), "--model", job.folder / "run", "--output", job.predictions]
    argv = [*map(str, asked), *job.reading, "--launch.device", "cpu", "--data.max_bad_rows", "0"]
    subprocess.run([sys.executable, str(ROOT / "train.py"), *argv], check=True, stdout=sys.stderr)


def trainer(job: Job) -> None:
    """transformers' Trainer: the same rate, schedule, batch, epochs and lengths."""
    import math

    import tuning_inputs
    from transformers import AutoTokenizer, Trainer, TrainingArguments, set_seed

    set_seed(job.seed)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    inputs = tuning_inputs.INPUTS[job.work](job, tokenizer)
    steps = math.ceil(len(inputs.train) / BATCH) * job.epochs
    arguments = TrainingArguments(
        output_dir=str(job.folder / "run"),
        per_device_train_batch_size=job.set.per_device,
        gradient_accumulation_steps=BATCH // job.set.per_device,
        per_device_eval_batch_size=64,  # batch.evaluation
        num_train_epochs=job.epochs,
        learning_rate=job.lr,
        weight_decay=WEIGHT_DECAY,
        lr_scheduler_type="linear",
        warmup_steps=round(job.set.warmup * steps),
        seed=job.seed,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(inputs.model, arguments, train_dataset=inputs.train, data_collator=inputs.collate)
    with measured(job):
        trainer.train()
    inputs.write(trainer.predict(inputs.held_out).predictions)
    trainer.save_model()


def main(words: list[str]) -> None:
    contender, work, seed, data, model, epochs, lr = words
    job = Job(contender, work, int(seed), Path(data), Path(model), float(epochs), float(lr))
    {"ours": ours, "trainer": trainer}[contender](job)


if __name__ == "__main__":
    main(sys.argv[1:])
