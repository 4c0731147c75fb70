"""The mean loss of each sample: over all of its targets, those that are predicted with certainty too."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made_samples import CLS, SEP, VOCABULARY, objective, samples

from warmup.training.data.samples import IGNORE_INDEX, Samples
from warmup.training.models.input_layout import InputLayout
from warmup.training.run.evaluate import Evaluator
from warmup.training.tasks import Objective

CERTAIN = 7  # the token at which the first logit is far above the others


def losses_of(rows: Samples, objective: Objective, outputs: int) -> list[float]:
    """Of an evaluation of a model that gives equal logits at every other token."""
    cpu: Any = SimpleNamespace(device=torch.device("cpu"), process_index=0, num_processes=1, is_main_process=True)
    logits_VK = torch.zeros(VOCABULARY, outputs)
    logits_VK[CERTAIN, 0] = 1000

    class Model(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, **others: torch.Tensor) -> Any:
            return SimpleNamespace(logits=logits_VK[input_ids])

    found = Evaluator(Model(), objective, InputLayout(head="token"), 2, cpu).evaluate(rows)
    assert found is not None
    return found.losses_S.tolist()


def test_of_a_target_without_loss(tokenizer: Any) -> None:
    labels = [[IGNORE_INDEX, 0, 0, IGNORE_INDEX], [IGNORE_INDEX, 1, IGNORE_INDEX, IGNORE_INDEX]]
    rows = samples([[CLS, CERTAIN, 8, SEP], [CLS, 9, 10, SEP]], token_labels=labels)
    of_task = objective("token-classification", tokenizer, ("NOUN", "VERB"))
    assert losses_of(rows, of_task, 2) == pytest.approx([math.log(2) / 2, math.log(2)])


def test_of_an_answer_that_is_one_token(tokenizer: Any) -> None:
    """Start and end are two targets, also where they are one position. The softmax is over [CLS] and two tokens."""
    columns = {"second_start": [2, 2], "context_length": [2, 2], "answer_start": [2, 2], "answer_end": [2, 3]}
    columns |= {"metrics_context": ["a b"] * 2, "metrics_answers": [["a"]] * 2, "metrics_offsets": [[0, 1, 2, 3]] * 2}
    rows = samples([[CLS, 8, 9, 10, SEP]] * 2, **columns, is_first=[True] * 2)
    assert losses_of(rows, objective("question-answering", tokenizer), 2) == pytest.approx([math.log(3)] * 2)
