"""Question answering: the words of a text that answer a question, or that it has no answer there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from transformers import AutoModelForQuestionAnswering, PreTrainedModel, PreTrainedTokenizerBase

from warmup.config import Config
from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data.batching.micro_batch import MicroBatch, group_targets, padded_inputs
from warmup.training.data.readers.columns import STRING
from warmup.training.data.readers.questions import answered_format, asked_format
from warmup.training.data.samples import IS_FIRST, Samples, SampleSource
from warmup.training.data.tokenizers.load import load_tokenizer
from warmup.training.data.tokenizers.question_windows import (
    QuestionWindow,
    check_begins_with_cls,
    find_tokens,
    question_windows,
    room_for_context,
)
from warmup.training.data.tokenizers.windows import TokenizeBatch
from warmup.training.models.input_layout import Head
from warmup.training.tasks.losses import group_cross_entropy, group_cross_entropy_sum, group_target_counts
from warmup.training.tasks.metrics.answers import answer_metrics, null_threshold, score_answer
from warmup.training.tasks.metrics.spans import best_spans, ranked_spans
from warmup.training.tasks.task import Objective, Predictor, Task, significant

(NULL_THRESHOLD,) = TASKS["question-answering"].model_settings
"""No answer is given if its score is above that of the best answer by more than this; None if there always is one."""
_NUMBER = datasets.Value("int32")
_OFFSETS = datasets.List(_NUMBER)
"""Of the tokens of a window's context: the characters of the whole context, from and to, one pair after another."""


