"""Question answering as its papers define it, in plain loops: windows by the tokenizer itself, every pair of tokens
tried, and answers scored by the rules of SQuAD (Rajpurkar et al. 2016, section 6.1; 2018, section 4.1).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

ARTICLES = ("a", "an", "the")
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def questions(file: Path) -> list[dict[str, Any]]:
    """Those of a file in SQuAD's format, with their contexts."""
    articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    return [{**question, "context": paragraph["context"]} for paragraph in paragraphs for question in paragraph["qas"]]


def words(answer: str) -> list[str]:
    """In lower case, without punctuation, and then without articles."""
    kept = "".join(character for character in answer.lower() if character not in PUNCTUATION)
    return [word for word in kept.split() if word not in ARTICLES]


def exact_match(answer: str, gold: list[str]) -> float:
    return max(float(words(answer) == words(text)) for text in gold or [""])


def f1(answer: str, gold: list[str]) -> float:
    return max(_f1(words(answer), words(text)) for text in gold or [""])


def _f1(found: list[str], right: list[str]) -> float:
    if not found or not right:
        return float(found == right)
    left, common = list(right), 0
    for word in found:
        if word in left:
            left.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(found), common / len(right)
    return 2 * precision * recall / (precision + recall)


@torch.no_grad()
def window_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: dict[str, Any], max_length: int, stride: int
) -> Iterator[dict[str, Any]]:
    """For each window of a question, alone and padded by nobody: scores of its positions, and characters of its tokens,
    None for those that are none of the context.
    """
    encoded = tokenizer(
        question["question"],
        question["context"],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    for number, ids in enumerate(encoded["input_ids"]):
        types = encoded["token_type_ids"][number]
        output = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types]))
        texts = encoded.sequence_ids(number)
        offsets = [
            place if text == 1 else None for place, text in zip(encoded["offset_mapping"][number], texts, strict=True)
        ]
        starts, ends = output.start_logits[0].double().tolist(), output.end_logits[0].double().tolist()
        yield {"starts": starts, "ends": ends, "offsets": offsets}


def window_loss(window: dict[str, Any], answers: list[dict[str, Any]]) -> float:
    """Cross entropy of the start and of the end, over [CLS] and the context."""
    context = [position for position, place in enumerate(window["offsets"]) if place]
    start, end = 0, 0
    if answers:
        first, after = answers[0]["answer_start"], answers[0]["answer_start"] + len(answers[0]["text"])
        covering = [p for p in context if window["offsets"][p][1] > first and window["offsets"][p][0] < after]
        whole = window["offsets"][context[0]][0] <= first and window["offsets"][context[-1]][1] >= after
        start, end = (covering[0], covering[-1]) if whole else (0, 0)
    total = 0.0
    for scores, right in ((window["starts"], start), (window["ends"], end)):
        total += math.log(sum(math.exp(scores[position]) for position in [0, *context])) - scores[right]
    return total


def best_answer(windows: list[dict[str, Any]], context: str, max_tokens: int) -> tuple[str, float, float]:
    """(text, its score, the lowest score of no answer) over all windows."""
    found = [
        (
            window["starts"][first] + window["ends"][last],
            context[window["offsets"][first][0] : window["offsets"][last][1]],
        )
        for window in windows
        for first, first_place in enumerate(window["offsets"])
        for last, last_place in enumerate(window["offsets"])
        if first_place and last_place and 0 <= last - first < max_tokens
    ]
    score, text = max(found, key=lambda pair: pair[0])
    return text, score, min(window["starts"][0] + window["ends"][0] for window in windows)


def evaluate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path, max_length: int, stride: int
) -> dict[str, float]:
    """Loss, exact match and F1, where no answer is given at the threshold with the best F1."""
    losses, found = [], []
    for question in questions(file):
        windows = list(window_scores(model, tokenizer, question, max_length, stride))
        losses += [window_loss(window, question["answers"]) for window in windows]
        text, score, null = best_answer(windows, question["context"], 30)
        gold = [answer["text"] for answer in question["answers"]]
        found.append((null - score, text, gold))
    best = (-1.0, 0.0)
    for threshold in [-math.inf, *sorted(doubt for doubt, _, _ in found)]:
        given = [("" if doubt > threshold else text, gold) for doubt, text, gold in found]
        means = [sum(score(*pair) for pair in given) / len(given) for score in (f1, exact_match)]
        best = max(best, tuple(means), key=lambda pair: pair[0])  # the lowest threshold of those that are as good
    return {"loss": sum(losses) / (2 * len(losses)), "f1": best[0], "exact_match": best[1]}
