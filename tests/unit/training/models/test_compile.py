"""Compiled layers give the same loss and gradients, with few shapes for samples of any lengths."""

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
from warmup.training.data import order
from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import MicroBatch, sequence_targets, to_device, token_targets
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.models import varlen_attention
from warmup.training.models.compile import check_compile, compile_layers, eager
from warmup.training.models.input_layout import InputLayout
from warmup.training.models.partial_forward import install_partial_forward
from warmup.training.tasks.losses import cross_entropy_sum

WORDS, LENGTH, SAMPLES = 120, 32, 12
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Begin with nothing compiled, and restore PyTorch's settings afterwards."""
    torch._dynamo.reset()
    counters.clear()
    limits = {"recompile_limit": 8, "accumulated_recompile_limit": 256}
    dynamo = torch._dynamo.config.patch(limits | {"optimize_ddp": True})
    with dynamo, torch._inductor.config.patch(deterministic=False):
        yield
    torch._dynamo.reset()


def network(kind: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=WORDS, **sizes)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    return getattr(transformers, f"BertFor{kind}")(config)


HEADS = {"MaskedLM": "token", "SequenceClassification": "sequence"}


def ragged(kind: str, lengths_B: torch.Tensor) -> MicroBatch:
    mask_BT = torch.arange(int(lengths_B.max())) < lengths_B[:, None]
    ids_BT = torch.where(mask_BT, torch.randint(5, WORDS, mask_BT.shape), 0)
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT.long()}
    if kind == "SequenceClassification":
        return sequence_targets(inputs, torch.randint(0, 2, (len(lengths_B),)).numpy())
    ranks_BT = torch.where(mask_BT, torch.rand(mask_BT.shape), 2.0).argsort(1).argsort(1)
    return token_targets(inputs, (ranks_BT < 0.15 * lengths_B[:, None]).numpy(), ids_BT.numpy())


def compiled(
    kind: str, varlen: bool = False, checkpointed: bool = False
) -> tuple[transformers.PreTrainedModel, InputLayout]:
    net = network(kind)
    if checkpointed:
        net.gradient_checkpointing_enable({"use_reentrant": False})
    layout = install_partial_forward(net, HEADS[kind], True, True, varlen, LENGTH)
    names = [name for name, _ in net.named_parameters()]
    compile_layers(net, layout)
    assert [name for name, _ in net.named_parameters()] == names
    return net, layout


def backward(net: torch.nn.Module, batch: MicroBatch) -> tuple[float, dict[str, torch.Tensor]]:
    net.zero_grad()
    inputs, targets = to_device(batch, CPU)
    loss = cross_entropy_sum(net(**inputs).logits, targets)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in net.named_parameters()}


