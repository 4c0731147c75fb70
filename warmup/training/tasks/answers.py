"""What each task answers of a row: which of the model's logits it reads, what it keeps of them, and its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerBase,
)

from warmup.errors import UserError
from warmup.training.data.prepare import VALUE


@dataclass(frozen=True)
class Predictor:
    """Of one task. auto_class, labels: as `model.build` wants them. of_tokens: whether single tokens are asked, or the
    text as a whole.

    read(logits_nC): what is kept of asked places' logits, (n, width). record(values, samples): the answer, of a row's
    samples (see `asking.Asked`) and the (asked, width) that was kept for them. asked(ids): which of a text's tokens are
    asked, 1 or 0 for each; of a sentence of words each word is. What has none has no answer, for `unasked`. columns:
    what a .csv file holds of it.
    """

    auto_class: type
    labels: tuple[str, ...]
    of_tokens: bool
    width: int
    read: Callable[[torch.Tensor], torch.Tensor]
    record: Callable[[np.ndarray, Sequence[dict]], dict[str, Any]]
    asked: Callable[[list[int]], list[int]] | None = None
    unasked: str = ""
    columns: tuple[str, ...] = ()


def build_predictor(task: str, model: str, tokenizer: PreTrainedTokenizerBase, labels: tuple[str, ...]) -> Predictor:
    """The answers of a task. model: where it is. labels: the names of its classes. Raises UserError for clm."""
    check_predictable(task, model)
    if task == "classification":
        return _classes(labels)
    if task == "token-classification":
        return _tags(labels)
    return _numbers() if task == "regression" else _fillings(tokenizer)


def check_predictable(task: str, model: str) -> None:
    if task == "clm":
        raise UserError(
            "--predict: a causal language model writes on, which is transformers' work: "
            f'pipeline("text-generation", model="{model}")'
        )


def _classes(labels: tuple[str, ...]) -> Predictor:
    def record(values: np.ndarray, samples: Sequence[dict]) -> dict[str, Any]:
        scores = dict(zip(labels, map(_digits, values[0]), strict=True))
        best = labels[int(values[0].argmax())]
        return {"label": best, "score": scores[best], "scores": scores}

    return Predictor(
        auto_class=AutoModelForSequenceClassification,
        labels=labels,
        of_tokens=False,
        width=len(labels),
        asked=_text,
        read=lambda logits_nC: logits_nC.softmax(-1),
        record=record,
        columns=("label", "score"),
    )


def _numbers() -> Predictor:
    return Predictor(
        auto_class=AutoModelForSequenceClassification,
        labels=(VALUE,),
        of_tokens=False,
        width=1,
        asked=_text,
        read=lambda logits_n1: logits_n1,
        record=lambda values, samples: {"value": _digits(values[0, 0])},
        columns=("value",),
    )


def _fillings(tokenizer: PreTrainedTokenizerBase) -> Predictor:
    """The likeliest token for each mask, each by itself, and the text with them as the tokenizer writes it."""
    mask = tokenizer.mask_token_id
    if mask is None:
        raise UserError("--model: its tokenizer has no mask token, which task: mlm needs")

    def record(values: np.ndarray, samples: Sequence[dict]) -> dict[str, Any]:
        (sample,) = samples
        found, ids = values[:, 0].astype(np.int64), np.array(sample["ids"])
        ids[np.array(sample["asked"]) == 1] = found
        tokens = [tokenizer.decode([number]) for number in found.tolist()]
        return {"tokens": tokens, "text": tokenizer.decode(ids.tolist(), skip_special_tokens=True)}

    return Predictor(
        auto_class=AutoModelForMaskedLM,
        labels=(),
        of_tokens=True,
        width=1,
        asked=lambda ids: [int(number == mask) for number in ids],
        read=_best,
        record=record,
        unasked=f"holds no {tokenizer.mask_token} to fill in",
    )


def _tags(labels: tuple[str, ...]) -> Predictor:
    """The likeliest tag for each word by itself; None for one of which the tokenizer leaves nothing to ask at."""

    def record(values: np.ndarray, samples: Sequence[dict]) -> dict[str, Any]:
        words = samples[0]["words"]
        asked = [word for sample in samples for word in sample["asked"] if word]
        tags: list[str | None] = [None] * len(words)
        for word, found in zip(asked, values[:, 0], strict=True):
            tags[word - 1] = labels[int(found)]
        return {"tokens": words, "tags": tags}

    return Predictor(
        auto_class=AutoModelForTokenClassification,
        labels=labels,
        of_tokens=True,
        width=1,
        read=_best,
        record=record,
        unasked="holds no word of which the tokenizer leaves anything",
    )


def _best(logits_nC: torch.Tensor) -> torch.Tensor:
    """The number of the largest one; no number where that is not finite."""
    best_n1, numbers_n1 = logits_nC.max(-1, keepdim=True)
    return numbers_n1.float().where(best_n1.isfinite(), torch.nan)


def _text(ids: list[int]) -> list[int]:
    """One answer for the whole of it, at its first place."""
    return [1, *[0] * (len(ids) - 1)]


def _digits(value: float) -> float:
    """To six digits; the seventh depends on how many samples and threads were computed together."""
    return float(f"{value:.6g}")
