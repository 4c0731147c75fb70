"""Who trains: ours; and what users would run instead, transformers' Trainer, and a plain Accelerate loop as the example
scripts have it.

Each is a function `train(work, turns, given)` of one rank, which calls `turns.step()` before each of its steps until
that does not return. `given`: the samples are masked already, so that all contenders can be shown to learn the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, SequentialSampler
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_scheduler,
)
from turns import Turns
from works import Work

import train
from warmup.training.data.batching import prefetcher
from warmup.training.engines import ddp
from warmup.training.run.train_step import StepResult, TrainStep


def model_and_collator(work: Work, given: bool) -> tuple[PreTrainedModel, Callable[[list], dict]]:
    """As the example scripts make them. Dropout is the model's own, 0 where samples are given."""
    tokenizer = AutoTokenizer.from_pretrained(work.model)
    auto_class = AutoModelForMaskedLM if work.task == "mlm" else AutoModelForSequenceClassification
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if given else {}
    model = auto_class.from_pretrained(work.model, **off)
    if work.task == "classification":
        return model, DataCollatorWithPadding(tokenizer)
    if given:
        return model, DataCollatorForTokenClassification(tokenizer)  # pads inputs and labels
    return model, DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)


def plain_loop(work: Work, turns: Turns, given: bool) -> None:
    """Accelerate with dynamic padding, a dense head, PyTorch's default AdamW and a linear schedule."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=work.precision)
    model, collator = model_and_collator(work, given)
    data = datasets.load_from_disk(str(work.given if given else work.data))
    loader = DataLoader(data, shuffle=not given, collate_fn=collator, batch_size=work.per_device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=work.lr, weight_decay=0.0)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=work.steps)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    model.train()
    total_loss = 0.0
    while True:  # epochs
        for batch in loader:
            turns.step()
            outputs = model(**batch)
            total_loss += outputs.loss.detach().float()
            accelerator.backward(outputs.loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if given:
                turns.loss(accelerator.reduce(outputs.loss.detach(), "mean").item())


def trainer(work: Work, turns: Turns, given: bool, **flags: Any) -> None:
    """transformers' Trainer as shipped, but for `flags`. It logs every 500 steps, as it does by default."""

    class OnTurn(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            turns.step()

        def on_log(self, *args: Any, logs: dict | None = None, **kwargs: Any) -> None:
            if given and "loss" in (logs or {}):
                turns.loss(logs["loss"])

    class InOrder(Trainer):
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    model, collator = model_and_collator(work, given)
    arguments = TrainingArguments(
        output_dir=str(work.folder / "trainer"),
        per_device_train_batch_size=work.per_device,
        learning_rate=work.lr,
        max_steps=work.steps,
        use_cpu=not torch.cuda.is_available(),
        bf16=work.precision == "bf16",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **({"logging_steps": 1, "max_grad_norm": 0.0} if given else flags),
    )
    data = datasets.load_from_disk(str(work.given if given else work.data))
    kind = InOrder if given else Trainer
    kind(model, arguments, train_dataset=data, data_collator=collator, callbacks=[OnTurn()]).train()


def ours(work: Work, turns: Turns, given: bool, without: str = "") -> None:
    """train.py as `launch/cpu.sh` starts it, but that it waits for its turns between its steps."""
    steps = TrainStep.steps
    if without != "malloc":
        keep_freed_memory()

    def in_turns(train_step: TrainStep) -> Iterator[StepResult]:
        for number in range(work.steps):
            turns.step()
            if number == 0:
                inner = steps(train_step)
            step = next(inner)
            if given:
                turns.loss(train_step.loss(step))
            yield step

    TrainStep.steps = in_turns
    run = work.folder / f"run-{work.ranks}-{without}-{given}"
    argv = [*work.argv, "--run_dir", str(run), "--checkpoint.every", "null"]
    if given:
        argv += ["--dropout", "0", "--recipe.max_grad_norm", "0"]
    if without in ("packing", "masked_only"):
        argv += [f"--speed.{without}", "false"]
    if without == "ahead":
        prefetcher.BatchPrefetcher.next = lambda self, position, samples: self.build(
            position, self.plan.batch_at(samples)
        )
        prefetcher.BatchPrefetcher.begin_next = lambda self: None
    if without == "rows":
        ddp.sparse_embedding_grad = ddp.add_tied_grad_by_rows = lambda *args: None
    if without == "fused":
        adamw = torch.optim.AdamW
        torch.optim.AdamW = lambda *args, fused, **kwargs: adamw(*args, **kwargs)
    train.main(argv)


def keep_freed_memory() -> None:
    """What `launch/cpu.sh` sets by environment variables, for a process that runs already (glibc's malloc.h)."""
    trim_threshold, mmap_max = -1, -4
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, 1 << 30)
    libc.mallopt(mmap_max, 0)


def products(work: Work, turns: Turns, given: bool) -> None:
    """No training: products of matrices as large as fill the cores, 2 * 1024^3 FLOPs each."""
    left, right, product = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.empty(1024, 1024)
    while True:
        turns.step()
        torch.mm(left, right, out=product)
