"""Multiple choice: which one of its choices answers a question, or goes on with a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import datasets
import numpy as np
import torch
from transformers import AutoModelForMultipleChoice, PreTrainedModel, PreTrainedTokenizerBase

from warmup.config import Config
from warmup.config.tasks import TASKS
from warmup.training.data.batching.micro_batch import MicroBatch, Targets, padded_inputs, sequence_targets
from warmup.training.data.readers.columns import STRING, Column, RowFormat
from warmup.training.data.readers.values import is_blank, parse_class, parse_list, parse_text
from warmup.training.data.samples import IGNORE_INDEX, IS_FIRST, SampleSource
from warmup.training.data.tokenizers.texts import encode_texts
from warmup.training.data.tokenizers.windows import TokenizeBatch
from warmup.training.models.input_layout import Head
from warmup.training.tasks import text_pairs
from warmup.training.tasks.losses import group_cross_entropy, group_cross_entropy_sum, group_target_counts
from warmup.training.tasks.metrics import sum_by_sample
from warmup.training.tasks.task import Objective, Predictor, Task, significant

TEXT_NAMES = ("context", "article", "passage", "sent1", "ctx", "premise", "question", "text", "startphrase")
START_NAMES = {name: ("question",) for name in ("context", "article", "passage", "premise")} | {"sent1": ("sent2",)}
"""Usual names of what all choices of a row go on with, by the name of the text column."""
CHOICE_NAMES = ("choices", "options", "endings")
NUMBERED_CHOICES = ("ending", "choice", "option")
ANSWER_NAMES = ("label", "answer", "answerkey", "answer_key", "correct", "gold")


class MultipleChoice(Task):
    """Scores each choice together with its question, as a sequence; one softmax over those of a row."""

    facts = TASKS["multiple-choice"]
    auto_class: Any = AutoModelForMultipleChoice
    head: Head = "sequence"
    outputs = ("score",)
    whole_rows = True
    features: Mapping[str, Any] = {
        **text_pairs.LABELLED_FEATURES,
        IS_FIRST: datasets.Value("bool"),
        "number": datasets.Value("int32"),
        "is_right": datasets.Value("bool"),
    }

    def __init__(self, config: Config):
        self._max_length = config.data.max_length
        self.row_format = RowFormat.of(
            config.data,
            Column("text", TEXT_NAMES, parse_text),
            Column("pair", START_NAMES, parse_text, required=False),
            Column(
                "choice",
                CHOICE_NAMES,
                parse_choices,
                datasets.List(STRING),
                parse_several=parse_choice_columns,
                numbered=NUMBERED_CHOICES,
            ),
            Column("label", ANSWER_NAMES, parse_class),
            group="text",
            check=check_choices,
        )

    def adapt_model(self, model: PreTrainedModel) -> None:
        """Let it give one score for each sequence, (B, 1). Called as transformers calls it, with choices of shape
        (B, choices, T), it still gives (B, choices).
        """
        take_sequences(model)

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> TokenizeBatch:
        def tokenize(batch: dict[str, Any]) -> dict[str, list]:
            numbered = list(zip(map(int, batch["label"]), batch["choice"], strict=True))
            is_right = [number == label for label, choices in numbered for number in range(len(choices))]
            return encode_choices(batch, tokenizer, self._max_length) | {"is_right": is_right}

        return tokenize

    def objective(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], train: Any) -> Objective:
        def collate(samples: SampleSource, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
            return collate_choices(samples, indices, tokenizer)

        return Objective(
            collate=collate,
            losses=lambda logits, targets: group_cross_entropy(logits, _right(targets)),
            training_loss_sum=lambda logits, targets: group_cross_entropy_sum(logits, _right(targets)),
            results=chosen_and_right,
            width=2,
            metrics=choice_metrics,
            target_counts=lambda targets: group_target_counts(_right(targets)),
            outcome=lambda result: {"label": f"choice {result[1]:.0f}", "prediction": f"choice {result[0]:.0f}"},
        )

    def predictor(
        self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], settings: Mapping[str, Any]
    ) -> Predictor:
        """The likeliest choice, and the probability of each."""

        def tokenize(batch: dict[str, Any]) -> dict[str, list]:
            columns = encode_choices(batch, tokenizer, self._max_length)
            return {
                **{name: columns[name] for name in ("ids", "length", "second_start", IS_FIRST)},
                "token_targets": [[1, *[0] * (length - 1)] for length in columns["length"]],
                "truncated": [cut > 0 for cut in columns["cut_tokens"]],
                "choice": [choice for choices in batch["choice"] for choice in choices],
            }

        def to_record(values: np.ndarray, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
            scores = values[:, 0].astype(np.float64)
            parts = np.exp(scores - scores.max())
            best = int(scores.argmax())
            probabilities = [significant(value) for value in parts / parts.sum()]
            return {"choice": best, "text": samples[best]["choice"], "scores": probabilities}

        return Predictor(
            row_format=self.row_format.without("label"),
            tokenize=tokenize,
            features={**text_pairs.FEATURES, IS_FIRST: datasets.Value("bool"), "choice": STRING},
            width=1,
            postprocess=lambda logits_n1: logits_n1,
            to_record=to_record,
            csv_columns=("choice", "text"),
        )


def parse_choices(value: Any, what: str) -> list[str]:
    """The choices of a row: a list of texts or of objects with a "text" each (a string holds one as JSON), or an object
    with the list as its "text".

    Raises ValueError with the reason where they cannot be used.
    """
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        marks = [part["label"] for part in value if part.get("label") is not None]
        value = {"text": [part.get("text") for part in value], "label": marks}
    if isinstance(value, dict):
        marks = [str(mark).upper() for mark in value.get("label") or ()]
        if marks not in ([], list(ascii_uppercase[: len(marks)]), list(map(str, range(len(marks))))):
            raise ValueError(f"{what} calls its choices {', '.join(marks[:5])}; they must be A, B, ... or 0, 1, ...")
        value = value.get("text")
    if isinstance(value, str) and not value.strip().startswith("["):
        raise ValueError(f"{what} is not a JSON list")
    parts = parse_list(value, what)
    return [parse_text(part, f"choice {number} of {what}") for number, part in enumerate(parts)]


def parse_choice_columns(values: Mapping[str, Any]) -> list[str]:
    """The choices of a row in columns of their own, the last of which may be blank. Raises ValueError as above."""
    filled = [name for name, value in values.items() if value is not None and not is_blank(str(value))]
    names = list(values)[: list(values).index(filled[-1]) + 1] if filled else []
    return [parse_text(values[name], repr(name)) for name in names]


def check_choices(row: dict[str, Any], names: Mapping[str, Any]) -> None:
    """Put the index of the right choice, from 0, in the place of the answer. Raises ValueError where there are not two
    choices, or the answer is none of them.
    """
    choices, answer = row["choice"] or [], row.get("label")
    if len(choices) < 2:
        raise ValueError(f"has {len(choices) or 'no'} choice{'s' if not choices else ''}, and two are needed at least")
    if answer is None:
        return
    letter = ascii_uppercase.find(answer.upper()) if len(answer) == 1 else -1
    meant = {index for index, choice in enumerate(choices) if choice.strip() == answer}
    meant |= {index for index in range(len(choices)) if answer in (str(index), f"{index}.0") or letter == index}
    if len(meant) > 1:
        raise ValueError(f"{names['label']!r} holds {answer!r}, which could be any of the choices {sorted(meant)}")
    if not meant:
        last = len(choices) - 1
        raise ValueError(
            f"{names['label']!r} holds {answer[:40]!r}, which is none of the choices: neither 0 to {last}, nor A to "
            f"{ascii_uppercase[last:][:1] or 'Z'}, nor the text of one"
        )
    row["label"] = str(meant.pop())


def encode_choices(batch: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list]:
    """The sequences of all choices of some rows: {ids, length, second_start, cut_tokens, is_first, number}, where
    `number` is that of the choice in its row, from 0.
    """
    texts = [text for text, choices in zip(batch["text"], batch["choice"], strict=True) for _ in choices]
    starts = [f"{start} " if start else "" for start in batch["pair"]]
    seconds = [start + choice for start, choices in zip(starts, batch["choice"], strict=True) for choice in choices]
    pairs = {"text": texts, "pair": seconds}
    encoded, columns = encode_texts(pairs, tokenizer, max_length)
    numbers = [number for choices in batch["choice"] for number in range(len(choices))]
    cut_tokens = text_pairs.count_cut_tokens(pairs, encoded, tokenizer)
    return columns | {"cut_tokens": cut_tokens, IS_FIRST: [number == 0 for number in numbers], "number": numbers}


def collate_choices(samples: SampleSource, indices: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> MicroBatch:
    """A batch that predicts which of the sequences of a sample is the right one.

    Its targets are (sequences, 2) int64: whether it is the right one, and its number among those of the sample.
    """
    ids_ST, mask_ST, columns = samples.gather(indices)
    inputs = padded_inputs(ids_ST, mask_ST, tokenizer, columns["second_start"])
    targets_S2 = np.stack([columns["is_right"], columns["number"]], 1).astype(np.int64)
    return sequence_targets(inputs, targets_S2, columns["sample"])


def _right(targets: Targets) -> Targets:
    """Only whether each choice is the right one, without its number."""
    return targets._replace(values=targets.values[:, 0])


def chosen_and_right(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """(samples, 2): the number of the choice with the largest score, the first of equal ones, and of the right one."""
    scores_N = logits.flatten().float()
    right_N, numbers_N = targets.values.unbind(1)
    counted_N = right_N != IGNORE_INDEX
    scores_N = scores_N.masked_fill(~counted_N, -torch.inf)
    best_S = scores_N.new_full((targets.sample_count,), -torch.inf)
    best_S = best_S.scatter_reduce(0, targets.sample_ids_N, scores_N, "amax")
    is_best_N = counted_N & (scores_N == best_S[targets.sample_ids_N])
    none = torch.iinfo(numbers_N.dtype).max
    chosen_S = numbers_N.new_full((targets.sample_count,), none).scatter_reduce(
        0, targets.sample_ids_N, numbers_N.where(is_best_N, none), "amin"
    )
    chosen_S = chosen_S.where(chosen_S != none, 0)
    right_S = sum_by_sample(((right_N == 1) * numbers_N)[:, None], targets)[:, 0]
    return torch.stack([chosen_S.double(), right_S], 1)


def choice_metrics(loss_sum: float, results_S2: torch.Tensor) -> dict[str, float]:
    """Of each sample's chosen and right choice."""
    chosen_S, right_S = results_S2.unbind(1)
    count = len(results_S2)
    return {
        "loss": loss_sum / count,
        "accuracy": int((chosen_S == right_S).sum()) / count,
        "targets": float(count),
    }


def take_sequences(model: PreTrainedModel) -> None:
    """Give a model for multiple choice each sequence as the one choice of a sample. It flattens its inputs to (., T),
    which a mask of four dimensions does not survive: that one goes past it.
    """
    past: dict[str, torch.Tensor] = {}

    def add_choices(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        past.clear()
        if kwargs["input_ids"].ndim == 2:
            if kwargs.get("attention_mask") is not None and kwargs["attention_mask"].ndim > 2:
                past["attention_mask"] = kwargs.pop("attention_mask")
            kwargs["input_ids"] = kwargs["input_ids"][:, None]
        return args, kwargs

    def restore(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs | past

    model.register_forward_pre_hook(add_choices, with_kwargs=True)
    model.base_model.register_forward_pre_hook(restore, with_kwargs=True)
