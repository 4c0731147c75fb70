"""Causal language modelling from text files to a model that generates text: the same on 1, 2 and 3 ranks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from harness import assert_same_training, train
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline


def perplexity(folder: Path, documents: list[str], limit: int) -> tuple[float, int]:
    """Computed with transformers' own loss, one document at a time, in windows that share one token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    loss, count = 0.0, 0
    for document in documents:
        ids = torch.tensor([tokenizer.eos_token_id, *tokenizer(document)["input_ids"], tokenizer.eos_token_id])
        while len(ids) > 1:
            window, ids = ids[:limit], ids[limit - 1 :]
            with torch.no_grad():
                loss += float(model(window[None], labels=window[None]).loss) * (len(window) - 1)
            count += len(window) - 1
    return math.exp(loss / count), count


def test_the_same_on_1_2_and_3_ranks_and_as_transformers_computes_it(clm: tuple, documents: Path, tmp_path) -> None:
    """Samples are packed on 2 and 3 ranks; on 1 rank they are padded and the head is computed at every token."""
    held_out = tmp_path / "held_out.txt"
    texts = [json.loads(line)["text"] for line in documents.read_text().splitlines()][:50]
    held_out.write_text("".join(f"{text} at last.\n" for text in texts))  # not among the training rows
    job = (*clm, "--dropout", 0, "--data.validation_files", held_out, "--batch.global_size", 32, "--batch.per_device")
    plain = ("--speed.packing", "false", "--speed.masked_only", "false")
    one = train(1, tmp_path / "one", *job, 32, *plain)
    three = train(3, tmp_path / "three", *job, 8)
    for run in (train(2, tmp_path / "two", *job, 5), three):
        assert_same_training(run, one, steps=20, rel=1e-5)
        for name in ("perplexity", "accuracy", "targets"):
            assert run.of_kind("eval")[-1][name] == pytest.approx(one.of_kind("eval")[-1][name], rel=1e-3), name
    assert "samples packed in rows" in three.stderr and "samples padded" in one.stderr
    assert all(line["flops_per_second"] > 0 for line in three.of_kind("train"))
    assert 0 < three.column("padding_share")[0] < 0.1 < one.column("padding_share")[0]

    folder, found = tmp_path / "three" / "model", three.of_kind("eval")[-1]
    theirs, targets = perplexity(folder, held_out.read_text().splitlines(), limit=24)
    assert (found["perplexity"], found["targets"]) == (pytest.approx(theirs, rel=1e-5), targets)
    generate = pipeline("text-generation", model=str(folder))
    assert generate.tokenizer.model_max_length == 1024 and generate.model.config.use_cache
    (answer,) = generate("baran", max_new_tokens=5, do_sample=False)
    assert answer["generated_text"].startswith("baran") and len(answer["generated_text"]) > len("baran")
    assert "pipeline_tag: text-generation" in (folder / "README.md").read_text()
