"""What each task answers of a text: which of the model's logits it reads, what it keeps of them, and its record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
)

from warmup.training.outcome import UserError
from warmup.training.tokens import VALUE

TASKS = ("classification", "regression", "mlm")


@dataclass(frozen=True)
class Answers:
    """Of one task. auto_class, labels: as `model.build` wants them. of_tokens: whether single tokens are asked, or the
    text as a whole.

    asked(ids): which of a text's tokens are asked, 1 or 0 for each; a text without any has no answer, for `unasked`.
    read(logits_nC): what is kept of asked places' logits, (n, width). record(values, sample): the answer, of a sample
    {ids, asked} and the (asked, width) that was kept for it. columns: what a .csv file holds of it.
    """

    auto_class: type
    labels: tuple[str, ...]
    of_tokens: bool
    width: int
    asked: Callable[[list[int]], list[int]]
    read: Callable[[torch.Tensor], torch.Tensor]
    record: Callable[[np.ndarray, dict], dict[str, Any]]
    unasked: str = ""
    columns: tuple[str, ...] = ()


def build(task: str, model: str, tokenizer: PreTrainedTokenizerBase, labels: tuple[str, ...]) -> Answers:
    """The answers of a task. model: where it is. labels: the names of its classes. Raises UserError for other tasks."""
    refuse_other_tasks(task, model)
    if task == "classification":
        return _classes(labels)
    return _numbers() if task == "regression" else _fillings(tokenizer)


def refuse_other_tasks(task: str, model: str) -> None:
    """Raise UserError for a task that --predict has no answers for."""
    if task == "clm":
        raise UserError(
            "--predict: a causal language model writes on, which is transformers' work: "
            f'pipeline("text-generation", model="{model}")'
        )
    if task not in TASKS:
        raise UserError(f"--predict: knows {', '.join(TASKS)}, and {model} is for {task}")


def _classes(labels: tuple[str, ...]) -> Answers:
    def record(values: np.ndarray, sample: dict) -> dict[str, Any]:
        scores = dict(zip(labels, map(_digits, values[0]), strict=True))
        best = labels[int(values[0].argmax())]
        return {"label": best, "score": scores[best], "scores": scores}

    return Answers(
        auto_class=AutoModelForSequenceClassification,
        labels=labels,
        of_tokens=False,
        width=len(labels),
        asked=_text,
        read=lambda logits_nC: logits_nC.softmax(-1),
        record=record,
        columns=("label", "score"),
    )


def _numbers() -> Answers:
    return Answers(
        auto_class=AutoModelForSequenceClassification,
        labels=(VALUE,),
        of_tokens=False,
        width=1,
        asked=_text,
        read=lambda logits_n1: logits_n1,
        record=lambda values, sample: {"value": _digits(values[0, 0])},
        columns=("value",),
    )


def _fillings(tokenizer: PreTrainedTokenizerBase) -> Answers:
    """The likeliest token for each mask, each by itself, and the text with them as the tokenizer writes it."""
    mask = tokenizer.mask_token_id
    if mask is None:
        raise UserError("--model: its tokenizer has no mask token, which task: mlm needs")

    def record(values: np.ndarray, sample: dict) -> dict[str, Any]:
        found, ids = values[:, 0].astype(np.int64), np.array(sample["ids"])
        ids[np.array(sample["asked"]) == 1] = found
        tokens = [tokenizer.decode([number]) for number in found.tolist()]
        return {"tokens": tokens, "text": tokenizer.decode(ids.tolist(), skip_special_tokens=True)}

    return Answers(
        auto_class=AutoModelForMaskedLM,
        labels=(),
        of_tokens=True,
        width=1,
        asked=lambda ids: [int(number == mask) for number in ids],
        read=lambda logits_nV: logits_nV.argmax(-1, keepdim=True),
        record=record,
        unasked=f"holds no {tokenizer.mask_token} to fill in",
    )


def _text(ids: list[int]) -> list[int]:
    """One answer for the whole of it, at its first place."""
    return [1, *[0] * (len(ids) - 1)]


def _digits(value: float) -> float:
    """To six digits; the seventh depends on how many samples and threads were computed together."""
    return float(f"{value:.6g}")
