"""Heads that transformers calls in ways of their own are called like those of classifiers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from equal_passes import Products
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from warmup.config import Config
from warmup.training.data.batching.packing import block_diagonal
from warmup.training.models import heads
from warmup.training.models.heads import align_output_rows, set_output_biases
from warmup.training.tasks import create_task

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
IDS = torch.arange(1, 25).view(4, 6)
MASK = torch.arange(6) < torch.tensor([[6], [4], [3], [6]])


def make(auto_class: type, model_type: str) -> PreTrainedModel:
    torch.manual_seed(1)
    return auto_class.from_config(AutoConfig.for_model(model_type, **SMALL)).eval()


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "deberta-v2"])
def test_a_choice_scores_as_in_its_question(model_type: str) -> None:
    model = make(AutoModelForMultipleChoice, model_type)
    as_published = model(input_ids=IDS.view(2, 2, 6), attention_mask=MASK.view(2, 2, 6).long()).logits
    create_task(Config(task="multiple-choice")).adapt_model(model)
    again = model(input_ids=IDS.view(2, 2, 6), attention_mask=MASK.view(2, 2, 6).long()).logits
    flat = model(input_ids=IDS, attention_mask=MASK.long()).logits
    assert torch.equal(as_published, again) and flat.shape == (4, 1)
    torch.testing.assert_close(flat.view(2, 2), as_published)


def test_a_mask_of_four_dimensions_reaches_the_layers() -> None:
    """Two choices in one row, whose mask keeps them apart."""
    model = make(AutoModelForMultipleChoice, "bert")
    create_task(Config(task="multiple-choice")).adapt_model(model)
    segments = torch.tensor([[1, 1, 1, 2, 2, 2]])
    ids, positions = IDS[:1], torch.tensor([[0, 1, 2, 0, 1, 2]])
    packed = model(input_ids=ids, attention_mask=block_diagonal(segments), position_ids=positions).logits
    alone = model(input_ids=ids[:, :3], attention_mask=torch.ones(1, 3).long()).logits
    torch.testing.assert_close(packed, alone)


@pytest.mark.parametrize(("model_type", "name"), [
    ("bert", "classifier"), ("roberta", "classifier.out_proj"), ("distilbert", "classifier"),
])  # fmt: skip
def test_biases_of_the_outputs(model_type: str, name: str) -> None:
    torch.manual_seed(1)
    config = AutoConfig.for_model(model_type, num_labels=3, **SMALL)
    model = AutoModelForSequenceClassification.from_config(config)
    before = model.get_submodule(name).bias.tolist()
    set_output_biases(model, [f"{name}.weight"], [0.5, -1.0, 2.0])  # a loaded bias stays
    assert model.get_submodule(name).bias.tolist() == before
    for new_weights, biases in (([f"{name}.bias"], [0.5, -1.0, 2.0]), (["all"], [0.0, 1.5, 3.0])):
        set_output_biases(model, new_weights, biases)
        assert model.get_submodule(name).bias.tolist() == biases


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_scores_of_start_and_end_are_logits(model_type: str) -> None:
    model = make(AutoModelForQuestionAnswering, model_type)
    create_task(Config(task="question-answering")).adapt_model(model)
    output = model(input_ids=IDS, attention_mask=MASK.long())
    assert output.logits.shape == (4, 6, 2)
    assert torch.equal(output.logits[..., 0], output.start_logits)
    assert torch.equal(output.logits[..., 1], output.end_logits)


def train_steps(model: PreTrainedModel, steps: int = 6) -> list[float]:
    """Losses of AdamW with weight decay."""
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(input_ids=IDS, attention_mask=MASK.long()).logits.flatten(0, 1), IDS.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("auto_class", "model_type"), [
    (AutoModelForMaskedLM, "bert"), (AutoModelForMaskedLM, "roberta"), (AutoModelForMaskedLM, "distilbert"),
    (AutoModelForCausalLM, "gpt2"), (AutoModelForCausalLM, "llama"),
])  # fmt: skip
def test_a_vocabulary_of_64_in_products_alone(auto_class: type, model_type: str, tmp_path: Path) -> None:
    """Training is the same with the rows of zeros, which neither the model nor what is saved of it has."""
    plain, aligned = make(auto_class, model_type), make(auto_class, model_type)
    heads._multiply_aligned(aligned.get_output_embeddings())
    with Products() as products:
        losses = train_steps(aligned)
    assert 64 in products.sizes and 50 not in products.sizes
    assert losses == pytest.approx(train_steps(plain), rel=1e-6) and losses[-1] < losses[0]
    for (name, ours), (_, theirs) in zip(aligned.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, msg=name)
    aligned.save_pretrained(tmp_path)
    as_published = auto_class.from_pretrained(tmp_path).eval()
    assert as_published.config.vocab_size == 50
    torch.testing.assert_close(as_published(input_ids=IDS).logits, aligned(input_ids=IDS).logits)


def test_the_products_type_is_autocasts() -> None:
    plain, aligned = make(AutoModelForMaskedLM, "bert"), make(AutoModelForMaskedLM, "bert")
    heads._multiply_aligned(aligned.get_output_embeddings())
    outputs = []
    for model in (plain, aligned):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=IDS, attention_mask=MASK.long()).logits
        F.cross_entropy(logits.float().flatten(0, 1), IDS.flatten()).backward()
        outputs.append((logits, model.get_output_embeddings().weight.grad))
    (logits, gradient), (aligned_logits, aligned_gradient) = outputs
    assert aligned_logits.dtype == logits.dtype == torch.bfloat16 and aligned_gradient.dtype == torch.float32
    torch.testing.assert_close(aligned_logits, logits, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(aligned_gradient, gradient, rtol=2e-2, atol=1e-3)


def test_only_rows_that_a_gpu_reads_slowly_are_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_aligned(vocabulary: int, device: str) -> bool:
        model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", **SMALL | {"vocab_size": vocabulary}))
        with monkeypatch.context() as patch:
            patch.setattr(PreTrainedModel, "device", torch.device(device))
            align_output_rows(model)
        return "forward" in vars(model.get_output_embeddings())

    assert [is_aligned(*case) for case in ((50, "cuda"), (128, "cuda"), (50, "cpu"))] == [True, False, False]
    align_output_rows(make(AutoModelForSequenceClassification, "bert"))  # has no output layer of a vocabulary