def assert_same(net: torch.nn.Module, layout: InputLayout, plain: torch.nn.Module, batch: MicroBatch) -> None:
    loss, gradients = backward(net, lay_out(batch, layout))
    expected, reference = backward(plain, lay_out(batch, InputLayout(head=layout.head)))
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, reference[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("varlen", [False, True], ids=["mask", "varlen"])
@pytest.mark.parametrize("kind", ["MaskedLM", "SequenceClassification"])
def test_ragged_samples_have_few_shapes(kind: str, varlen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """52 micro-batches from steps of 64 samples, dealt as in training. A shape has two graphs: one of all layers
    but the last, which may serve several shapes, and one of the last layer.
    """
    monkeypatch.setattr(varlen_attention, "kernel", varlen_attention.masked_attention)
    (net, layout), plain = compiled(kind, varlen), network(kind)
    shapes, token_counts = set(), set()
    with torch.compiler.set_stance("default", force_backend="eager"):  # without generating code
        steps = [np.random.default_rng(step).integers(4, LENGTH + 1, 64) for step in range(13)]
        every = [lengths[members] for lengths in steps for members in order.deal(lengths, 4)]
        for index, lengths in enumerate(every):
            batch = ragged(kind, torch.from_numpy(lengths))
            laid_out = lay_out(batch, layout)
            assert int((laid_out.targets != IGNORE_INDEX).sum()) == batch.target_count
            token_counts.add(batch.token_count)
            tensors = [value for value in laid_out.inputs.values() if isinstance(value, torch.Tensor)]
            shapes.add(tuple(tuple(tensor.shape) for tensor in tensors))
            if index % 10 == 0:
                assert_same(net, layout, plain, batch)
            else:
                backward(net, laid_out)
    assert len(token_counts) > 20
    assert len(shapes) <= 8, shapes
    assert len(shapes) < counters["stats"]["unique_graphs"] <= 2 * len(shapes)
    assert not counters["graph_break"]


def test_full_windows_have_one_shape_and_no_padding() -> None:
    net, layout = compiled("MaskedLM")
    for _ in range(3):
        batch = ragged("MaskedLM", torch.full((SAMPLES,), LENGTH))
        target_positions = torch.stack(
            [torch.randperm(LENGTH)[:5] for _ in range(SAMPLES)]
        )  # the same number in each sample
        predicted_BT = torch.zeros(SAMPLES, LENGTH, dtype=torch.bool).scatter(1, target_positions, True)
        batch = token_targets(batch.inputs, predicted_BT.numpy(), np.full((SAMPLES, LENGTH), 7))
        laid_out = lay_out(batch, layout)
        assert tuple(laid_out.inputs["input_ids"].shape) == (SAMPLES, LENGTH) and "segments" not in laid_out.inputs
        assert (
            tuple(laid_out.inputs["read_positions"].shape) == (SAMPLES, 8) and laid_out.targets.numel() == 8 * SAMPLES
        )


@pytest.mark.slow
def test_the_generated_code_computes_the_same() -> None:
    (net, layout), plain = compiled("MaskedLM"), network("MaskedLM")
    batch = ragged("MaskedLM", torch.randint(4, LENGTH + 1, (SAMPLES,)))
    assert_same(net, layout, plain, batch)
    assert counters["stats"]["unique_graphs"] == 2
    assert counters["inductor"] and counters["aot_autograd"]["ok"] == 2
    # Passes with other shapes are not compiled: evaluation, and those before the first step.
    with eager(layout), torch.no_grad():
        net(**batch.inputs)
    assert counters["stats"]["unique_graphs"] == 2


def test_gradient_checkpointing() -> None:
    (net, layout), plain = compiled("MaskedLM", checkpointed=True), network("MaskedLM")
    batch = ragged("MaskedLM", torch.randint(4, LENGTH + 1, (SAMPLES,)))
    with torch.compiler.set_stance("default", force_backend="eager"):
        assert_same(net, layout, plain, batch)
    assert counters["stats"]["unique_graphs"] == 2


def test_the_variable_length_kernel_is_checked_in_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen_attention, "kernel", varlen_attention.masked_attention)
    with torch.compiler.set_stance("default", force_backend="eager"):
        assert varlen_attention._why_inaccurate(CPU, 2, 64, compiled=True) is None
    assert counters["stats"]["unique_graphs"] > 0


def accelerator(engine: str) -> SimpleNamespace:
    return SimpleNamespace(distributed_type=SimpleNamespace(value=engine), device=CPU)


def test_engines_and_models_that_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("DEEPSPEED", "FSDP"):
        with pytest.raises(UserError, match=rf"^speed.compile: .*{engine}; leave one of them out$"):
            check_compile(accelerator(engine))
    distil = transformers.DistilBertForMaskedLM(
        transformers.DistilBertConfig(vocab_size=WORDS, dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    )
    layout = install_partial_forward(distil, "token", True, True, False, LENGTH)
    with pytest.raises(UserError, match=r"^speed.compile: is for BERT, RoBERTa and ELECTRA, not for distilbert$"):
        compile_layers(distil, layout)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    said = r"^speed.compile: torch.compile does not work here: [^\n]+; install a C\+\+ compiler"
    with pytest.raises(UserError, match=said):
        check_compile(accelerator("NO"))


def test_layers_are_not_split_at_the_buckets_of_gradients() -> None:
    """As PyTorch would do under DistributedDataParallel."""
    layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    model = SimpleNamespace(base_model=SimpleNamespace(encoder=SimpleNamespace(layer=layers)))
    compile_layers(model, InputLayout(rows=True))
    assert torch._dynamo.config.optimize_ddp is False
