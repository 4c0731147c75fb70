"""Models of other families on real ranks: those with weights that get no gradient, on every engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import WORDS
from harness import assert_same_training, train
from model_families import small_model
from safetensors.torch import load_file
from sharding_engines import zero
from transformers import AutoModelForMaskedLM, BertTokenizerFast


def save_model(model_type: str, folder: Path) -> None:
    """A small model with random weights, and a tokenizer."""
    small_model(AutoModelForMaskedLM, model_type).save_pretrained(folder)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    BertTokenizerFast(vocab={word: index for index, word in enumerate(vocabulary)}).save_pretrained(folder)


@pytest.mark.parametrize(
    ("model_type", "unused"),
    [("squeezebert", "transformer.pooler.dense.weight and 1 more")]
    + [("longformer", "longformer.encoder.layer.0.attention.self.query_global.weight and 11 more")],
)
def test_weights_that_get_no_gradient_are_frozen_by_name(
    model_type: str, unused: str, mlm: tuple[str, ...], tmp_path: Path
) -> None:
    """DistributedDataParallel would wait for their gradients; on one rank nothing would be noticed."""
    save_model(model_type, tmp_path / "model")
    job = (*mlm, "--model", tmp_path / "model", "--batch.global_size", 32, "--batch.per_device", 16, "--dropout", 0)
    job = (*job, "--recipe.duration", "5 steps", "--recipe.warmup", "1 steps")
    one = train(1, tmp_path / "one", *job)
    assert one.codes == [0], one.status
    assert f"{unused}, which get no gradient: the output does not depend on them" in one.stderr
    assert_same_training(train(2, tmp_path / "two", *job), one, steps=5, rel=1e-5)
    if model_type == "squeezebert":
        pytest.importorskip("deepspeed")
        assert_same_training(train(2, tmp_path / "zero", *job, env=zero(2)), one, steps=5, rel=1e-4)
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", one.folder / "model"))
    name = unused.split(" and ")[0]
    assert before[name].equal(after[name])


@pytest.mark.parametrize("model_type", ["modernbert", "roformer"])  # packed with two masks; dealt by length
def test_other_families_train_alike_on_any_ranks_with_dropout(
    model_type: str, mlm: tuple[str, ...], tmp_path: Path
) -> None:
    save_model(model_type, tmp_path / "model")
    job = (*mlm, "--model", tmp_path / "model", "--batch.per_device", 16, "--dropout", 0.1)
    job = (*job, "--recipe.duration", "10 steps", "--recipe.warmup", "4 steps")
    one = train(1, tmp_path / "one", *job, "--batch.accumulation", 2)
    assert one.codes == [0], one.status
    assert_same_training(train(2, tmp_path / "two", *job), one, steps=10, rel=1e-5)
