"""Compiled layers: the same loss and gradients, of few shapes, whatever the samples' lengths."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch._dynamo
import torch._inductor.config
import transformers
from torch._dynamo.utils import counters

from warmup.errors import UserError
from warmup.training import tasks
from warmup.training.data import order
from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import MicroBatch, to_device
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.models import varlen_attention
from warmup.training.models.compile import check_compile, compile_layers, eager
from warmup.training.models.input_layout import InputLayout
from warmup.training.models.partial_forward import install_partial_forward

WORDS, LENGTH, SAMPLES = 120, 32, 12
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing compiled before, and the settings of PyTorch as they were after."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(), torch._inductor.config.patch():
        yield
    torch._dynamo.reset()


def network(kind: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=WORDS, **sizes)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    return getattr(transformers, f"BertFor{kind}")(config)


def ragged(kind: str, lengths_B: torch.Tensor) -> MicroBatch:
    mask_BT = torch.arange(int(lengths_B.max())) < lengths_B[:, None]
    ids_BT = torch.where(mask_BT, torch.randint(5, WORDS, mask_BT.shape), 0)
    targets = torch.randint(0, 2, (len(lengths_B),))
    if kind == "MaskedLM":
        ranks_BT = torch.where(mask_BT, torch.rand(mask_BT.shape), 2.0).argsort(1).argsort(1)
        targets = torch.where(ranks_BT < 0.15 * lengths_B[:, None], ids_BT, IGNORE_INDEX)
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT.long()}
    return MicroBatch(inputs, targets, int((targets != IGNORE_INDEX).sum()), int(lengths_B.sum()))


def compiled(
    kind: str, varlen: bool = False, checkpointed: bool = False
) -> tuple[transformers.PreTrainedModel, InputLayout]:
    net = network(kind)
    if checkpointed:
        net.gradient_checkpointing_enable({"use_reentrant": False})
    reading = install_partial_forward(net, kind == "MaskedLM", True, True, varlen, LENGTH)
    names = [name for name, _ in net.named_parameters()]
    compile_layers(net, reading)
    assert [name for name, _ in net.named_parameters()] == names
    return net, reading


def backward(net: torch.nn.Module, batch: MicroBatch) -> tuple[float, dict[str, torch.Tensor]]:
    net.zero_grad()
    inputs, targets = to_device(batch, CPU)
    loss = tasks.loss_sum(net(**inputs).logits, targets)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in net.named_parameters()}


def assert_same(net: torch.nn.Module, laid: MicroBatch, plain: torch.nn.Module, batch: MicroBatch):
    loss, gradients = backward(net, laid)
    expected, reference = backward(plain, batch)
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, reference[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("varlen", [False, True], ids=["mask", "varlen"])
@pytest.mark.parametrize("kind", ["MaskedLM", "SequenceClassification"])
def test_ragged_samples_have_few_shapes(kind: str, varlen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """52 micro-batches, of steps of 64 that are dealt as in training. Of a shape there are two graphs: that of all
    layers but the last, which may do for several shapes, and that of the last.
    """
    monkeypatch.setattr(varlen_attention, "kernel", varlen_attention.masked_attention)
    (net, reading), plain = compiled(kind, varlen), network(kind)
    shapes, given = set(), set()
    with torch.compiler.set_stance("default", force_backend="eager"):  # without generating code
        steps = [np.random.default_rng(step).integers(4, LENGTH + 1, 64) for step in range(13)]
        every = [lengths[slot] for lengths in steps for slot in order.deal(lengths, 4)]
        for number, lengths in enumerate(every):
            batch = ragged(kind, torch.from_numpy(lengths))
            laid = lay_out(batch, reading)
            assert int((laid.targets != IGNORE_INDEX).sum()) == batch.target_count
            given.add(batch.token_count)
            shapes.add(tuple(tuple(value.shape) for value in laid.inputs.values() if isinstance(value, torch.Tensor)))
            if number % 10 == 0:
                assert_same(net, laid, plain, batch)
            else:
                backward(net, laid)
    assert len(given) > 20
    assert len(shapes) <= 8, shapes
    assert len(shapes) < counters["stats"]["unique_graphs"] <= 2 * len(shapes)
    assert not counters["graph_break"]


def test_full_windows_have_one_shape_and_no_padding() -> None:
    net, reading = compiled("MaskedLM")
    for _ in range(3):
        batch = ragged("MaskedLM", torch.full((SAMPLES,), LENGTH))
        asked = torch.stack([torch.randperm(LENGTH)[:5] for _ in range(SAMPLES)])  # a fixed part of each
        targets = torch.full((SAMPLES, LENGTH), IGNORE_INDEX).scatter(1, asked, 7)
        laid = lay_out(MicroBatch(batch.inputs, targets, 5 * SAMPLES, LENGTH * SAMPLES), reading)
        assert tuple(laid.inputs["input_ids"].shape) == (SAMPLES, LENGTH) and "segments" not in laid.inputs
        assert tuple(laid.inputs["read"].shape) == (SAMPLES, 8) and laid.targets.numel() == 8 * SAMPLES


@pytest.mark.slow
def test_the_code_that_is_generated_computes_the_same() -> None:
    (net, reading), plain = compiled("MaskedLM"), network("MaskedLM")
    batch = ragged("MaskedLM", torch.randint(4, LENGTH + 1, (SAMPLES,)))
    assert_same(net, lay_out(batch, reading), plain, batch)
    assert counters["stats"]["unique_graphs"] == 2
    assert counters["inductor"] and counters["aot_autograd"]["ok"] == 2
    # What has other shapes is not compiled: evaluation, and the passes before the first step.
    with eager(reading), torch.no_grad():
        net(**batch.inputs)
    assert counters["stats"]["unique_graphs"] == 2


def test_layers_that_are_computed_again_for_their_gradient() -> None:
    (net, reading), plain = compiled("MaskedLM", checkpointed=True), network("MaskedLM")
    batch = ragged("MaskedLM", torch.randint(4, LENGTH + 1, (SAMPLES,)))
    with torch.compiler.set_stance("default", force_backend="eager"):
        assert_same(net, lay_out(batch, reading), plain, batch)
    assert counters["stats"]["unique_graphs"] == 2


def test_the_kernel_of_variable_length_is_tried_as_it_will_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen_attention, "kernel", varlen_attention.masked_attention)
    with torch.compiler.set_stance("default", force_backend="eager"):
        assert varlen_attention._why_wrong(CPU, 2, 64, compiled=True) is None
    assert counters["stats"]["unique_graphs"] > 0


def accelerator(engine: str) -> SimpleNamespace:
    return SimpleNamespace(distributed_type=SimpleNamespace(value=engine), device=CPU)


def test_what_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("DEEPSPEED", "FSDP"):
        with pytest.raises(UserError, match=rf"^speed.compile: .*{engine}; leave one of them out$"):
            check_compile(accelerator(engine))
    distil = transformers.DistilBertForMaskedLM(
        transformers.DistilBertConfig(vocab_size=WORDS, dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    )
    reading = install_partial_forward(distil, True, True, True, False, LENGTH)
    with pytest.raises(UserError, match=r"^speed.compile: is for BERT, RoBERTa and ELECTRA, not for distilbert$"):
        compile_layers(distil, reading)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    said = r"^speed.compile: torch.compile does not work here: [^\n]+; install a C\+\+ compiler"
    with pytest.raises(UserError, match=said):
        check_compile(accelerator("NO"))
