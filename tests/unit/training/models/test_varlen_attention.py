"""Attention of variable length within packed samples. The kernel needs a GPU; masked attention stands in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import make_tokenizer
from transformers import AutoModelForMaskedLM

from warmup.errors import UserError
from warmup.training.models import build as model_build
from warmup.training.models import varlen_attention
from warmup.training.models.input_layout import choose_varlen, describe_attention
from warmup.training.models.partial_forward import install_partial_forward
from warmup.training.models.varlen_attention import SequenceBounds

CPU = torch.device("cpu")


def test_the_operator_takes_what_it_is_given_and_has_a_gradient() -> None:
    """Only the shapes are checked, as there is no GPU: fewer queries than keys, bounds, dropout."""
    query, key, value = (
        torch.randn(length, 2, 64, dtype=torch.bfloat16, device="meta", requires_grad=True) for length in (10, 30, 30)
    )
    cu_seqlens = torch.empty(5, dtype=torch.int32, device="meta")
    out = varlen_attention.kernel(query, key, value, SequenceBounds(cu_seqlens, cu_seqlens, 9), 0.1)
    out.sum().backward()
    assert out.shape == query.shape and out.dtype == torch.bfloat16
    assert query.grad.shape == query.shape and key.grad.shape == value.grad.shape == key.shape


def test_the_operator_has_the_arguments_that_it_is_called_with() -> None:
    """It is private to PyTorch: another version may have others, or name them otherwise."""
    arguments = torch.ops.aten._flash_attention_forward.default._schema.arguments
    positional = [(argument.name, str(argument.type)) for argument in arguments if not argument.kwarg_only]
    assert positional == [
        ("query", "Tensor"), ("key", "Tensor"), ("value", "Tensor"), ("cum_seq_q", "Optional[Tensor]"),
        ("cum_seq_k", "Optional[Tensor]"), ("max_q", "int"), ("max_k", "int"), ("dropout_p", "float"),
        ("is_causal", "bool"), ("return_debug_mask", "bool"),
    ]  # fmt: skip
    assert all(argument.has_default_value() for argument in arguments if argument.kwarg_only)


def test_masked_attention_is_attention_sample_by_sample() -> None:
    torch.manual_seed(0)
    query_lengths, key_lengths = (2, 1, 3), (5, 1, 9)
    cu_seqlens = varlen_attention._cu_seqlens
    query, key, value = (torch.randn(length, 2, 8) for length in (6, 15, 15))
    bounds = SequenceBounds(cu_seqlens(query_lengths), cu_seqlens(key_lengths), 9)
    output = varlen_attention.masked_attention(query, key, value, bounds, 0.0)
    parts = zip(query.split(query_lengths), key.split(key_lengths), value.split(key_lengths), strict=True)
    expected = [F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in part)).transpose(0, 1) for part in parts]
    torch.testing.assert_close(output, torch.cat(expected))


def attends_across_samples(query, key, value, bounds, dropout):
    """A broken kernel."""
    one_sample = (torch.tensor([0, len(x)], dtype=torch.int32) for x in (query, key))
    return varlen_attention.masked_attention(query, key, value, SequenceBounds(*one_sample, bounds.max_seqlen), dropout)


def ignores_dropout(*args):
    """Another broken kernel."""
    return varlen_attention.masked_attention(*args[:-1], 0.0)


def test_the_kernel_is_checked_before_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for kernel, wrong in (
        (varlen_attention.masked_attention, None),
        (attends_across_samples, "numbers are not those"),
        (ignores_dropout, "dropout"),
    ):
        monkeypatch.setattr(varlen_attention, "kernel", kernel)
        reason = varlen_attention._why_inaccurate(CPU, 2, 64, False)
        assert reason is None if wrong is None else wrong in reason


def test_why_it_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert varlen_attention.why_unsupported(CPU, "bf16", 2, 64, False) == "there is no kernel for cpu"
    gpu = torch.device("cuda", 0)
    assert "precision 'no'" in varlen_attention.why_unsupported(gpu, "no", 2, 64, False)

    def fail(*args: object) -> None:
        raise RuntimeError("not built in\nC++ stack")

    for capability, size, why in (
        ((7, 5), 64, "the GPU is older than Ampere"),
        ((9, 0), 60, "heads of 60 are not a multiple of 8 up to 256"),
        ((9, 0), 64, "the kernel fails: not built in"),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        monkeypatch.setattr(varlen_attention, "_why_inaccurate", fail)
        assert varlen_attention.why_unsupported(gpu, "bf16", 2, size, False) == why
    monkeypatch.setattr(varlen_attention, "_why_inaccurate", lambda *args: None)
    assert varlen_attention.why_unsupported(gpu, "bf16", 2, 64, False) is None


def tiny() -> torch.nn.Module:
    spec = model_build.ModelSpec("tiny", AutoModelForMaskedLM, max_length=64, seed=0)
    return model_build.build_model(spec, make_tokenizer())[0]


def test_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny()
    assert not choose_varlen(net, True, False, "auto", CPU, "bf16")
    with pytest.raises(UserError, match=r"^speed.attention: varlen cannot be: there is no kernel for cpu; use auto$"):
        choose_varlen(net, True, False, "varlen", CPU, "bf16")
    monkeypatch.setattr(varlen_attention, "why_unsupported", lambda *args: None)
    assert [choose_varlen(net, True, False, requested, CPU, "bf16") for requested in ("auto", "varlen", "mask")] == [
        True, True, False
    ]  # fmt: skip
    with pytest.raises(UserError, match="samples are not packed in rows"):
        choose_varlen(net, False, False, "varlen", CPU, "bf16")


def test_without_cu_seqlens_the_model_is_transformers_own(tmp_path) -> None:
    net = tiny().eval()
    ids, mask = torch.randint(5, 200, (2, 12)), torch.ones(2, 12, dtype=torch.long)
    mask[1, 7:] = 0
    before = net(ids, attention_mask=mask).logits
    layout = install_partial_forward(net, "token", packed=True, masked_only=True, varlen=True)
    assert "FlashAttention" in describe_attention(net, layout)
    assert torch.equal(net(ids, attention_mask=mask).logits, before)
    net.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa" and "varlen" not in (tmp_path / "config.json").read_text()


def test_no_selection_is_in_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backward pass of tensor[0] fills a tensor of zeros: of the whole input, three times in each layer."""
    monkeypatch.setattr(varlen_attention, "kernel", lambda query, key, value, *_: query + (key + value).mean())
    net = tiny().train()
    install_partial_forward(net, "token", packed=True, masked_only=True, varlen=True)
    logits = net(
        input_ids=torch.randint(5, 200, (1, 12)), cu_seqlens=torch.tensor([0, 5, 12], dtype=torch.int32), max_seqlen=7,
        read_positions=torch.tensor([[1, 7]]), read_cu_seqlens=torch.tensor([0, 1, 2], dtype=torch.int32),
        gather_index=torch.tensor([0, 1]),
    ).logits  # fmt: skip
    nodes, waiting = {}, [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes[node] = node.name()
            waiting += [function for function, _ in node.next_functions]
    names = list(nodes.values())
    assert names.count("SqueezeBackward1") == 3 * len(net.bert.encoder.layer)
    assert "SelectBackward0" not in names