class QuestionAnswering(Task):
    """Predicts the first and the last token of the answer, by one softmax each over the context's tokens in a window.

    Each window is a sample. Where it does not have all of the answer, [CLS] is the right position of both, as in BERT
    (Devlin et al. 2018, section 4.3).
    """

    facts = TASKS["question-answering"]
    auto_class: Any = AutoModelForQuestionAnswering
    head: Head = "token"
    outputs = ("start", "end")
    features: Mapping[str, Any] = {
        "second_start": _NUMBER,
        "context_length": _NUMBER,
        "answer_start": _NUMBER,
        "answer_end": _NUMBER,
        IS_FIRST: datasets.Value("bool"),
        "metrics_context": STRING,
        "metrics_answers": datasets.List(STRING),
        "metrics_offsets": _OFFSETS,
    }

    def __init__(self, config: Config):
        self._data, self._max_tokens = config.data, config.evaluation.max_answer_length
        self._n_best = config.evaluation.n_best
        self._doc_stride = config.data.max_length // 3 if config.data.doc_stride is None else config.data.doc_stride
        self.row_format = answered_format(config.data)

    def load_tokenizer(self, name: str, flag: str) -> PreTrainedTokenizerBase:
        tokenizer = load_tokenizer(name, flag)
        check_begins_with_cls(tokenizer, name, flag)
        return tokenizer

    def adapt_model(self, model: PreTrainedModel) -> None:
        """Let it give the scores of start and end at each token as `logits` too, (..., 2)."""
        model.register_forward_hook(_join_start_and_end)

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> TokenizeBatch:
        def tokenize(batch: dict[str, Any]) -> dict[str, list]:
            windows = list(self._windows(batch, tokenizer))
            for window in windows:
                if not len(window.offsets):
                    self._check_room(batch["pair"][window.row], tokenizer)
            spans = [_find_answer(window, batch["label"][window.row]) for window in windows]
            return {
                **_columns(windows),
                "context_length": [len(window.offsets) for window in windows],
                "answer_start": [start for start, _ in spans],
                "answer_end": [end for _, end in spans],
                "metrics_context": [batch["text"][window.row] if window.is_first else "" for window in windows],
                "metrics_answers": [batch["label"][w.row]["text"] if w.is_first else [] for w in windows],
                "metrics_offsets": [window.offsets.ravel() for window in windows],
            }

        return tokenize

    def _windows(self, batch: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Iterator[QuestionWindow]:
        return question_windows(batch["pair"], batch["text"], tokenizer, self._data.max_length, self._doc_stride)

    def _check_room(self, question: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError where a question leaves too little room for its context."""
        room = room_for_context(question, tokenizer, self._data.max_length)
        if room <= self._doc_stride:
            raise UserError(
                f"data.max_length: {self._data.max_length} leaves room for {max(room, 0)} tokens of the context beside "
                f"the question {question[:60]!r}, which must be more than the {self._doc_stride} that two windows "
                "share (data.doc_stride); raise the one, lower the other, or shorten the question"
            )

    def objective(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], train: Any) -> Objective:
        def collate(samples: SampleSource, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
            ids_BT, mask_BT, columns = samples.gather(indices)
            first_B, count_B = columns["second_start"], columns["context_length"]
            position_T = np.arange(ids_BT.shape[1])
            in_context_BT = (position_T >= first_B[:, None]) & (position_T < (first_B + count_B)[:, None])
            right_BT2 = position_T[:, None] == np.stack([columns["answer_start"], columns["answer_end"]], 1)[:, None]
            inputs = padded_inputs(ids_BT, mask_BT, tokenizer, first_B)
            return group_targets(inputs, in_context_BT | (position_T == 0), right_BT2.astype(np.int64))

        return Objective(
            collate=collate,
            losses=group_cross_entropy,
            training_loss_sum=group_cross_entropy_sum,
            results=partial(best_spans, max_tokens=self._max_tokens),
            width=4,
            target_counts=group_target_counts,
            combine=_score_questions,
            metrics=answer_metrics,
            model_settings=lambda scores_Q5: {NULL_THRESHOLD: null_threshold(scores_Q5)},
        )

    def predictor(
        self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], settings: Mapping[str, Any]
    ) -> Predictor:
        """The best answers of all windows of a question, each with its part of their probability."""
        threshold = settings.get(NULL_THRESHOLD)

        def tokenize(batch: dict[str, Any]) -> dict[str, list]:
            windows = list(self._windows(batch, tokenizer))
            return {
                **_columns(windows),
                "token_targets": [_target_tokens(window) for window in windows],
                "truncated": [False] * len(windows),
                "id": [batch["id"][window.row] for window in windows],
                "context": [batch["text"][window.row] if window.is_first else "" for window in windows],
                "offsets": [window.offsets.ravel() for window in windows],
            }

        def to_record(values: np.ndarray, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
            answers, null_score = _rank_answers(values, samples, self._max_tokens, self._n_best)
            answers = _with_probabilities(answers, null_score, threshold)
            return {"id": samples[0]["id"], **answers[0], "answers": answers}

        return Predictor(
            row_format=asked_format(self._data),
            tokenize=tokenize,
            features={
                IS_FIRST: datasets.Value("bool"),
                "second_start": _NUMBER,
                "id": STRING,
                "context": STRING,
                "offsets": _OFFSETS,
            },
            width=2,
            postprocess=lambda scores_n2: scores_n2,
            to_record=to_record,
            no_target_message="no token of its context is left beside its question (data.max_length, data.doc_stride)",
            csv_columns=("id", "answer", "start", "end", "score"),
            json_entry=("id", "answer"),
        )


def _join_start_and_end(module: torch.nn.Module, args: tuple, output: Any) -> Any:
    output["logits"] = torch.stack([output["start_logits"], output["end_logits"]], -1)
    return output


def _columns(windows: Sequence[QuestionWindow]) -> dict[str, list]:
    return {
        "ids": [window.ids for window in windows],
        "length": [len(window.ids) for window in windows],
        "second_start": [window.context_start for window in windows],
        IS_FIRST: [window.is_first for window in windows],
    }


def _find_answer(window: QuestionWindow, answers: Mapping[str, Sequence]) -> tuple[int, int]:
    """Positions of the first and the last token of the first answer; those of [CLS] if the window does not have it."""
    if not answers["text"]:
        return 0, 0
    start = answers["answer_start"][0]
    found = find_tokens(window.offsets, start, start + len(answers["text"][0]))
    return (window.context_start + found[0], window.context_start + found[1]) if found else (0, 0)


def _target_tokens(window: QuestionWindow) -> list[int]:
    """1 at [CLS] and at the tokens of the context, 0 at all others and everywhere in a window without context."""
    count, before = len(window.offsets), window.context_start
    return [int(count > 0), *[0] * (before - 1), *[1] * count, *[0] * (len(window.ids) - before - count)]


def _answer(context: str, offsets_C2: np.ndarray, first: int, last: int) -> tuple[str, int, int]:
    """The characters that some tokens stand for, without white space around them, and where they are: from and to."""
    start, end = int(offsets_C2[first, 0]), int(offsets_C2[last, 1])
    text = context[start:end]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return text, start, start + len(text)


def _score_questions(results_W4: torch.Tensor, samples: Samples) -> torch.Tensor:
    """The best answer of all windows of each question, scored, (questions, 5): by how much the score of no answer is
    above that of the best one; exact match and F1 of the best one; that of no answer; the number of windows.

    Args:
        results_W4: as `best_spans`.
        samples: the windows.
    """
    column = samples.table.data.column
    begins_Q, windows_Q = samples.row_starts[:-1], np.diff(samples.row_starts)
    question_W = np.repeat(np.arange(len(windows_Q)), windows_Q)
    scores_W, _, _, null_W = results_W4.numpy().T
    best_Q = np.lexsort((-scores_W, question_W))[begins_Q]  # of equal ones that of the first window
    null_Q = np.minimum.reduceat(null_W, begins_Q)
    scored = []
    for begin, best, null in zip(begins_Q.tolist(), best_Q.tolist(), null_Q.tolist(), strict=True):
        score, first, last, _ = results_W4[best].tolist()
        text, gold = "", column("metrics_answers")[begin].as_py()
        if score > -np.inf:
            offsets_C2 = column("metrics_offsets")[best].values.to_numpy().reshape(-1, 2)
            text, *_ = _answer(column("metrics_context")[begin].as_py(), offsets_C2, int(first), int(last))
        scored.append([min(null - score, _CERTAIN), *score_answer(text, gold), score_answer("", gold)[0]])
    return torch.tensor(np.column_stack([scored, windows_Q]), dtype=torch.float64)


_CERTAIN = 1e9  # by how much no answer is better where there is no token that could be one


def _rank_answers(
    values_n2: np.ndarray, samples: Sequence[dict[str, Any]], max_tokens: int, count: int
) -> tuple[list[dict[str, Any]], float]:
    """The best answers to a question, each once, and the lowest score of no answer.

    Args:
        values_n2: scores at [CLS] and at the tokens of the context, window after window.
        samples: the windows, as the predictor tokenises them.
        max_tokens: the most tokens of an answer.
        count: the most answers.
    """
    found: dict[tuple[int, int], dict[str, Any]] = {}
    null_scores = []
    for sample in samples:
        offsets_C2 = np.reshape(sample["offsets"], (-1, 2))
        scores_n2, values_n2 = np.split(values_n2, [len(offsets_C2) + 1])
        null_scores.append(float(scores_n2[0].sum()))
        for span in ranked_spans(scores_n2[1:], max_tokens, count):
            text, start, end = _answer(samples[0]["context"], offsets_C2, span.first, span.last)
            if text and ((start, end) not in found or found[start, end]["score"] < span.score):
                found[start, end] = {"answer": text, "start": start, "end": end, "score": span.score}
    return sorted(found.values(), key=lambda answer: -answer["score"])[:count], min(null_scores)


def _with_probabilities(
    answers: list[dict[str, Any]], null_score: float, threshold: float | None
) -> list[dict[str, Any]]:
    """Answers with their part of the probability of all of them as their score, the one that is given first.

    Args:
        answers: some, the best one first.
        null_score: that of no answer.
        threshold: by how much it must be above that of the best answer for none to be given; None for always an answer.
    """
    if threshold is not None or not answers:
        none = {"answer": "", "start": 0, "end": 0, "score": null_score}
        given = not answers or null_score - answers[0]["score"] > (threshold or 0)
        answers = [none, *answers] if given else [answers[0], *sorted([*answers[1:], none], key=lambda x: -x["score"])]
    scores = np.array([answer["score"] for answer in answers])
    parts = np.exp(scores - scores.max())
    return [
        answer | {"score": significant(part)}
        for answer, part in zip(answers, (parts / parts.sum()).tolist(), strict=True)
    ]
